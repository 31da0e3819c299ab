//! Header values with placeholders, checked while they are read.

use serde::Deserialize;

/// A header's value with `{placeholders}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// A value that a header can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placeholder {
    Token,
    Timestamp,
    Signature,
    ExternalId,
    PartnerId,
    ClientKey,
    ChannelId,
    Origin,
}

impl Placeholder {
    const ALL: [(&str, Self); 8] = [
        ("token", Self::Token),
        ("timestamp", Self::Timestamp),
        ("signature", Self::Signature),
        ("external_id", Self::ExternalId),
        ("partner_id", Self::PartnerId),
        ("client_key", Self::ClientKey),
        ("channel_id", Self::ChannelId),
        ("origin", Self::Origin),
    ];

    /// Its name, which is also that of the account's setting where the account gives it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }
}

impl Template {
    /// The text with every placeholder replaced; `None` where `value` has nothing for one of them.
    pub fn render<'a>(&self, value: impl Fn(Placeholder) -> Option<&'a str>) -> Option<String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Value(placeholder) => text.push_str(value(*placeholder)?),
            }
        }
        Some(text)
    }

    pub fn placeholders(&self) -> impl Iterator<Item = Placeholder> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Value(placeholder) => Some(*placeholder),
            Piece::Text(_) => None,
        })
    }

    /// The text between the placeholders when there is just one of them: (before, placeholder, after).
    pub fn around(&self) -> Option<(&str, Placeholder, &str)> {
        match self.0.as_slice() {
            [Piece::Value(p)] => Some(("", *p, "")),
            [Piece::Text(before), Piece::Value(p)] => Some((before, *p, "")),
            [Piece::Value(p), Piece::Text(after)] => Some(("", *p, after)),
            [Piece::Text(before), Piece::Value(p), Piece::Text(after)] => Some((before, *p, after)),
            _ => None,
        }
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(bad) = text.chars().find(|c| !(' '..='~').contains(c)) {
            return Err(format!("a header's value holds {bad:?}; only printable ASCII can be sent"));
        }
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("a { has no }")?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let known = Placeholder::ALL.iter().find(|(known, _)| *known == name);
            let (_, placeholder) = known.ok_or_else(|| {
                let names = Placeholder::ALL.map(|(name, _)| format!("{{{name}}}")).join(", ");
                format!("{{{name}}} is not a value a header can hold; there are {names}")
            })?;
            pieces.push(Piece::Value(*placeholder));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }
}
