//! Why two signatures of the same call differ. Pure.
//!
//! A signature does not say how it was made, but people make few mistakes. Each [`Variation`] makes one of them on purpose;
//! the one, or the two, that give the expected signature are the ones that were made. An RSA signature is not made again:
//! its public key tells whether it belongs to a string.

mod readings;
mod variations;

use super::{
    Operation,
    profile::{Encoding, SigningMode},
    request::{Partner, Route},
    sign,
};
use aws_lc_rs::signature::{self, UnparsedPublicKey};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha2::{Sha256, Sha512};
use std::collections::HashSet;
use variations::{VARIATIONS, Variation};

/// The call that both signatures are said to be of.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub partner: &'a Partner,
    pub operation: Operation,
    /// As it is sent.
    pub body: &'a [u8],
    /// Without `Bearer`.
    pub token: Option<&'a str>,
    pub at: DateTime<Utc>,
    /// The public key, in DER, that RSA signatures are checked with; `None` where there is none.
    pub public_key: Option<&'a [u8]>,
}

/// What became of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    Equal,
    /// With these, one or two, the expected signature comes out exactly.
    Mistakes(Vec<Mistake>),
    /// Nothing that was tried gives it.
    Unknown {
        /// How many ways to make it were tried.
        tried: usize,
        /// What can be said all the same.
        hint: String,
    },
}

/// One thing that is done differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mistake {
    /// Goes on from "it was made with …".
    pub name: &'static str,
    /// What to set here if the provider says that this is right.
    pub mend: Option<&'static str>,
}

/// What is tried, in a sentence.
pub const TRIED: &str = "The body sorted, stripped, pretty-printed, escaped, with a new line, or absent; its hash in upper case, in \
base64 or left out; other paths (whole URL, without its version, with the base URL's path, requested for signed, the other call's); \
other forms of the time (UTC, other offsets, with or without milliseconds); the token with \"Bearer\", left out or put in; the method \
in lower case or left out; the other signing mode; other algorithms; a new line after the secret; and other ways to write the \
signature; each alone, and any two together.";

/// A placeholder of the standard's samples, which many providers' pages repeat.
const SAMPLE: &str = "85be817c55b2c135157c7e89f52499bf0c25ad6eeebe04a986e8c862561b19a5";

/// Compares the signature that this account makes of a call with the one that somebody expects.
pub fn compare(call: Call<'_>, expected: &str) -> Finding {
    let readings = readings::read(expected.trim(), call.partner.profile.signing.signature);
    let (mut tried, mut seen) = (Vec::new(), HashSet::new());
    for count in 0..=2 {
        tried.extend(candidates(&call, count, &mut seen));
        for reading in &readings {
            let written = reading.mistake.into_iter();
            for candidate in tried.iter().filter(|c| c.mistakes.len() + written.len() == count) {
                if candidate.gives(&reading.bytes, &call) {
                    let mistakes: Vec<_> = candidate.mistakes.iter().copied().chain(written.clone()).collect();
                    return if mistakes.is_empty() { Finding::Equal } else { Finding::Mistakes(mistakes) };
                }
            }
        }
    }
    let lengths: Vec<_> = readings.iter().map(|reading| reading.bytes.len()).collect();
    Finding::Unknown { tried: tried.len() * readings.len().max(1), hint: hint(&call, expected.trim(), &lengths) }
}

fn hint(call: &Call<'_>, expected: &str, lengths: &[usize]) -> String {
    let mode = mode(call);
    let own = match (mode, call.partner.private_key.as_ref()) {
        (SigningMode::Asymmetric, Some(key)) => key.bits() / 8,
        _ => 64,
    };
    if expected.eq_ignore_ascii_case(SAMPLE) {
        return "It is the placeholder of the standard's samples, which many providers' pages repeat: the signature of nothing.".into();
    }
    match lengths {
        [] => "It is neither hexadecimal nor base64.".into(),
        lengths if !lengths.contains(&own) => {
            let lengths = lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
            format!("It has {lengths} bytes, and a signature of this account has {own}: another algorithm, another size of key, or a part of it is lost.")
        }
        _ if mode == SigningMode::Asymmetric => {
            "It does not belong to this account's key over any of these: it was made with another key, or over something else.".into()
        }
        _ => "It was made with another secret or token, or over something else.".into(),
    }
}

fn mode(call: &Call<'_>) -> SigningMode {
    if call.operation == Operation::Token { SigningMode::Asymmetric } else { call.partner.mode }
}

/// A way to make the signature, and the mistakes in it.
struct Candidate {
    mistakes: Vec<Mistake>,
    text: String,
    primitive: Primitive,
    secret: Vec<u8>,
}

