//! A command becomes the bytes of a call: path, headers, body. Pure.
//!
//! A [`Partner`] is what a provider knows us by: its profile, our ids and our keys. The body is serialised once; the
//! bytes that are hashed are the bytes that are sent.

use super::{
    Operation,
    key::PrivateKey,
    profile::{
        CommandField, Escapes, Field, Placeholder, Profile, Repeat, SigningMode, Source, Template, TimestampForm,
    },
    sign,
};
use crate::command::{Amount, CancelCommand, Members};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{
    Serialize,
    ser::{SerializeMap, Serializer},
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What one provider knows us by.
pub struct Partner {
    pub profile: Profile,
    pub mode: SigningMode,
    /// Scheme and host, without a slash at the end.
    pub base_url: String,
    /// The same for token calls.
    pub token_base_url: String,
    pub cancel: Route,
    /// Absent where the account has no way to query.
    pub query: Option<Route>,
    pub ids: Ids,
    pub merchant: MerchantDefaults,
    pub private_key: Option<PrivateKey>,
    pub client_secret: Option<SecretString>,
}

/// A call's requested path and its signed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub path: String,
    pub signed_path: String,
}

/// Our ids at the provider, as headers carry them.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    pub partner_id: Option<String>,
    pub client_key: Option<String>,
    pub channel_id: Option<String>,
    pub origin: Option<String>,
}

impl Ids {
    fn get(&self, placeholder: Placeholder) -> Option<&str> {
        match placeholder {
            Placeholder::PartnerId => self.partner_id.as_deref(),
            Placeholder::ClientKey => self.client_key.as_deref(),
            Placeholder::ChannelId => self.channel_id.as_deref(),
            Placeholder::Origin => self.origin.as_deref(),
            _ => None,
        }
    }
}

/// An account's values for merchant fields that a command leaves out.
#[derive(Debug, Clone, Default)]
pub struct MerchantDefaults {
    pub merchant_id: Option<String>,
    pub sub_merchant_id: Option<String>,
    pub external_store_id: Option<String>,
}

impl MerchantDefaults {
    pub fn get(&self, field: CommandField) -> Option<&str> {
        match field {
            CommandField::MerchantId => self.merchant_id.as_deref(),
            CommandField::SubMerchantId => self.sub_merchant_id.as_deref(),
            CommandField::ExternalStoreId => self.external_store_id.as_deref(),
            _ => None,
        }
    }
}

/// A call, ready to be sent as it is.
pub struct SignedRequest {
    pub operation: Operation,
    pub url: String,
    /// Name and value; a value may be secret (token, signature) and is never shown.
    pub headers: Vec<(String, SecretString)>,
    pub body: Vec<u8>,
    /// What was signed and the result, for whoever compares signatures.
    pub string_to_sign: SecretString,
    pub signature: SecretString,
    /// The access token that it carries.
    pub token: Option<SecretString>,
}

impl Partner {
    /// Whether calls carry an access token.
    pub fn needs_token(&self) -> bool {
        self.profile.needs_token(self.mode)
    }

    /// Whether the other was made with the same keys.
    pub fn has_the_keys_of(&self, other: &Self) -> bool {
        let key = |partner: &Self| partner.private_key.as_ref().map(PrivateKey::fingerprint);
        let secret = |partner: &Self| partner.client_secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        key(self) == key(other) && secret(self) == secret(other) && self.ids.client_key == other.ids.client_key
    }

