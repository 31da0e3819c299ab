//! `sign`: what integrators need when a bank says 401.

use super::{Failure, print, send::Fields};
use crate::{
    account::RealWorld,
    command::{CancelCommand, Hints, Terms},
    pipeline::World,
    settings::{Account, Settings},
    snap::{
        Operation,
        compare::{self, Call, Finding, Mistake},
        key::PrivateKey,
        profile::SigningMode,
        request::{Partner, SignedRequest},
        sign,
    },
};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use std::{fmt::Write, io::Read, path::Path, sync::Arc};

/// Stands where an access token would.
const NO_TOKEN: &str = "<token>";

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker sign --account bnc --reference R-1          URL, body, hash, string to sign, signature, headers
  qris-cancel-worker sign --account bnc command.json --curl      the same of a command as it is published, and the call
  qris-cancel-worker sign --account bnc command.json --timestamp 2026-11-21T10:00:00+07:00 --expect SIGNATURE")]
pub struct Arguments {
    /// The account.
    #[arg(long)]
    account: String,
    /// A file with a cancel command as it is published; - is standard input. Or give its fields one by one.
    #[arg(value_name = "COMMAND-FILE", conflicts_with_all = ["job_id", "reference", "partner_reference", "reason", "others"])]
    file: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// Which call.
    #[arg(long, value_enum, default_value = "cancel")]
    operation: Called,
    /// The time of the call; now unless given. It is written as the profile says.
    #[arg(long, value_name = "RFC3339", value_parser = time)]
    timestamp: Option<DateTime<Utc>>,
    /// X-EXTERNAL-ID; a random one unless given.
    #[arg(long, value_name = "DIGITS", value_parser = digits)]
    external_id: Option<String>,
    /// The access token, where one is used: env:NAME or file:PATH. Without it a placeholder stands in its place.
    #[arg(long, value_name = "TOKEN-SOURCE")]
    token: Option<String>,
    /// A signature that the bank, or another program, made of the same command at the same --timestamp. If it is another one,
    /// the likely mistakes are tried, and the one that was made is named.
    #[arg(long, value_name = "SIGNATURE", requires = "timestamp")]
    expect: Option<String>,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
    /// A curl command, too, that makes the call.
    #[arg(long, conflicts_with = "json")]
    curl: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Called {
    Cancel,
    Query,
    Token,
}

pub fn run(config: Option<&Path>, arguments: Arguments) -> Result<(), Failure> {
    let config = config.ok_or_else(super::no_settings)?;
    let accounts = Settings::load_accounts(config)?;
    let account = super::account_named(&accounts, &arguments.account)?;
    let token = arguments.token.as_deref().map(Settings::secret).transpose();
    let token = token.map_err(|why| Failure::Usage(format!("--token: {why}")))?;
    let at = arguments.timestamp.unwrap_or_else(|| RealWorld.now());
    let request = request(account, &arguments, token.as_ref(), at)?;
    let shown = Shown { account, request: &request, token: token.as_ref(), at };
    let finding = arguments.expect.as_deref().map(|expected| shown.compared(expected, &accounts));
    let text = match arguments.json {
        true => format!("{:#}", shown.json(finding.as_ref())),
        false => shown.text(arguments.curl),
    };
    print(&text)?;
    match finding {
        None => Ok(()),
        Some(Compared { finding: Finding::Equal, key_of: None }) => {
            if !arguments.json {
                print("\nThe expected signature is the same.")?;
            }
            Ok(())
        }
        Some(other) => {
            let lacking = match (&other.finding, shown.is_meaningless()) {
                (Finding::Unknown { .. }, true) => "\nNo --token was given, and the token is part of what is signed.",
                _ => "",
            };
            Err(Failure::No(other.to_text() + lacking))
        }
    }
}

/// The call, signed as the worker would sign it.
fn request(
    account: &Account,
    arguments: &Arguments,
    token: Option<&SecretString>,
    at: DateTime<Utc>,
) -> Result<SignedRequest, Failure> {
    let (name, partner) = (&account.name, &account.partner);
    let operation = match arguments.operation {
        Called::Token => {
            let request = partner.token_request(at).filter(|_| partner.needs_token());
            return request
                .ok_or_else(|| Failure::Usage(format!("{name} uses no access token: there is no token call")));
        }
        Called::Query if partner.query.is_none() => {
            return Err(Failure::Usage(format!("{name} has no query: set its query_path if the provider has one")));
        }
        Called::Query => Operation::Query,
        Called::Cancel => Operation::Cancel,
    };
    let bytes = command(arguments)?;
    let terms = Terms { profile: &partner.profile, defaults: &partner.merchant };
    let hints = Hints { message_id: Some("sign"), ..Hints::default() };
    let command = CancelCommand::read(&bytes, hints, terms).map_err(|rejection| {
        let violations = rejection.violations.iter().map(|broken| format!("{}: {}", broken.field, broken.rule));
        Failure::Usage(format!("the worker would refuse this command:\n{}", Vec::from_iter(violations).join("\n")))
    })?;
    let external_id = arguments
        .external_id
        .clone()
        .unwrap_or_else(|| partner.external_id(operation, &bytes, false, RealWorld.random()));
    let placeholder = SecretString::from(NO_TOKEN);
    let token = partner.needs_token().then_some(token.unwrap_or(&placeholder));
    Ok(partner.transaction(operation, partner.body(operation, &command), &external_id, token, at))
}

fn command(arguments: &Arguments) -> Result<Vec<u8>, Failure> {
    let unreadable = |e: std::io::Error| Failure::Usage(format!("the command cannot be read: {e}"));
    match arguments.file.as_deref() {
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map_err(unreadable)?;
            Ok(bytes)
        }
        Some(path) => std::fs::read(path).map_err(unreadable),
        None if arguments.fields.name_nothing() => Err(Failure::Usage(
            "give a command: a file, - for standard input, or its fields, such as --reference and --partner-reference"
                .into(),
        )),
        None => Ok(arguments.fields.command().1),
    }
}

