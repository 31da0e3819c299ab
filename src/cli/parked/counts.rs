//! How many there are of each kind. Pure.

use std::collections::BTreeMap;

/// A kind can be a routing key, of which publishers make as many as they like: more than a person reads are not kept apart.
const KINDS: usize = 50;

#[derive(Debug, Default)]
pub struct Counts {
    kinds: BTreeMap<String, u64>,
    others: u64,
}

impl Counts {
    pub fn add(&mut self, kind: String) {
        let kinds = self.kinds.len();
        match self.kinds.get_mut(&kind) {
            Some(count) => *count += 1,
            None if kinds < KINDS => drop(self.kinds.insert(kind, 1)),
            None => self.others += 1,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    pub fn total(&self) -> u64 {
        self.kinds.values().sum::<u64>() + self.others
    }

    /// Each kind, in the order of the alphabet, and at last those that are not kept apart.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let others = (self.others > 0).then_some(("of further kinds", self.others));
        self.kinds.iter().map(|(kind, count)| (kind.as_str(), *count)).chain(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_kinds_than_a_person_reads_the_rest_is_one() {
        let mut counts = Counts::default();
        for number in 0..3 * KINDS {
            counts.add(format!("kind {:03}", number % (KINDS + 10)));
        }
        let shown: Vec<_> = counts.iter().collect();
        assert_eq!((shown.len(), counts.total()), (KINDS + 1, 3 * KINDS as u64));
        assert_eq!((shown[0], shown[KINDS]), (("kind 000", 3), ("of further kinds", 20)));
    }
}
