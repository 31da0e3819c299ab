//! The form of the settings: from the file's text and the environment to [`Raw`], with every unknown key and every value
//! of the wrong kind told.
//!
//! serde stops at the first mistake. So what it blames is told, then mended (a misspelt key gets its right name) or taken
//! out, and the rest is tried again, until nothing is blamed.

mod meant;
pub mod profile;

use super::{
    OVERRIDE_PREFIX,
    mistakes::{Mistakes, Place, shown},
    names,
    raw::{self, Raw, SECRETS},
    syntax,
};
use serde::Deserialize;
use std::{collections::BTreeMap, ops::Range};
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

/// The settings as a tree, every part of which knows where it stands.
struct Form<'a> {
    text: &'a str,
    table: DeTable<'a>,
    overrides: &'a [Override<'a>],
    /// What a value was before it was taken as a text.
    found: BTreeMap<String, String>,
    mistakes: &'a mut Mistakes,
}

/// A variable that overrides a key.
struct Override<'a> {
    name: &'a str,
    path: &'a str,
    value: &'a str,
    /// `v = value`, behind as many spaces as make its offsets its own: they tell the variable.
    text: String,
}

/// Reads the file's text, with what the environment overrides.
pub fn read(text: &str, environment: &BTreeMap<String, String>, mistakes: &mut Mistakes) -> Option<Raw> {
    let text = syntax::mend(text, mistakes);
    let mut end = text.len() + 1;
    let mut overrides = Vec::new();
    for (name, value) in environment {
        if let Some(path) = name.strip_prefix(OVERRIDE_PREFIX) {
            let text = format!("{}v = {value}", " ".repeat(end));
            end = text.len() + 1;
            overrides.push(Override { name, path, value, text });
        }
    }
    let (table, _) = DeTable::parse_recoverable(&text);
    let table = table.into_inner();
    let mut form = Form { text: &text, table, overrides: &overrides, found: BTreeMap::new(), mistakes };
    for variable in &overrides {
        if let Err(reason) = variable.put_into(&mut form.table) {
            form.mistakes.tell_at(Some(Place::Variable(variable.name.to_owned())), "", reason);
        }
    }
    form.refuse_strange_accounts();
    form.refuse_values_as_sections();
    let raw = form.read();
    let mut places = BTreeMap::new();
    form.list_places(&form.table, "", &mut places);
    form.mistakes.put_places(places);
    raw
}

impl<'a> Override<'a> {
    /// Sets `ACCOUNTS__BNC__MAX_IN_FLIGHT` in the table: parts are lower-cased, and an account's `-` may be written `_`.
    fn put_into(&'a self, table: &mut DeTable<'a>) -> Result<(), String> {
        let span = self.span();
        let mut parts: Vec<_> = self.path.split("__").map(str::to_ascii_lowercase).collect();
        if parts.iter().any(String::is_empty) {
            return Err("names no key; an override looks like QRIS_CANCEL__RETRY__MAX_ATTEMPTS".into());
        }
        let last = parts.pop().unwrap_or_default();
        let mut section = table;
        for part in parts {
            let known = section.keys().map(|key| key.get_ref().to_string()).find(|key| key.replace('-', "_") == part);
            let known = known.unwrap_or(part);
            let new = || Spanned::new(span.clone(), DeValue::Table(DeTable::new()));
            let next = section.entry(Spanned::new(span.clone(), known.clone().into())).or_insert_with(new);
            let DeValue::Table(next) = next.get_mut() else {
                return Err(format!("{known} is a value, not a section"));
            };
            section = next;
        }
        let parsed = DeTable::parse(&self.text).ok().map(Spanned::into_inner).filter(|table| table.len() == 1);
        let value = parsed.and_then(|mut table| table.remove("v")).unwrap_or_else(|| self.plain());
        section.remove(last.as_str());
        section.insert(Spanned::new(span, last.into()), value);
        Ok(())
    }

    /// The value as a text, as it stands.
    fn plain(&self) -> Spanned<DeValue<'a>> {
        Spanned::new(self.span(), DeValue::String(self.value.into()))
    }

    fn span(&self) -> Range<usize> {
        self.text.len() - self.value.len()..self.text.len()
    }
}