/// Every way that is new, with so many mistakes.
fn candidates(call: &Call<'_>, count: usize, seen: &mut HashSet<(String, Primitive, Vec<u8>)>) -> Vec<Candidate> {
    let right = Parts::right(call);
    let sets: Vec<Vec<&Variation>> = match count {
        0 => vec![vec![]],
        1 => VARIATIONS.iter().map(|one| vec![one]).collect(),
        _ => {
            let with_later = |(at, one)| VARIATIONS[at + 1..].iter().map(move |later| vec![one, later]);
            VARIATIONS.iter().enumerate().flat_map(with_later).collect()
        }
    };
    let made = sets.into_iter().filter_map(|set| {
        let mut parts = right.clone();
        set.iter().for_each(|variation| (variation.make)(&mut parts, call));
        let (text, primitive, secret) = (parts.string_to_sign(), parts.primitive, parts.secret);
        let mistakes = set.iter().map(|variation| variation.mistake).collect();
        let is_new = seen.insert((text.clone(), primitive, secret.clone()));
        is_new.then_some(Candidate { mistakes, text, primitive, secret })
    });
    made.collect()
}

impl Candidate {
    fn gives(&self, signature: &[u8], call: &Call<'_>) -> bool {
        let text = self.text.as_bytes();
        let algorithm = match self.primitive {
            Primitive::HmacSha512 => return signature.len() == 64 && hmac_sha512(&self.secret, text) == signature,
            Primitive::HmacSha256 => return signature.len() == 32 && hmac_sha256(&self.secret, text) == signature,
            Primitive::RsaSha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Primitive::RsaSha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Primitive::RsaSha1 => &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Primitive::RsaPss => &signature::RSA_PSS_2048_8192_SHA256,
        };
        // No key that is supported makes shorter ones; the check spares thousands of verifications.
        signature.len() >= 256
            && call.public_key.is_some_and(|key| UnparsedPublicKey::new(algorithm, key).verify(text, signature).is_ok())
    }
}

fn hmac_sha512(secret: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha512> as KeyInit>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hmac_sha256(secret: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// Everything that a signature is made of.
#[derive(Clone)]
struct Parts {
    shape: Shape,
    method: String,
    path: String,
    token: String,
    body: Vec<u8>,
    /// How the body stands in the string.
    hash: Hash,
    timestamp: String,
    client: String,
    primitive: Primitive,
    secret: Vec<u8>,
}

/// Which parts the string has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `clientKey|timestamp`
    Token,
    /// `timestamp|clientKey`
    TokenReversed,
    /// `METHOD:path:token:bodyhash:timestamp`
    WithToken,
    /// `METHOD:path:bodyhash:timestamp`
    WithoutToken,
}

#[derive(Clone, Copy)]
enum Hash {
    Hex,
    UpperHex,
    Base64,
    /// No hash at all.
    Plain,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Primitive {
    HmacSha512,
    HmacSha256,
    RsaSha256,
    RsaSha512,
    RsaSha1,
    RsaPss,
}

impl Primitive {
    fn is_rsa(self) -> bool {
        !matches!(self, Self::HmacSha512 | Self::HmacSha256)
    }
}

impl Parts {
    /// As this account makes it.
    fn right(call: &Call<'_>) -> Self {
        let partner = call.partner;
        let form = match (call.operation, &partner.profile.token) {
            (Operation::Token, Some(token)) => token.timestamp.unwrap_or(partner.profile.timestamp),
            _ => partner.profile.timestamp,
        };
        Self {
            shape: match (call.operation, partner.mode) {
                (Operation::Token, _) => Shape::Token,
                (_, SigningMode::Symmetric) => Shape::WithToken,
                (_, SigningMode::Asymmetric) => Shape::WithoutToken,
            },
            method: "POST".into(),
            path: route(call).map(|route| route.signed_path.clone()).unwrap_or_default(),
            token: call.token.unwrap_or_default().to_owned(),
            body: call.body.to_vec(),
            hash: match partner.profile.signing.body_hash {
                Encoding::Hex => Hash::Hex,
                Encoding::Base64 => Hash::Base64,
            },
            timestamp: sign::timestamp(call.at, form),
            client: partner.ids.client_key.clone().unwrap_or_default(),
            primitive: match mode(call) {
                SigningMode::Symmetric => Primitive::HmacSha512,
                SigningMode::Asymmetric => Primitive::RsaSha256,
            },
            secret: partner.client_secret.as_ref().map(|s| s.expose_secret().as_bytes().to_vec()).unwrap_or_default(),
        }
    }

    fn string_to_sign(&self) -> String {
        let Self { method, path, token, timestamp, client, .. } = self;
        let hash = match self.hash {
            Hash::Hex => sign::body_hash(&self.body, Encoding::Hex),
            Hash::UpperHex => sign::body_hash(&self.body, Encoding::Hex).to_uppercase(),
            Hash::Base64 => sign::body_hash(&self.body, Encoding::Base64),
            Hash::Plain => String::from_utf8_lossy(&self.body).into_owned(),
        };
        let method = if method.is_empty() { String::new() } else { format!("{method}:") };
        match self.shape {
            Shape::Token => format!("{client}|{timestamp}"),
            Shape::TokenReversed => format!("{timestamp}|{client}"),
            Shape::WithToken => format!("{method}{path}:{token}:{hash}:{timestamp}"),
            Shape::WithoutToken => format!("{method}{path}:{hash}:{timestamp}"),
        }
    }
}

fn route<'a>(call: &Call<'a>) -> Option<&'a Route> {
    match call.operation {
        Operation::Cancel => Some(&call.partner.cancel),
        Operation::Query => call.partner.query.as_ref(),
        Operation::Token => None,
    }
}

#[cfg(test)]
mod tests;