    /// Which values the account lacks: a setting's name, and why it is needed.
    pub fn lacks(&self) -> Vec<(&'static str, String)> {
        let title = &self.profile.title;
        let mut lacks = Vec::new();
        let headers = self
            .profile
            .headers
            .iter()
            .chain(self.profile.token.iter().filter(|_| self.needs_token()).flat_map(|t| &t.headers));
        for (header, template) in headers {
            for placeholder in template.placeholders() {
                use Placeholder::{ChannelId, ClientKey, Origin, PartnerId};
                let of_account = matches!(placeholder, PartnerId | ClientKey | ChannelId | Origin);
                let named = lacks.iter().any(|(name, _)| *name == placeholder.name());
                if of_account && self.ids.get(placeholder).is_none() && !named {
                    lacks.push((placeholder.name(), format!("{title} wants it in the header {header}")));
                }
            }
        }
        if self.needs_token() && self.ids.client_key.is_none() && !lacks.iter().any(|(name, _)| *name == "client_key") {
            lacks.push(("client_key", format!("{title}'s token call is signed with it")));
        }
        if self.mode == SigningMode::Symmetric && self.client_secret.is_none() {
            lacks.push(("client_secret", format!("{title}'s symmetric signatures are made with it")));
        }
        if self.private_key.is_none() && (self.mode == SigningMode::Asymmetric || self.needs_token()) {
            let what = if self.mode == SigningMode::Asymmetric { "asymmetric signatures are" } else { "token call is" };
            lacks.push(("private_key", format!("{title}'s {what} signed with it")));
        }
        lacks
    }

    /// The body of a cancel or a query, compact, fields in the profile's order.
    pub fn body(&self, operation: Operation, command: &CancelCommand) -> Vec<u8> {
        let no_fields = Vec::new();
        let fields = match operation {
            Operation::Cancel => &self.profile.cancel.fields,
            _ => self.profile.query.as_ref().map_or(&no_fields, |query| &query.fields),
        };
        let mut body = Vec::with_capacity(256);
        let mut json = serde_json::Serializer::new(&mut body);
        Object { name: None, fields, command }.serialize(&mut json).expect("texts can be written as JSON into memory");
        match (self.profile.signing.escapes, std::str::from_utf8(&body)) {
            (Escapes::Php, Ok(text)) => sign::php_escaped(text).into_bytes(),
            _ => body,
        }
    }

    /// A cancel or a query of a command.
    pub fn transaction(
        &self,
        operation: Operation,
        body: Vec<u8>,
        external_id: &str,
        token: Option<&SecretString>,
        at: DateTime<Utc>,
    ) -> SignedRequest {
        let route = match operation {
            Operation::Cancel => &self.cancel,
            _ => self.query.as_ref().expect("a query is only asked for where there is a way to ask"),
        };
        let timestamp = sign::timestamp(at, self.profile.timestamp);
        let hash = sign::body_hash(&body, self.profile.signing.body_hash);
        let bare_token = token.map(ExposeSecret::expose_secret);
        let string_to_sign = match self.mode {
            SigningMode::Symmetric => {
                sign::symmetric_string(&route.signed_path, bare_token.unwrap_or_default(), &hash, &timestamp)
            }
            SigningMode::Asymmetric => sign::asymmetric_string(&route.signed_path, &hash, &timestamp),
        };
        let signature = self.sign(&string_to_sign, self.mode);
        let values = Values {
            ids: &self.ids,
            timestamp: &timestamp,
            signature: &signature,
            external_id: Some(external_id),
            token: bare_token,
        };
        SignedRequest {
            operation,
            url: format!("{}{}", self.base_url, route.path),
            headers: values.render(&self.profile.headers),
            body,
            string_to_sign: string_to_sign.into(),
            signature: signature.into(),
            token: token.cloned(),
        }
    }

    /// The token call; `None` where the profile has none.
    pub fn token_request(&self, at: DateTime<Utc>) -> Option<SignedRequest> {
        let call = self.profile.token.as_ref()?;
        let form: TimestampForm = call.timestamp.unwrap_or(self.profile.timestamp);
        let timestamp = sign::timestamp(at, form);
        let string_to_sign = sign::token_string(self.ids.client_key.as_deref().unwrap_or_default(), &timestamp);
        let signature = self.sign(&string_to_sign, SigningMode::Asymmetric);
        let values =
            Values { ids: &self.ids, timestamp: &timestamp, signature: &signature, external_id: None, token: None };
        let body = serde_json::to_vec(&BTreeMap::from([(call.grant_field.as_str(), "client_credentials")]))
            .expect("texts are JSON");
        Some(SignedRequest {
            operation: Operation::Token,
            url: format!("{}{}", self.token_base_url, call.path.as_str()),
            headers: values.render(&call.headers),
            body,
            string_to_sign: string_to_sign.into(),
            signature: signature.into(),
            token: None,
        })
    }