/// A comparison, and whose key it was when not the account's own.
struct Compared {
    finding: Finding,
    key_of: Option<String>,
}

struct Shown<'a> {
    account: &'a Account,
    request: &'a SignedRequest,
    token: Option<&'a SecretString>,
    at: DateTime<Utc>,
}

impl Shown<'_> {
    fn partner(&self) -> &Partner {
        &self.account.partner
    }

    fn mode(&self) -> SigningMode {
        if self.request.operation == Operation::Token { SigningMode::Asymmetric } else { self.partner().mode }
    }

    fn signer(&self) -> String {
        match (self.mode(), &self.partner().private_key) {
            (SigningMode::Asymmetric, Some(key)) => {
                format!("SHA256withRSA with the private key ({} bits)", key.bits())
            }
            _ => "HMAC-SHA512 with client_secret".into(),
        }
    }

    /// Whether a placeholder stands where a token belongs.
    fn lacks_token(&self) -> bool {
        self.request.operation != Operation::Token && self.partner().needs_token() && self.token.is_none()
    }

    fn is_meaningless(&self) -> bool {
        self.lacks_token() && self.mode() == SigningMode::Symmetric
    }

    fn signed_path(&self) -> Option<&str> {
        match self.request.operation {
            Operation::Cancel => Some(&self.partner().cancel.signed_path),
            Operation::Query => self.partner().query.as_ref().map(|route| route.signed_path.as_str()),
            Operation::Token => None,
        }
    }

    fn body_hash(&self) -> String {
        sign::body_hash(&self.request.body, self.partner().profile.signing.body_hash)
    }

    fn fingerprint(&self) -> Option<String> {
        self.partner().private_key.as_ref().map(PrivateKey::fingerprint)
    }

    /// As they are sent.
    fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.request.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret()));
        [("Content-Type", "application/json")].into_iter().chain(own)
    }

    fn body(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.request.body)
    }

    fn compared(&self, expected: &str, accounts: &[Arc<Account>]) -> Compared {
        let own = self.partner().private_key.as_ref().map(PrivateKey::public_der);
        let call = Call {
            partner: self.partner(),
            operation: self.request.operation,
            body: &self.request.body,
            token: self.token.map(ExposeSecret::expose_secret),
            at: self.at,
            public_key: own.as_deref(),
        };
        let finding = compare::compare(call, expected);
        if !matches!(finding, Finding::Unknown { .. }) {
            return Compared { finding, key_of: None };
        }
        // The wrong account's key is a mistake of its own.
        for other in accounts {
            let key = other.partner.private_key.as_ref().map(PrivateKey::public_der);
            if key.is_none() || key == own {
                continue;
            }
            let with_other = compare::compare(Call { public_key: key.as_deref(), ..call }, expected);
            if !matches!(with_other, Finding::Unknown { .. }) {
                return Compared { finding: with_other, key_of: Some(other.name.clone()) };
            }
        }
        Compared { finding, key_of: None }
    }

    fn text(&self, curl: bool) -> String {
        let (partner, request) = (self.partner(), self.request);
        let mut rows = vec![
            ("account", format!("{}, {}", self.account.name, partner.profile.title)),
            ("call", format!("{}, signed in {} mode: {}", request.operation.name(), self.mode().name(), self.signer())),
        ];
        if let Some(fingerprint) = self.fingerprint() {
            rows.push(("public key", format!("SHA-256 {fingerprint}")));
            rows.push(("", "compare: openssl pkey -in KEY.pem -pubout -outform DER | sha256sum".into()));
        }
        rows.push(("URL", format!("POST {}", request.url)));
        if let Some(path) = self.signed_path() {
            rows.push(("signed path", path.into()));
        }
        rows.push(("body", self.body().into_owned()));
        rows.push(("", format!("{} bytes, without a new line at the end", request.body.len())));
        rows.push(("its SHA-256", self.body_hash()));
        rows.push(("string to sign", request.string_to_sign.expose_secret().into()));
        rows.push(("signature", request.signature.expose_secret().into()));
        let mut text = String::new();
        for (name, value) in rows {
            push(&mut text, &format!("{name:15} {value}"));
        }
        push(&mut text, "headers");
        for (name, value) in self.headers() {
            push(&mut text, &format!("  {name}: {value}"));
        }
        if self.is_meaningless() {
            push(
                &mut text,
                "\nnote: <token> stands where the access token belongs, and the token is part of what is signed:\n      \
                 this signature is of no use. Give the token with --token env:NAME or file:PATH.",
            );
        } else if self.lacks_token() {
            push(
                &mut text,
                "\nnote: <token> stands where the access token belongs. The signature is good all the same: the token is no part of it.",
            );
        }
        if curl {
            let what = match request.operation {
                Operation::Cancel => "running this cancels, as long as the timestamp is fresh",
                _ => "good as long as the timestamp is fresh",
            };
            push(&mut text, &format!("\n# {what}\n{}", self.curl()));
        }
        text.trim_end().to_owned()
    }

    fn curl(&self) -> String {
        let headers: String =
            self.headers().map(|(name, value)| format!(" \\\n  -H {}", quoted(&format!("{name}: {value}")))).collect();
        format!("curl -i {}{headers} \\\n  --data-raw {}", quoted(&self.request.url), quoted(&self.body()))
    }

    fn json(&self, compared: Option<&Compared>) -> Value {
        let request = self.request;
        let headers: Map<_, _> = self.headers().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let mut object = json!({
            "account": self.account.name,
            "provider": self.partner().profile.name,
            "operation": request.operation.name(),
            "mode": self.mode().name(),
            "method": "POST",
            "url": request.url,
            "signedPath": self.signed_path(),
            "headers": headers,
            "body": self.body(),
            "bodyHash": self.body_hash(),
            "stringToSign": request.string_to_sign.expose_secret(),
            "signature": request.signature.expose_secret(),
            "publicKeySha256": self.fingerprint(),
            "tokenIsPlaceholder": self.lacks_token(),
        });
        if let Some(Compared { finding, key_of }) = compared {
            let mistakes: &[Mistake] = if let Finding::Mistakes(mistakes) = finding { mistakes } else { &[] };
            object["expected"] = json!({
                "same": *finding == Finding::Equal && key_of.is_none(),
                "madeWith": mistakes.iter().map(|mistake| mistake.name).collect::<Vec<_>>(),
            });
            if let Some(account) = key_of {
                object["expected"]["keyOf"] = json!(account);
            }
        }
        object.as_object_mut().expect("made as an object").retain(|_, value| !value.is_null());
        object
    }
}