impl<'a> Form<'a> {
    fn read(&mut self) -> Option<Raw> {
        // Every round takes an entry out or puts it where it belongs; the limit is for what nobody has thought of.
        for _ in 0..10_000 {
            let whole = Spanned::new(0..0, self.table.clone());
            let error = match Raw::deserialize(Deserializer::from(whole)) {
                Ok(raw) => return Some(raw),
                Err(error) => error,
            };
            let path = error.span().and_then(|span| blamed(&self.table, &span));
            match path {
                Some(path) => self.settle(meant::entry(&path), error.message()),
                None => {
                    self.mistakes.tell_at(None, "", error.message());
                    return None;
                }
            }
        }
        self.mistakes.tell_at(None, "", "cannot be read");
        None
    }

    /// Tells what is wrong with an entry, and mends it or takes it out.
    fn settle(&mut self, path: &[String], message: &str) {
        if message.starts_with("unknown field") {
            return self.settle_unknown(path, &names::expected(message));
        }
        let key = path.join(".");
        let Some((name, value)) = self.take(path) else { return };
        let is_table = value.get_ref().is_table();
        let is_text = matches!(value.get_ref(), DeValue::String(_));
        let expected = message.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
        // What overrides a text may look like a number, and a number may stand where a name is expected: its names are
        // told for a text only.
        let variable = self.overriding(value.span().start);
        let is_name = ["wanted ", "expected table", "unknown variant"].iter().any(|begin| message.starts_with(begin));
        let wants_text = matches!(expected, "a string" | "path string")
            || message.starts_with("wanted ")
            || message.starts_with(raw::TEXT_WANTED);
        let is_override = variable.is_some() && !is_table && wants_text;
        if !is_text && (is_name || is_override) {
            let nothing = || Spanned::new(value.span(), DeValue::String("".into()));
            let plain = variable.filter(|_| is_override).map_or_else(nothing, Override::plain);
            self.found.insert(key, found(&name_of(path), value.get_ref()));
            self.put(path, name, plain);
            return;
        }
        let reason = if message.starts_with("unknown variant") {
            let known = names::expected(message);
            let found = self.found.remove(&key).unwrap_or_else(|| found(&name_of(path), value.get_ref()));
            let meant =
                value.get_ref().as_str().and_then(|text| names::nearest(text, known.iter().map(String::as_str)));
            let meant = meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default();
            let known: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
            format!("must be {}; found {found}{meant}", known.join(" or "))
        } else if message.starts_with("invalid type") || message.starts_with("invalid value") {
            mismatch(&name_of(path), value.get_ref(), expected)
        } else {
            message.to_owned()
        };
        self.mistakes.unread(&key);
        let place = self.place_at(name.span().start);
        self.mistakes.tell_at(place, &key, reason);
    }

    /// Takes an entry out.
    fn take(&mut self, path: &[String]) -> Option<(Spanned<toml::de::DeString<'a>>, Spanned<DeValue<'a>>)> {
        let (last, section) = path.split_last()?;
        section_at(&mut self.table, section)?.remove_entry(last.as_str())
    }

    fn put(&mut self, path: &[String], name: Spanned<toml::de::DeString<'a>>, value: Spanned<DeValue<'a>>) {
        let Some((last, section)) = path.split_last() else { return };
        let mut table = &mut self.table;
        for part in section {
            let key = Spanned::new(name.span(), part.clone().into());
            let new = || Spanned::new(name.span(), DeValue::Table(DeTable::new()));
            let DeValue::Table(next) = table.entry(key).or_insert_with(new).get_mut() else { return };
            table = next;
        }
        match (table.get_mut(last.as_str()).map(Spanned::get_mut), value) {
            (Some(DeValue::Table(there)), value) => {
                if let DeValue::Table(more) = value.into_inner() {
                    merge(there, more);
                }
            }
            (Some(_), _) => {}
            (None, value) => {
                table.insert(Spanned::new(name.span(), last.clone().into()), value);
            }
        }
    }

    /// Where an offset is: a line of the file, or a variable.
    fn place_at(&self, offset: usize) -> Option<Place> {
        match self.overriding(offset) {
            Some(variable) => Some(Place::Variable(variable.name.to_owned())),
            None => Some(Place::Line(
                self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1,
            )),
        }
    }