    fn sign(&self, string_to_sign: &str, mode: SigningMode) -> String {
        let encoding = self.profile.signing.signature;
        match mode {
            SigningMode::Symmetric => {
                let secret = self.client_secret.as_ref().expect("checked when the account was made");
                sign::symmetric(string_to_sign, secret.expose_secret(), encoding)
            }
            SigningMode::Asymmetric => {
                let key = self.private_key.as_ref().expect("checked when the account was made");
                sign::asymmetric(string_to_sign, key, encoding)
            }
        }
    }

    /// The X-EXTERNAL-ID of a call, made of fresh randomness, unless the profile says that a repeated cancel keeps its id:
    /// then it is made of the command's bytes, so that any worker makes the same.
    /// After a conflict (409) the id is always fresh.
    pub fn external_id(&self, operation: Operation, command: &[u8], conflict: bool, random: u128) -> String {
        let digits = self.profile.external_id.digits;
        let same = operation == Operation::Cancel && self.profile.external_id.repeat == Repeat::Same && !conflict;
        let number = if same {
            let hash = Sha256::digest([b"X-EXTERNAL-ID ", command].concat());
            u128::from_be_bytes(hash[..16].try_into().expect("a hash has 32 bytes"))
        } else {
            random
        };
        // A u128 has 39 digits at most; the last ones of it are as random as it is.
        let text = format!("{number:039}");
        text[39 - digits..].to_owned()
    }
}

/// Values for the headers of one call.
struct Values<'a> {
    ids: &'a Ids,
    timestamp: &'a str,
    signature: &'a str,
    external_id: Option<&'a str>,
    token: Option<&'a str>,
}

impl Values<'_> {
    /// A header with a value that this call does not have (a token where none is used) is left out.
    fn render(&self, headers: &BTreeMap<String, Template>) -> Vec<(String, SecretString)> {
        let value = |placeholder| match placeholder {
            Placeholder::Token => self.token,
            Placeholder::Timestamp => Some(self.timestamp),
            Placeholder::Signature => Some(self.signature),
            Placeholder::ExternalId => self.external_id,
            of_account => self.ids.get(of_account),
        };
        headers.iter().filter_map(|(name, template)| Some((name.clone(), template.render(value)?.into()))).collect()
    }
}

/// The body, or an object inside it: its fields that the command fills, in the profile's order. An object stands where the
/// first of these is listed.
struct Object<'a> {
    name: Option<&'a str>,
    fields: &'a [Field],
    command: &'a CancelCommand,
}

/// What a field is filled with.
#[derive(Serialize)]
#[serde(untagged)]
enum Filling<'a> {
    Text(&'a str),
    Amount(&'a Amount),
    Members(&'a Members),
}

impl<'a> Object<'a> {
    fn filling(&self, field: &'a Field) -> Option<Filling<'a>> {
        match &field.source {
            Source::Constant(value) => Some(Filling::Text(value)),
            Source::Command(CommandField::Amount) => self.command.amount.as_ref().map(Filling::Amount),
            Source::Command(CommandField::AdditionalInfo) => {
                self.command.additional_info.as_ref().map(Filling::Members)
            }
            Source::Command(from) => self.command.text(*from).map(Filling::Text),
        }
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filled = self.fields.iter().filter_map(|field| Some((field.place(), self.filling(field)?)));
        let mut map = serializer.serialize_map(None)?;
        let mut written = Vec::new();
        for ((object, name), filling) in filled {
            if object == self.name {
                map.serialize_entry(name, &filling)?;
            } else if self.name.is_none() && !written.contains(&object) {
                written.push(object);
                map.serialize_entry(object.unwrap_or_default(), &Object { name: object, ..*self })?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod banks;
#[cfg(test)]
mod tests;
