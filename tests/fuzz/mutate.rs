//! Good texts with something done to them: what a fuzzer finds most in.

use proptest::{prelude::*, sample::Index};

/// One thing that is done to a text.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    /// A word from the dictionary takes the place of so many bytes.
    Word(Index, usize, &'static str),
    Remove(Index, usize),
    /// So many bytes are repeated so often.
    Repeat(Index, usize, usize),
    Cut(Index),
}

fn change(words: &'static [&'static str]) -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        6 => (at(), 0..12usize, prop::sample::select(words)).prop_map(|(at, length, word)| Change::Word(at, length, word)),
        3 => (at(), 1..24usize).prop_map(|(at, length)| Change::Remove(at, length)),
        2 => (at(), 1..40usize, 1..5usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        1 => at().prop_map(Change::Cut),
    ]
}

fn apply(text: &mut Vec<u8>, change: Change) {
    let place = |at: Index, text: &[u8]| at.index(text.len() + 1);
    let end = |from: usize, length: usize, text: &[u8]| (from + length).min(text.len());
    match change {
        Change::Set(at, byte) if !text.is_empty() => {
            let at = at.index(text.len());
            text[at] = byte;
        }
        Change::Set(..) => {}
        Change::Insert(at, bytes) => {
            let at = place(at, text);
            text.splice(at..at, bytes);
        }
        Change::Word(at, length, word) => {
            let at = place(at, text);
            text.splice(at..end(at, length, text), word.bytes());
        }
        Change::Remove(at, length) => {
            let at = place(at, text);
            text.drain(at..end(at, length, text));
        }
        Change::Repeat(at, length, times) => {
            let at = place(at, text);
            let piece = text[at..end(at, length, text)].repeat(times);
            text.splice(at..at, piece);
        }
        Change::Cut(at) => text.truncate(place(at, text)),
    }
}

/// One of the texts, changed some times or not at all.
pub fn mutated(
    texts: impl IntoIterator<Item = String>,
    words: &'static [&'static str],
) -> impl Strategy<Value = Vec<u8>> {
    let texts: Vec<_> = texts.into_iter().collect();
    (prop::sample::select(texts), prop::collection::vec(change(words), 0..8)).prop_map(|(text, changes)| {
        let mut bytes = text.into_bytes();
        for change in changes {
            apply(&mut bytes, change);
        }
        bytes
    })
}

/// The same as a text, whatever it takes.
pub fn mutated_text(
    texts: impl IntoIterator<Item = String>,
    words: &'static [&'static str],
) -> impl Strategy<Value = String> {
    mutated(texts, words).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