impl Compared {
    fn to_text(&self) -> String {
        let mut made_with: Vec<String> = Vec::new();
        if let Some(account) = &self.key_of {
            made_with.push(format!("the private key of the account {account}"));
        }
        let mut mends = Vec::new();
        match &self.finding {
            Finding::Equal => {}
            Finding::Mistakes(mistakes) => {
                made_with.extend(mistakes.iter().map(|mistake| mistake.name.to_owned()));
                mends.extend(mistakes.iter().filter_map(|mistake| mistake.mend));
            }
            Finding::Unknown { tried, hint } => {
                return format!(
                    "The expected signature is another one, and none of {tried} ways to make it gives it. {hint}\nTried: {}\n\
                     Ask the bank for the string that it signs or checks, to the letter, for the SHA-256 of the body as it came, and \
                     which public key (its SHA-256) or secret it has for you; and make sure that command and --timestamp are the same.",
                    compare::TRIED
                );
            }
        }
        let mend = match mends.is_empty() {
            true => String::new(),
            false => format!("\nIf the bank says that this is right, set {}.", mends.join(", and ")),
        };
        format!("The expected signature is another one: it was made with {}.{mend}", made_with.join(", and "))
    }
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a text takes every line");
}

/// For a shell: nothing within single quotes means anything.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc()).map_err(|_| "write it like 2026-11-20T18:30:15+07:00".into())
}

fn digits(text: &str) -> Result<String, String> {
    match (1..=36).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(text.to_owned()),
        false => Err("X-EXTERNAL-ID is 1 to 36 digits".into()),
    }
}
