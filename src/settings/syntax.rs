//! TOML that is not quite TOML: every line that cannot be read is told with what would mend it, and read as if mended, so
//! that the rest of the file can be looked at in the same run.

use super::{
    mistakes::{Mistakes, Place},
    names,
    raw::SECRETS,
};
use std::{collections::BTreeSet, ops::Range};
use toml::{
    Spanned,
    de::{DeTable, Error},
};

/// Tells every mistake of the notation, and gives the text with the same lines as far as it could be mended.
pub fn mend(text: &str, mistakes: &mut Mistakes) -> String {
    let first =
        text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', '-'])).unwrap_or("");
    let other = match first.split('#').next().unwrap_or_default().trim_end() {
        line if line.starts_with('{') => Some("JSON"),
        line if line.ends_with(':') => Some("YAML"),
        _ => None,
    };
    if let Some(other) = other {
        let reason =
            format!("this looks like {other}; settings are TOML: a line [amqp], then lines as key = \"value\"");
        mistakes.tell_at(Some(Place::Line(1)), "", reason);
        mistakes.unread("");
        return String::new();
    }
    let mut file = File { lines: text.split('\n').map(str::to_owned).collect(), blamed: BTreeSet::new() };
    while let Some(blame) = file.next_blame() {
        file.mend(&blame, mistakes);
    }
    let text = file.lines.join("\n");
    file.tell_duplicates(&text, mistakes);
    text
}

struct File {
    lines: Vec<String>,
    /// Lines of which something was told.
    blamed: BTreeSet<usize>,
}

/// What cannot be read.
struct Blame {
    /// From 0.
    line: usize,
    /// Whether something is opened in that line and closed nowhere.
    swallows: bool,
    message: String,
}

/// How a line was meant, perhaps.
struct Mend {
    reason: String,
    line: String,
}

impl File {
    fn next_blame(&self) -> Option<Blame> {
        let text = self.lines.join("\n");
        let (table, mut errors) = DeTable::parse_recoverable(&text);
        errors.retain(|error| !is_duplicate(error));
        errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
        let first = errors.first()?;
        let line = line_of(&text, first) - 1;
        let message = first.message().to_owned();
        // What is not closed swallows the lines below it, and makes errors of them.
        let is_unclosed =
            |error: &Error| ["unclosed ", "invalid multi-line"].iter().any(|begin| error.message().starts_with(begin));
        let at = first.span().map_or(0, |span| span.start);
        let opening = errors.iter().any(is_unclosed).then(|| opening(table.get_ref(), at)).flatten();
        let opening = opening.map(|start| text[..start.min(text.len())].matches('\n').count()).filter(|at| *at < line);
        Some(match opening {
            Some(opening) => Blame { line: opening, swallows: true, message },
            None => Blame { line, swallows: false, message },
        })
    }

