//! A profile's file: as many of its mistakes as serde tells when what it blames is mended or taken out.

use super::{blamed, section_at};
use crate::{settings::names, snap::profile::Profile};
use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, Deserializer},
};

/// The mistakes of a profile's form: line, from 1, and reason. None where its notation or its meaning is wrong, which
/// [`Profile::read`] tells.
pub fn mistakes(text: &str) -> Vec<(usize, String)> {
    let Ok(table) = DeTable::parse(text) else { return Vec::new() };
    let mut table = table.into_inner();
    let mut found = Vec::new();
    while let Err(error) = Profile::deserialize(Deserializer::from(Spanned::new(0..0, table.clone()))) {
        let message = error.message();
        let Some(span) = error.span() else { break };
        // What is missing may be what was taken out.
        let Some(path) = blamed(&table, &span).filter(|_| !message.starts_with("missing field")) else { break };
        let Some((name, section)) = path.split_last() else { break };
        let known = names::expected(message);
        let known = known.iter().map(String::as_str);
        let Some(entries) = section_at(&mut table, section) else { break };
        let Some((key, value)) = entries.remove_entry(name.as_str()) else { break };
        let line = text.as_bytes()[..key.span().start].iter().filter(|byte| **byte == b'\n').count() + 1;
        let (what, meant) = if message.starts_with("unknown field") {
            let meant = names::nearest(name, known);
            if let Some(meant) = meant.filter(|meant| !entries.contains_key(*meant)) {
                entries.insert(Spanned::new(key.span(), meant.to_owned().into()), value);
            }
            ("there is no such key".to_owned(), meant)
        } else {
            let meant = value.get_ref().as_str().and_then(|text| names::nearest(text, known));
            (message.to_owned(), meant.filter(|_| message.starts_with("unknown variant")))
        };
        let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        found.push((line, format!("{}: {what}{meant}", path.join("."))));
    }
    found.sort();
    found
}
