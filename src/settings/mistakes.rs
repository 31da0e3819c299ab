//! What is wrong with the settings, collected while they are read.

use super::Problem;
use std::collections::{BTreeMap, BTreeSet};

/// Where a key was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the file, from 1.
    Line(usize),
    /// In the environment, by this variable.
    Variable(String),
}

/// Problems, and what is known of the keys they are about.
#[derive(Default)]
pub struct Mistakes {
    problems: Vec<Problem>,
    places: BTreeMap<String, Place>,
    told: BTreeSet<String>,
    unread: BTreeSet<String>,
}

/// A text for an error, shortened; an address with a password in it, or a key, is not shown wherever it was put.
pub fn shown(text: &str) -> String {
    if text.contains('@') || text.contains("-----BEGIN") {
        return "a text".into();
    }
    if text.chars().count() <= 60 {
        return format!("{text:?}");
    }
    format!("{:?}", text.chars().take(60).chain(['…']).collect::<String>())
}

impl Mistakes {
    /// Notes a problem of a key whose value was read, at the place of that key or of the section that should have it.
    pub fn tell(&mut self, key: &str, reason: impl Into<String>) {
        if !self.is_unread(key) {
            self.told.insert(key.to_owned());
            let place = self.place(key);
            self.tell_at(place, key, reason);
        }
    }

    /// Notes a problem at a place.
    pub fn tell_at(&mut self, place: Option<Place>, key: &str, reason: impl Into<String>) {
        let (key, line) = match place {
            Some(Place::Line(line)) => (key.to_owned(), Some(line)),
            Some(Place::Variable(name)) => (name, None),
            None => (key.to_owned(), None),
        };
        self.problems.push(Problem { key, line, reason: reason.into() });
    }

    /// Remembers that a key, or all of a section, stands in the file but could not be read: that was told, and nothing
    /// that follows from it is.
    pub fn unread(&mut self, key: &str) {
        self.unread.insert(key.to_owned());
    }

    pub fn is_unread(&self, key: &str) -> bool {
        self.unread.contains(key)
            || key.match_indices('.').any(|(at, _)| self.unread.contains(&key[..at]))
            || self.unread.contains("")
    }

    /// Whether anything in this section could not be read.
    pub fn is_partly_unread(&self, section: &str) -> bool {
        let inside =
            |key: &String| key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.is_unread(section) || self.unread.iter().any(inside)
    }

    /// Whether something was told of this key already.
    pub fn is_told(&self, key: &str) -> bool {
        self.told.contains(key) || self.is_unread(key)
    }

    pub fn put_places(&mut self, places: BTreeMap<String, Place>) {
        self.places = places;
    }

    /// Where the key stands, else where its section begins.
    pub fn place(&self, key: &str) -> Option<Place> {
        let mut section = key;
        let mut found = self.places.get(key);
        while found.is_none_or(|place| section != key && matches!(place, Place::Variable(_))) {
            section = section.rsplit_once('.')?.0;
            found = self.places.get(section);
        }
        found.cloned()
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// All problems: by line in the file, then those without one.
    pub fn into_problems(mut self) -> Vec<Problem> {
        let variable = |problem: &Problem| problem.line.is_none().then(|| problem.key.clone());
        self.problems.sort_by_key(|problem| (problem.line.is_none(), problem.line, variable(problem)));
        self.problems
    }
}