    fn mend(&mut self, blame: &Blame, mistakes: &mut Mistakes) {
        let at = blame.line;
        let key = self.key_at(at);
        if !self.blamed.insert(at) {
            // Told already, and not to be mended.
            return self.give_up(at, &key, mistakes);
        }
        let line = self.lines[at].trim_end_matches('\r').to_owned();
        let place = Some(Place::Line(at + 1));
        match mend_line(&line).filter(|_| !blame.swallows) {
            Some(mend) => {
                // A text that goes on over several lines is given up with them: a key's PEM, most likely.
                let goes_on =
                    mend.reason.contains("quote") && at + 1 < self.lines.len() && !is_entry(&self.lines[at + 1]);
                let name = key.rsplit('.').next().unwrap_or_default();
                // That it does not belong there is told of a secret, and is enough.
                if !(goes_on && SECRETS.contains(&name) && name != "proxy") {
                    mistakes.tell_at(place, &key, mend.reason);
                }
                self.lines[at] = mend.line;
                if goes_on {
                    self.swallow(at + 1);
                }
            }
            None if blame.swallows => {
                let value = line.split_once('=').map_or("", |(_, value)| value.trim());
                let (open, close) = match value {
                    value if value.starts_with('[') => ("[", "]"),
                    value if value.starts_with('{') => ("{", "}"),
                    value if value.starts_with("\"\"\"") => ("\"\"\"", "\"\"\""),
                    _ => ("'''", "'''"),
                };
                mistakes.tell_at(place, &key, format!("the {open} is never closed: add {close} at its end"));
                // A list may have many lines; nothing else of ours has.
                let rest = self.lines[at + 1..].iter();
                let is_item =
                    |line: &&String| !is_entry(line) || line.trim().is_empty() || line.trim().starts_with('#');
                let end = if open == "[" { at + rest.take_while(is_item).count() } else { at };
                self.lines[at] = line.split(" #").next().unwrap_or_default().to_owned();
                match self.lines[end].find('#') {
                    Some(comment) => self.lines[end].replace_range(comment.., close),
                    None => self.lines[end].push_str(close),
                }
                if open != "[" {
                    self.swallow(at + 1);
                }
            }
            None => {
                mistakes.tell_at(place, &key, explain(&line, &blame.message));
                self.give_up(at, &key, mistakes);
            }
        }
    }

    /// Takes a line out, with what belongs to it.
    fn give_up(&mut self, at: usize, key: &str, mistakes: &mut Mistakes) {
        let is_header = self.lines[at].trim_start().starts_with('[');
        // Where nothing is left to be taken out, nothing more can be read.
        mistakes.unread(if self.lines[at].trim().is_empty() { "" } else { key });
        if self.lines[at].trim().is_empty() {
            self.lines[at..].iter_mut().for_each(String::clear);
        }
        self.lines[at].clear();
        if is_header {
            let body = self.lines[at + 1..].iter_mut().take_while(|line| !line.trim_start().starts_with('['));
            body.for_each(String::clear);
        } else {
            self.swallow(at + 1);
        }
    }

    /// Takes out the lines from here that are no entries of their own.
    fn swallow(&mut self, from: usize) {
        self.lines[from..].iter_mut().take_while(|line| !is_entry(line)).for_each(String::clear);
    }

    /// The key of a line, with its section.
    fn key_at(&self, at: usize) -> String {
        let line = self.lines[at].trim();
        if line.starts_with('[') || line.ends_with(':') {
            return section_of(line.trim_end_matches(':'));
        }
        let section = self.lines[..at].iter().rev().find(|line| line.trim_start().starts_with('['));
        let section = section.map(|line| section_of(line)).unwrap_or_default();
        let key = line.split(['=', ':', ' ', '\t']).next().unwrap_or_default().trim();
        let is_key =
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) && key.len() <= 40;
        match (section.as_str(), is_key) {
            (_, false) => section,
            ("", true) => key.to_owned(),
            (section, true) => format!("{section}.{key}"),
        }
    }

    fn tell_duplicates(&self, text: &str, mistakes: &mut Mistakes) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut sections = BTreeSet::new();
        for error in errors {
            let line = line_of(text, &error);
            let key = self.key_at(line - 1);
            let is_same = |other: &String| other.trim_start().starts_with('[') && section_of(other) == key;
            let header = self.lines[..line - 1].iter().position(is_same).map(|at| at + 1);
            let of_key = || find(table.get_ref(), &key).map(|span| text[..span.start].matches('\n').count() + 1);
            let first = header.or_else(of_key).filter(|first| *first != line);
            let first = first.map(|first| format!(", first on line {first}")).unwrap_or_default();
            let in_header = self.lines[line - 1].trim_start().starts_with('[');
            let header = self.lines[..line - 1].iter().rposition(|line| line.trim_start().starts_with('['));
            let reason = if in_header {
                sections.insert(line - 1);
                format!("this section is there twice{first}: join them, or give this one another name")
            } else if header.is_some_and(|header| sections.contains(&header)) {
                // The section was told.
                continue;
            } else {
                format!("is given twice{first}: remove one")
            };
            mistakes.tell_at(Some(Place::Line(line)), &key, reason);
        }
    }
}