    fn overriding(&self, offset: usize) -> Option<&'a Override<'a>> {
        self.overrides.iter().find(|variable| variable.span().start <= offset && offset <= variable.span().end)
    }

    /// The variables that gave something of a value.
    fn variables_in(&self, value: &DeValue<'_>, found: &mut Vec<Place>) {
        for (key, value) in value.as_table().into_iter().flatten() {
            let place = self.overriding(key.span().start).map(|variable| Place::Variable(variable.name.to_owned()));
            found.extend(place.filter(|place| !found.contains(place)));
            self.variables_in(value.get_ref(), found);
        }
    }

    fn list_places(&self, table: &DeTable<'_>, section: &str, places: &mut BTreeMap<String, Place>) {
        for (key, value) in table {
            let name = key.get_ref();
            let path = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
            if let DeValue::Table(table) = value.get_ref() {
                self.list_places(table, &path, places);
            }
            if let Some(place) = self.place_at(key.span().start) {
                places.insert(path, place);
            }
        }
    }
}

fn section_at<'t, 'a>(table: &'t mut DeTable<'a>, path: &[String]) -> Option<&'t mut DeTable<'a>> {
    path.iter().try_fold(table, |table, part| match table.get_mut(part.as_str())?.get_mut() {
        DeValue::Table(table) => Some(table),
        _ => None,
    })
}

/// The same section under two names: what only one of them says holds.
fn merge<'a>(there: &mut DeTable<'a>, more: DeTable<'a>) {
    for (key, value) in more {
        match (there.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.get_ref()) {
            (Some(DeValue::Table(there)), DeValue::Table(more)) => merge(there, more.clone()),
            (Some(_), _) => {}
            (None, _) => {
                there.insert(key, value);
            }
        }
    }
}

/// The path to the innermost entry that a span is about.
fn blamed(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    let inside = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    table.iter().find_map(|(key, value)| {
        let inner = match value.get_ref() {
            DeValue::Table(table) => blamed(table, span),
            _ => None,
        };
        let rest = match inner {
            Some(rest) => rest,
            None if key.span() == *span || value.span() == *span => Vec::new(),
            // An item of a list is told with its list.
            None if value.get_ref().is_array() && inside(value.span()) => Vec::new(),
            None => return None,
        };
        Some([vec![key.get_ref().to_string()], rest].concat())
    })
}

fn name_of(path: &[String]) -> String {
    path.last().cloned().unwrap_or_default()
}

/// What stands there, shortened; nothing of what may be secret.
fn found(name: &str, value: &DeValue<'_>) -> String {
    let hidden = SECRETS.contains(&name);
    match value {
        DeValue::String(_) if hidden => "a text".into(),
        DeValue::Integer(_) | DeValue::Float(_) if hidden => "a number".into(),
        DeValue::String(text) => match shown(text) {
            quoted if quoted.starts_with('"') => format!("the text {quoted}"),
            hidden => hidden,
        },
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// A value that is not of the kind that serde expects there.
fn mismatch(name: &str, value: &DeValue<'_>, expected: &str) -> String {
    const LIST: &str = "a list of texts, like [\"a\", \"b\"]";
    let (wanted, is_number) = match expected {
        "a boolean" => ("true or false".to_owned(), false),
        "a sequence" => (LIST.to_owned(), false),
        "u16" => (format!("a whole number from 0 to {}", u16::MAX), true),
        "u32" => (format!("a whole number from 0 to {}", u32::MAX), true),
        "u64" => ("a whole number, not negative".to_owned(), true),
        "f64" => ("a number".to_owned(), true),
        "a string" if value.is_array() && name == "reply_to_allow" => {
            return format!("must be {LIST}; this one holds something else, too");
        }
        "a string" | "path string" => ("a text in quotes".to_owned(), false),
        other => (other.to_owned(), false),
    };
    let is_bare = |text: &str| text.parse::<f64>().is_ok() || text.parse::<bool>().is_ok();
    let hint = match value {
        DeValue::Table(_) => return format!("must be {wanted}, and has no keys of its own"),
        DeValue::String(text) if is_bare(text) && (is_number || expected == "a boolean") => ": leave out the quotes",
        DeValue::Float(_) if is_number => ": leave out the point",
        _ => "",
    };
    format!("must be {wanted}; found {}{hint}", found(name, value))
}
