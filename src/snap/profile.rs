//! What differs between providers, as data: a [`Profile`] is one TOML file.
//!
//! Some are built in ([`BUILT_IN`]); any other is a file named by an account's `profile`. Everything a profile says is
//! checked while it is read, so that a mistake is refused at start with its line and the reason, and the rest of the
//! crate can trust it.

mod check;
mod field;
mod template;

use super::Code;
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, path::Path};

pub use field::{CommandField, Field, Source};
pub use template::{Placeholder, Template};

/// The profiles that come with the worker: name and TOML text.
pub const BUILT_IN: [(&str, &str); 7] = [
    ("ifortepay", include_str!("profiles/ifortepay.toml")),
    ("bnc", include_str!("profiles/bnc.toml")),
    ("midtrans", include_str!("profiles/midtrans.toml")),
    ("winpay", include_str!("profiles/winpay.toml")),
    ("doku", include_str!("profiles/doku.toml")),
    ("ayolinx", include_str!("profiles/ayolinx.toml")),
    ("aspi", include_str!("profiles/aspi.toml")),
];

/// How one provider speaks SNAP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Short name, as `provider` in the events.
    pub name: String,
    /// The provider's name for people.
    pub title: String,
    /// What a cancel does at this provider.
    pub means: Means,
    /// What a user of this profile must know; shown at start.
    #[serde(default)]
    pub notes: Vec<String>,
    pub signing: Signing,
    pub timestamp: TimestampForm,
    pub external_id: ExternalIdRule,
    /// Headers of a transaction call; `{…}` stands for a value of the call or the account.
    pub headers: BTreeMap<String, Template>,
    /// Values of the account that have a usual value here.
    #[serde(default)]
    pub defaults: Defaults,
    pub token: Option<TokenCall>,
    pub cancel: Call,
    pub query: Option<QueryCall>,
    /// Where the provider's answers mean something else than the standard's table says.
    #[serde(default)]
    pub codes: BTreeMap<Code, CodeOverride>,
    /// As it was written.
    #[serde(skip)]
    pub text: String,
}

/// What a cancel does. Only withdrawing is supported: a cancel that gives money back is a refund by another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Means {
    /// An unpaid QR stops being payable.
    Withdraw,
    /// A payment is undone; such a profile is refused.
    Reverse,
}

/// How requests are signed: SNAP's "Keamanan" page, service signature.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signing {
    /// What the provider accepts; the first is used unless the account chooses another.
    pub modes: Vec<SigningMode>,
    /// How the signature is written.
    pub signature: Encoding,
    /// How the body's SHA-256 is written inside the string to sign.
    #[serde(default)]
    pub body_hash: Encoding,
    /// How the body's texts are escaped.
    #[serde(default)]
    pub escapes: Escapes,
    /// Whether a call needs a Bearer token even where the string to sign does not hold it.
    #[serde(default)]
    pub token: bool,
}

/// SNAP's two ways to sign a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SigningMode {
    /// `METHOD:path:token:bodyhash:timestamp`, HMAC-SHA512 with the client secret.
    Symmetric,
    /// `METHOD:path:bodyhash:timestamp`, SHA256withRSA with the private key.
    Asymmetric,
}

impl SigningMode {
    /// As in settings and profiles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Asymmetric => "asymmetric",
        }
    }
}

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Lower-case hexadecimal.
    #[default]
    Hex,
    /// Standard base64 with padding.
    Base64,
}

/// What JSON leaves open: which characters of a text are escaped though they need not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Escapes {
    /// None.
    #[default]
    None,
    /// As PHP's `json_encode` does: `/`, and whatever is not ASCII. For a provider that hashes what it has encoded anew.
    Php,
}

/// How X-TIMESTAMP is written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampForm {
    pub offset: Offset,
    #[serde(default)]
    pub fraction: Fraction,
}

/// The zone a timestamp is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Offset {
    /// Western Indonesia Time.
    #[serde(rename = "+07:00")]
    Wib,
    /// UTC, written `Z`.
    #[serde(rename = "Z")]
    Utc,
}

/// Digits below the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fraction {
    #[default]
    None,
    Milliseconds,
}

/// How X-EXTERNAL-ID is made.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalIdRule {
    /// How many decimal digits, 16 to 36.
    #[serde(default = "default_digits", deserialize_with = "digits")]
    pub digits: usize,
    /// Whether a repeated cancel has a new id or keeps the first one's.
    #[serde(default)]
    pub repeat: Repeat,
}

/// What a repeated cancel does about its X-EXTERNAL-ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repeat {
    #[default]
    New,
    Same,
}

/// Values of an account that a profile can fill in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    pub channel_id: Option<String>,
    pub origin: Option<String>,
}

/// The access token call (service 73).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCall {
    pub path: UrlPath,
    /// Whether tokens come from another host, which the account then names as `token_base_url`.
    #[serde(default)]
    pub own_host: bool,
    pub headers: BTreeMap<String, Template>,
    /// The form of X-TIMESTAMP here, where it differs.
    pub timestamp: Option<TimestampForm>,
    /// The request's field that says `client_credentials`.
    pub grant_field: String,
    /// Accepted names of the token in the answer.
    pub access_token: Vec<String>,
    /// Accepted names of its lifetime in seconds, a number or a string.
    pub expires_in: Vec<String>,
    /// The lifetime in seconds where the answer names none.
    pub expires_default_s: u64,
}