fn is_duplicate(error: &Error) -> bool {
    error.message().starts_with("duplicate key")
}

/// From 1.
fn line_of(text: &str, error: &Error) -> usize {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Where the outermost key stands whose value holds the offset.
fn opening(table: &DeTable<'_>, offset: usize) -> Option<usize> {
    let holds = |span: Range<usize>| span.start <= offset && offset <= span.end;
    let of_entry = |(key, value): (&Spanned<_>, &Spanned<toml::de::DeValue<'_>>)| {
        let inner = value.get_ref().as_table().and_then(|table| opening(table, offset));
        if holds(value.span()) { Some(key.span().start) } else { inner }
    };
    table.iter().filter_map(of_entry).min()
}

/// Where a key stands.
fn find(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    table.iter().find_map(|(name, value)| match key.strip_prefix(name.get_ref().as_ref())? {
        "" => Some(name.span()),
        rest => find(value.get_ref().as_table()?, rest.strip_prefix('.')?),
    })
}

fn section_of(header: &str) -> String {
    let name = header.trim().trim_start_matches('[').split([']', '#']).next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c);
    // Anything else may be a value, and that a secret.
    if !name.chars().all(plain) {
        return String::new();
    }
    name.split('.').map(|part| part.trim().trim_matches(['"', '\''])).collect::<Vec<_>>().join(".")
}

/// Whether the line begins something, or is empty or a comment.
fn is_entry(line: &str) -> bool {
    let line = line.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c);
    line.is_empty()
        || line.starts_with(['[', '#'])
        || names::is_key(line.split(['=', ':', ' ']).next().unwrap_or_default())
        || line.split_once('=').is_some_and(|(key, value)| {
            key.chars().all(plain) && !key.is_empty() && !matches!(value.trim(), "" | "=" | "\"" | "=\"")
        })
}

fn is_toml(line: &str) -> bool {
    DeTable::parse(line).is_ok()
}

/// What was wrong with a line, and what it was meant to be, where one or two usual slips explain it.
fn mend_line(line: &str) -> Option<Mend> {
    if is_toml(line) {
        return None;
    }
    let first: Vec<_> = slips(line);
    if let Some((reason, line)) = first.iter().find(|(_, line)| is_toml(line)) {
        return Some(Mend { reason: reason.clone(), line: line.clone() });
    }
    first.iter().find_map(|(reason, line)| {
        let (more, line) = slips(line).into_iter().find(|(_, line)| is_toml(line))?;
        Some(Mend { reason: format!("{reason}; {more}"), line })
    })
}

/// What people write who do not write TOML every day: the reason, and the line in TOML.
fn slips(line: &str) -> Vec<(String, String)> {
    let code = line.split(" #").next().unwrap_or(line).trim();
    let mut slips = Vec::new();
    let mut slip = |reason: &str, line: String| slips.push((reason.to_owned(), line));
    if code.starts_with([';', '/']) || code.starts_with("--") {
        slip("a comment begins with #", String::new());
        return slips;
    }
    if let Some(name) = code.strip_prefix('[').filter(|_| !code.contains('=')) {
        slip("the closing ] is missing", format!("{code}]"));
        slip("the brackets of the section do not match", format!("[{}]", name.trim_matches(['[', ']'])));
        return slips;
    }
    let (key, value) = match code.split_once('=') {
        Some((key, value)) if !key.contains(':') => (key.trim(), value.trim()),
        _ => {
            match code.split_once(':') {
                Some((name, "")) => slip("a section is written in brackets", format!("[{name}]")),
                Some((key, value)) => {
                    slip("between a key and its value stands =, not :", format!("{key} = {}", value.trim()))
                }
                None => {
                    if let Some((key, value)) =
                        code.split_once(char::is_whitespace).filter(|(key, _)| names::is_key(key))
                    {
                        slip("the = between the key and its value is missing", format!("{key} = {}", value.trim()));
                    }
                }
            }
            return slips;
        }
    };
    for (reason, value) in value_slips(key, value) {
        slip(&reason, format!("{key} = {value}"));
    }
    slips
}

