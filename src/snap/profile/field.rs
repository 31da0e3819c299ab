//! The fields of a request body, and where their values come from.

use serde::Deserialize;
use std::collections::BTreeMap;

/// One field of a request body.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, try_from = "RawField")]
pub struct Field {
    /// Its name in the body; `additionalInfo.contractId` is a field inside an object.
    pub name: String,
    pub source: Source,
    pub required: bool,
    /// Longest value in characters.
    pub max: usize,
    /// Entries of the object that are always sent with these values.
    pub constants: BTreeMap<String, String>,
}

impl Field {
    /// The object that it stands in, if it does, and its name there.
    pub fn place(&self) -> (Option<&str>, &str) {
        match self.name.split_once('.') {
            Some((object, name)) => (Some(object), name),
            None => (None, &self.name),
        }
    }
}

/// Where a body field's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A field of the command (or, for merchant fields, the account's default).
    Command(CommandField),
    /// Always this.
    Constant(String),
}

/// A command's fields that can be sent to a provider, with the name they have in a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CommandField {
    OriginalReferenceNo,
    OriginalPartnerReferenceNo,
    OriginalExternalId,
    Reason,
    MerchantId,
    SubMerchantId,
    ExternalStoreId,
    Amount,
    AdditionalInfo,
}

impl CommandField {
    pub const ALL: [Self; 9] = [
        Self::OriginalReferenceNo,
        Self::OriginalPartnerReferenceNo,
        Self::OriginalExternalId,
        Self::Reason,
        Self::MerchantId,
        Self::SubMerchantId,
        Self::ExternalStoreId,
        Self::Amount,
        Self::AdditionalInfo,
    ];

    /// The name in a command.
    pub fn name(self) -> &'static str {
        match self {
            Self::OriginalReferenceNo => "originalReferenceNo",
            Self::OriginalPartnerReferenceNo => "originalPartnerReferenceNo",
            Self::OriginalExternalId => "originalExternalId",
            Self::Reason => "reason",
            Self::MerchantId => "merchantId",
            Self::SubMerchantId => "subMerchantId",
            Self::ExternalStoreId => "externalStoreId",
            Self::Amount => "amount",
            Self::AdditionalInfo => "additionalInfo",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawField {
    name: String,
    from: Option<CommandField>,
    value: Option<String>,
    #[serde(default)]
    required: bool,
    max: Option<usize>,
    #[serde(default)]
    constants: BTreeMap<String, String>,
}

impl TryFrom<RawField> for Field {
    type Error = String;

    fn try_from(raw: RawField) -> Result<Self, String> {
        let name = &raw.name;
        if name.is_empty() {
            return Err("a field's name is empty".into());
        }
        let parts: Vec<_> = name.split('.').collect();
        if parts.len() > 2 || parts.contains(&"") {
            return Err(format!("{name}: a field inside an object is written object.field, one level deep"));
        }
        let own_name = || CommandField::ALL.into_iter().find(|field| field.name() == name);
        let source = match (raw.from, raw.value) {
            (Some(_), Some(_)) => return Err(format!("{name}: give `from` or `value`, not both")),
            (None, Some(value)) => Source::Constant(value),
            (Some(field), None) => Source::Command(field),
            (None, None) => Source::Command(own_name().ok_or_else(|| {
                format!("{name} is no field of a command: say with `from` which field fills it, or give its `value`")
            })?),
        };
        let of_object = source == Source::Command(CommandField::AdditionalInfo);
        if !raw.constants.is_empty() && !of_object {
            return Err(format!("{name}: only additionalInfo can have `constants`"));
        }
        let is_text = matches!(source, Source::Command(f) if f != CommandField::Amount && !of_object);
        let max = match (raw.max, is_text) {
            (Some(0), _) => return Err(format!("{name}: `max` must be at least 1")),
            (Some(_), false) => return Err(format!("{name}: `max` is for texts of the command")),
            (None, true) => return Err(format!("{name}: `max`, its longest length in characters, is missing")),
            (max, _) => max.unwrap_or(usize::MAX),
        };
        Ok(Self { name: raw.name, source, required: raw.required, max, constants: raw.constants })
    }
}