/// A call and its body's fields, in the order in which they are sent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The path that is requested; absent where the provider does not publish it, then the account must name it.
    pub path: Option<UrlPath>,
    /// The path that is signed, where it differs from the requested one.
    pub signed_path: Option<UrlPath>,
    pub fields: Vec<Field>,
}

/// The query call (service 51) and what its statuses mean.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryCall {
    pub path: Option<UrlPath>,
    pub signed_path: Option<UrlPath>,
    pub fields: Vec<Field>,
    /// `latestTransactionStatus` to what it says.
    pub status: BTreeMap<String, Status>,
    /// Whether "not found" is also what the provider says of an expired QR.
    #[serde(default)]
    pub not_found_can_mean_expired: bool,
}

/// What a transaction status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The QR is still payable.
    Open,
    /// The customer is paying at this moment.
    Paying,
    Paid,
    Canceled,
    Expired,
    Failed,
    Refunded,
    NotFound,
}

/// What a response code means at this provider instead of what the standard's table says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeOverride {
    pub verdict: CodeClass,
    /// The event's cause, where the verdict is `refused`.
    #[serde(default)]
    pub cause: RefusalCause,
}

/// What a response code of a cancel means. The classes and their rows are in `verdict.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeClass {
    Canceled,
    /// Accepted; the result comes later.
    Pending,
    /// The provider answered, and this cancel did nothing: a query tells how the transaction stands.
    Verify,
    /// The cancel may have taken effect.
    Unknown,
    /// Not now.
    Retry,
    /// A new access token is needed.
    Token,
    /// Keys, ids or rights are wrong: nothing about this command.
    Misconfigured,
    Refused,
}

/// Why a provider refused, as the event's cause says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCause {
    #[default]
    ResponseCode,
    NotAuthorized,
    NotCancelableByProvider,
}

/// An absolute path of a URL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UrlPath(String);

impl UrlPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UrlPath {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_graphic() && !"?#%\\\"<>{}".contains(c);
        if !path.starts_with('/') || !path.chars().all(plain) {
            return Err(format!("path {path:?} must start with / and hold no query, fragment, space or escape"));
        }
        Ok(Self(path))
    }
}

fn default_digits() -> usize {
    32
}

fn digits<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let digits = usize::deserialize(deserializer)?;
    // Fewer than 16 could repeat within a day; SNAP allows no more than 36.
    if (16..=36).contains(&digits) {
        Ok(digits)
    } else {
        Err(serde::de::Error::custom(format!("{digits} digits: X-EXTERNAL-ID has 16 to 36")))
    }
}

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ProfileError {
    /// The file, or the built-in profile's name.
    pub place: String,
    /// Line in it, from 1, where one is to blame.
    pub line: Option<usize>,
    pub reason: String,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.reason),
            None => write!(f, "{}: {}", self.place, self.reason),
        }
    }
}

impl Profile {
    /// The built-in profile of that name, or the file at that path (relative paths start at `base`).
    ///
    /// # Errors
    /// When there is neither, or the file has a mistake.
    pub fn find(name: &str, base: &Path) -> Result<Self, ProfileError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::read(name, text);
        }
        let error = |reason| ProfileError { place: name.to_owned(), line: None, reason };
        if !name.contains(['/', '.']) {
            let known = BUILT_IN.map(|(name, _)| name).join(", ");
            return Err(error(format!("no built-in profile has this name; there are {known}, or give a file's path")));
        }
        let text = std::fs::read_to_string(base.join(name)).map_err(|e| error(format!("cannot be read: {e}")))?;
        Self::read(name, &text)
    }

    /// Reads a profile from its text; `place` is what errors call it.
    ///
    /// # Errors
    /// Names the line and the reason.
    pub fn read(place: &str, text: &str) -> Result<Self, ProfileError> {
        let line_at = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let profile: Self = toml::from_str(text).map_err(|e| ProfileError {
            place: place.to_owned(),
            line: e.span().map(|span| line_at(span.start)),
            reason: e.message().to_owned(),
        })?;
        check::check(&profile).map_err(|(key, reason)| ProfileError {
            place: place.to_owned(),
            line: text.lines().position(|line| line.trim_start().starts_with(key)).map(|at| at + 1),
            reason,
        })?;
        Ok(Self { text: text.to_owned(), ..profile })
    }

    /// Whether calls carry an access token when signed in this mode.
    pub fn needs_token(&self, mode: SigningMode) -> bool {
        self.signing.token || mode == SigningMode::Symmetric
    }

    /// The cancel's body field that is filled from this field of a command.
    pub fn cancel_field(&self, from: CommandField) -> Option<&Field> {
        self.cancel.fields.iter().find(|field| field.source == Source::Command(from))
    }
}

#[cfg(test)]
mod tests;