fn value_slips(key: &str, value: &str) -> Vec<(String, String)> {
    let mut slips = Vec::new();
    let mut slip = |reason: &str, value: String| slips.push((reason.to_owned(), value));
    if value.contains(['“', '”', '„', '‘', '’']) {
        let plain = value.replace(['“', '”', '„'], "\"").replace(['‘', '’'], "'");
        slip("these are typographic quotes: write plain \" or '", plain);
    }
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => slip("write true, in small letters", "true".into()),
        "false" | "no" | "off" => slip("write false, in small letters", "false".into()),
        _ => {}
    }
    let variable = value.trim_matches('"').strip_prefix('$').map(|name| name.trim_matches(['{', '}']));
    if let Some(name) = variable.filter(|_| SECRETS.contains(&key)) {
        slip("a variable is given as { env = \"NAME\" }", format!("{{ env = \"{name}\" }}"));
    }
    let closed = value.trim_end_matches([',', ';']);
    if closed != value {
        slip("no , or ; at the end of a line", closed.into());
    }
    if value.contains('\\') {
        slip("in double quotes, \\ has a meaning of its own: use single quotes", value.replace('"', "'"));
    }
    for quote in ['"', '\''] {
        if value.matches(quote).count() % 2 == 1 {
            let body = value.trim_end_matches(['}', ']']).trim_end();
            slip("the closing quote is missing", format!("{body}{quote}{}", &value[body.len()..]));
            slip("the opening quote is missing", format!("{quote}{value}"));
        }
    }
    match value.chars().next() {
        Some('{') => {
            slip("the closing } is missing", format!("{value} }}"));
            slip("inside { } too, = stands between a key and its value", value.replace(':', " ="));
            if let Some((key, bare)) = value.trim_matches(['{', '}']).split_once('=') {
                slip("a text must stand in quotes", format!("{{ {key} = \"{}\" }}", bare.trim().trim_matches('"')));
            }
        }
        Some('[') if !value.ends_with(['[', ',']) => slip("the closing ] is missing", format!("{value}]")),
        Some('"' | '\'' | '[') | None => {}
        Some(digit) if digit.is_ascii_digit() && value.chars().all(|c| c.is_ascii_digit() || ",. _'".contains(c)) => {
            if value.starts_with('0') {
                slip("what begins with 0 is a text for TOML: put it in quotes", format!("\"{value}\""));
            }
            let digits: String = value.chars().filter(char::is_ascii_digit).collect();
            slip("thousands are set apart with _, as in 10_000", digits);
        }
        // A number with a unit cannot be taken as it is; `explain` says so.
        Some(digit) if digit.is_ascii_digit() && names::unit(key).is_some() => {}
        Some(_) if closed != value => {}
        Some(_) => slip("a text must stand in quotes", format!("\"{}\"", value.trim_matches('"'))),
    }
    slips
}

/// Why a line that nothing mends cannot be read.
fn explain(line: &str, message: &str) -> String {
    let code = line.trim();
    let (key, value) = code.split_once('=').unwrap_or((code, ""));
    let (key, value) = (key.trim(), value.trim());
    if code.starts_with('[') {
        return "is no name of a section; one looks like [amqp] or [accounts.my-bank]".into();
    }
    if !code.contains('=') {
        return "is neither a section nor a key with = and a value".into();
    }
    if value.is_empty() || value.starts_with('#') {
        return "has no value; give one, or remove the line".into();
    }
    if let Some(unit) = names::unit(key).filter(|_| value.starts_with(|c: char| c.is_ascii_digit())) {
        return format!("is a plain number of {unit}, without a unit");
    }
    format!("cannot be read as TOML: {message}")
}
