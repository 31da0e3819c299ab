//! Keys and sections that there are not, and which ones were meant.

use super::{Form, found, section_at};
use crate::settings::{
    mistakes::Place,
    names::{self, ANY},
};
use toml::de::{DeTable, DeValue};

/// Longer lists of keys are left to the sample file.
const LISTED: usize = 8;

/// Where an unknown key belongs.
enum Meant {
    /// In its own section, by this name.
    Name(String),
    /// In these sections.
    Elsewhere(Vec<String>, String),
    Nowhere,
}

impl Form<'_> {
    /// An override cannot make an account out of nothing: its name is misspelt, most likely.
    pub(super) fn refuse_strange_accounts(&mut self) {
        // What stands under another name is put into its place later.
        let misplaced: Vec<String> = self
            .table
            .iter()
            .filter(|(key, _)| key.get_ref() != "accounts")
            .flat_map(|(key, value)| {
                let inner = value.get_ref().as_table().into_iter().flat_map(|table| table.keys());
                inner.chain([key]).map(|key| key.get_ref().to_string()).collect::<Vec<_>>()
            })
            .collect();
        let Some(accounts) = section_at(&mut self.table, &["accounts".into()]) else { return };
        let in_file = |start: usize| start <= self.text.len();
        let is_known = |name: &str, accounts: &DeTable<'_>| {
            let (key, account) = accounts.get_key_value(name)?;
            let whole = account.get_ref().as_table().is_none_or(|account| account.contains_key("profile"));
            Some(in_file(key.span().start) || whole)
        };
        let names: Vec<String> = accounts.keys().map(|key| key.get_ref().to_string()).collect();
        let (known, strange): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| {
            let is_broken = self.mistakes.is_unread(&format!("accounts.{name}"));
            is_known(name, accounts).unwrap_or(true) || is_broken || misplaced.contains(name)
        });
        for name in &strange {
            accounts.remove(name.as_str());
        }
        for name in strange {
            let meant = names::nearest(&name, known.iter().map(String::as_str));
            let meant = match meant {
                Some(meant) => format!("; did you mean {meant}?"),
                None if known.is_empty() => String::new(),
                None => format!("; there are {}", known.join(", ")),
            };
            let section = format!("ACCOUNTS__{}__", name.to_ascii_uppercase());
            for variable in self.overrides {
                if variable.path.to_ascii_uppercase().starts_with(&section) {
                    let place = Some(Place::Variable(variable.name.to_owned()));
                    self.mistakes.tell_at(place, "", format!("there is no account {name}{meant}"));
                }
            }
        }
    }

    /// serde takes a list for a section, by the order of its keys; nobody writes that on purpose.
    pub(super) fn refuse_values_as_sections(&mut self) {
        let sections = ["", "accounts"].into_iter().chain(names::sections().into_iter().map(|(pattern, _)| pattern));
        for pattern in sections.skip(1).filter(|pattern| !pattern.is_empty()) {
            let accounts = if pattern.contains(ANY) { self.accounts() } else { vec![String::new()] };
            for account in accounts {
                self.refuse_value_as_section(&pattern.replace(ANY, &account), pattern, &account);
            }
        }
    }

    fn refuse_value_as_section(&mut self, section: &str, pattern: &str, account: &str) {
        let path: Vec<_> = pattern.split('.').map(|part| if part == ANY { account } else { part }.to_owned()).collect();
        let Some((name, value)) = self.take(&path) else { return };
        if value.get_ref().is_table() {
            return self.put(&path, name, value);
        }
        let place = self.place_at(name.span().start);
        // What the first of [[section]] says is looked at all the same.
        let first = value.get_ref().as_array().and_then(|list| list.first()).filter(|item| item.get_ref().is_table());
        let first = first.cloned();
        let reason = match (&first, &place) {
            (Some(_), _) => format!("is one section: write [{section}] in single brackets"),
            (_, Some(Place::Variable(variable))) => format!("names a section; name one of its keys: {variable}__…"),
            _ => format!("must be a section, [{section}] on a line of its own; found {}", found("", value.get_ref())),
        };
        self.mistakes.tell_at(place, section, reason);
        match first {
            Some(first) => self.put(&path, name, first),
            None => self.mistakes.unread(section),
        }
    }

    /// Tells a key that its section does not have, and puts it where it was meant to be.
    pub(super) fn settle_unknown(&mut self, path: &[String], known: &[String]) {
        let key = path.join(".");
        let Some((name, value)) = self.take(path) else { return };
        let (last, section) = path.split_last().map_or(("", path), |(last, section)| (last.as_str(), section));
        let place = self.place_at(name.span().start);
        let mut variables = Vec::new();
        self.variables_in(value.get_ref(), &mut variables);
        variables.retain(|variable| Some(variable) != place.as_ref());
        let is_section = is_section(value.get_ref());
        let what = if is_section { "there is no such section" } else { "there is no such key" };
        let reason = match self.meant(section, last, value.get_ref(), known) {
            Meant::Name(meant) => {
                let target = [section, std::slice::from_ref(&meant)].concat();
                let child =
                    value.get_ref().as_table().filter(|_| meant == "accounts").and_then(|table| table.keys().next());
                let child = child.map(|child| format!(".{}", child.get_ref())).unwrap_or_default();
                let shown = if is_section { format!("[{}{child}]", target.join(".")) } else { meant.clone() };
                let is_override = matches!(place, Some(Place::Variable(_)));
                let unit = names::unit(&meant).filter(|_| !names::is_same_unit(last, &meant));
                let there =
                    section_at(&mut self.table, section).is_some_and(|table| table.contains_key(meant.as_str()));
                match unit {
                    // Its number may be of another unit.
                    Some(unit) => {
                        self.mistakes.unread(&target.join("."));
                        format!("{what}; did you mean {shown}, in {unit}?")
                    }
                    None if there && !is_section && !is_override => {
                        format!("{what}; did you mean {shown}, which is given, too?")
                    }
                    None => {
                        self.put(&target, name, value);
                        format!("{what}; did you mean {shown}?")
                    }
                }
            }
            Meant::Elsewhere(sections, meant) => {
                let show = |section: &String| match section.as_str() {
                    "" => "the top of the file".to_owned(),
                    "accounts" => format!("[accounts.{last}]"),
                    section => format!("[{section}]"),
                };
                let shown: Vec<_> = sections.iter().map(show).collect();
                let spelt = if meant == last {
                    "it belongs to".into()
                } else {
                    format!("did you mean {meant}, which belongs to")
                };
                let reason =
                    format!("{what} here; {spelt} {}{}", shown.join(" or "), if meant == last { "" } else { "?" });
                match sections.as_slice() {
                    [section] if !section.split('.').any(|part| part == ANY) => {
                        let target: Vec<_> = section
                            .split('.')
                            .filter(|part| !part.is_empty())
                            .map(str::to_owned)
                            .chain([meant])
                            .collect();
                        self.put(&target, name, value);
                    }
                    // Any account's: it is missing in none of them.
                    _ => {
                        for account in self.accounts() {
                            self.mistakes.unread(&format!("accounts.{account}.{meant}"));
                        }
                    }
                }
                reason
            }
            Meant::Nowhere if known.len() <= LISTED && !known.is_empty() => {
                let here = if section.is_empty() { "there are".into() } else { format!("[{}] has", section.join(".")) };
                format!("{what}; {here} {}", known.join(", "))
            }
            Meant::Nowhere => format!("{what}; config.example.toml shows all"),
        };
        // A section of variables only is none of the file's, and each of them has to be found.
        for place in [place].into_iter().chain(variables.into_iter().map(Some)) {
            self.mistakes.tell_at(place, &key, reason.clone());
        }
    }

    fn meant(&mut self, section: &[String], name: &str, value: &DeValue<'_>, known: &[String]) -> Meant {
        let sections = names::sections();
        let is_section = is_section(value);
        let own = pattern(section);
        let fits = |pattern: &str, key: &str| {
            let inner = if pattern.is_empty() { key.to_owned() } else { format!("{pattern}.{key}") };
            let names_one =
                sections.iter().any(|(known, _)| *known == inner || known.starts_with(&format!("{inner}.")));
            names_one == is_section
        };
        let here: Vec<&str> = known.iter().map(String::as_str).filter(|key| fits(&own, key)).collect();
        if let Some(key) = names::same(name, here.iter().copied()) {
            return Meant::Name(key.to_owned());
        }
        // A section [bnc] that looks like an account's.
        if let (true, Some(table)) = (section.is_empty() && is_section, value.as_table())
            && ["profile", "base_url", "partner_id"].iter().any(|key| table.contains_key(*key))
            && names::nearest(name, ["accounts", "account"]).is_none()
        {
            return Meant::Elsewhere(vec!["accounts".into()], name.to_owned());
        }
        let elsewhere = |same: &dyn Fn(&str) -> bool| {
            let mut found: Vec<(String, String)> = Vec::new();
            for (pattern, keys) in &sections {
                for key in keys.iter().filter(|key| *pattern != own && fits(pattern, key) && same(key)) {
                    found.push((self.concrete(pattern, section), key.clone()));
                }
            }
            // Its own account's section before any other.
            if let [accounts, account, ..] = section
                && accounts == "accounts"
            {
                let own = format!("accounts.{account}");
                let of_own =
                    |(section, _): &(String, String)| *section == own || section.starts_with(&format!("{own}."));
                if found.iter().any(of_own) {
                    found.retain(of_own);
                }
            } else if found.iter().any(|(section, _)| !section.starts_with("accounts.")) {
                found.retain(|(section, _)| !section.starts_with("accounts.") || section.matches('.').count() == 1);
            }
            let key = found.first()?.1.clone();
            let sections = found.into_iter().filter(|(_, other)| *other == key).map(|(section, _)| section).collect();
            Some(Meant::Elsewhere(sections, key))
        };
        let near = || names::nearest(name, here.iter().copied());
        let part = || names::part_of(name, here.iter().copied());
        if name != "url"
            && let Some(meant) = elsewhere(&|key| key == name)
        {
            return meant;
        }
        if let Some(key) = near().or_else(part) {
            return Meant::Name(key.to_owned());
        }
        elsewhere(&|key| names::same(name, [key]).is_some()).unwrap_or(Meant::Nowhere)
    }

    /// The section of this pattern for a key that stands in `section`: its own account's, or the only account's.
    fn concrete(&self, pattern: &str, section: &[String]) -> String {
        let accounts = self.accounts();
        match (section, accounts.as_slice()) {
            ([accounts, account, ..], _) if accounts == "accounts" => pattern.replace(ANY, account),
            (_, [only]) => pattern.replace(ANY, only),
            _ => pattern.to_owned(),
        }
    }

    fn accounts(&self) -> Vec<String> {
        let accounts = self.table.get("accounts").and_then(|accounts| accounts.get_ref().as_table());
        accounts.map(|table| table.keys().map(|key| key.get_ref().to_string()).collect()).unwrap_or_default()
    }
}

fn pattern(section: &[String]) -> String {
    let mut parts: Vec<&str> = section.iter().map(String::as_str).collect();
    if let ["accounts", name, ..] = parts.as_mut_slice() {
        *name = ANY;
    }
    parts.join(".")
}

/// The part of a path that is a key of a section, where the rest is inside its value.
pub(super) fn entry(path: &[String]) -> &[String] {
    let sections = names::sections();
    let is_section =
        |path: &[String]| path == ["accounts"] || sections.iter().any(|(known, _)| *known == pattern(path));
    let end = (1..path.len()).find(|end| !is_section(&path[..*end])).unwrap_or(path.len());
    &path[..end]
}

/// Whether it is a section rather than a value; `{ env = "…" }` is a value.
fn is_section(value: &DeValue<'_>) -> bool {
    let is_value = |table: &DeTable<'_>| table.keys().all(|key| matches!(key.get_ref().as_ref(), "env" | "file"));
    value.as_table().is_some_and(|table| table.is_empty() || !is_value(table))
}
