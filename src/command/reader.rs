//! From a command's JSON to its fields, each by its rule. What is wrong is noted, and reading goes on. Pure.

use super::*;

/// Takes the fields of a command out of its JSON, one by one, and notes what is wrong.
pub struct Reader<'a> {
    pub members: json::Borrowed<'a>,
    pub violations: Vec<Violation>,
    /// Where the job id comes from when the body has none: its name there, and the value.
    fallback_id: Option<(&'static str, String)>,
}

impl<'a> Reader<'a> {
    pub fn open(bytes: &'a [u8], hints: Hints<'a>) -> Result<Self, Rejection> {
        let text = text(bytes, hints)?;
        let duplicates =
            json::duplicate_keys(text).map_err(|e| Rejection::whole(Cause::NotJson, format!("not JSON: {e}")))?;
        let mut members = json::members(text).ok_or_else(|| {
            Rejection::whole(Cause::NotJson, "a command is a JSON object, with its fields inside { and }")
        })?;
        let mut violations: Vec<_> = duplicates
            .into_iter()
            .take(MAX_VIOLATIONS)
            .map(|path| {
                violation(&path, Cause::DuplicateKey, "this key stands twice in the same object; one of them must go")
            })
            .collect();
        let mut fallback_id = hints.message_id.map(|id| ("message_id", id.to_owned()));
        let says_event =
            hints.content_type.is_some_and(|t| media_type(t).eq_ignore_ascii_case("application/cloudevents+json"));
        if says_event || json::get(&members, "specversion").is_some() {
            if let Some(id) = json::get(&members, "id").and_then(json::string) {
                fallback_id = Some(("id", id));
            }
            members = cloud_event_data(&members, &mut violations).ok_or_else(|| Rejection {
                violations: std::mem::take(&mut violations),
                ..Rejection::whole(Cause::NotJson, "")
            })?;
        }
        Ok(Self { members, violations, fallback_id })
    }

    pub fn command(&mut self, terms: Terms<'_>) -> Option<CancelCommand> {
        let job_id = self.job_id();
        let mut texts = BTreeMap::new();
        let mut own_merchant_fields = false;
        for field in CommandField::ALL {
            use CommandField::{AdditionalInfo, Amount, ExternalStoreId, MerchantId, SubMerchantId};
            if matches!(field, Amount | AdditionalInfo) {
                continue;
            }
            let taken = terms.profile.cancel_field(field);
            let own = self.text(field, taken, terms.profile);
            let merchant = matches!(field, MerchantId | SubMerchantId | ExternalStoreId);
            own_merchant_fields |= merchant && own.is_some();
            let Some(taken) = taken else { continue };
            match own.or_else(|| terms.defaults.get(field).map(str::to_owned)) {
                Some(text) => drop(texts.insert(field, text)),
                None if taken.required && !self.blames(field.name()) => self.missing(field.name()),
                None => {}
            }
        }
        if !texts.iter().any(|(field, text)| field.name().starts_with("original") && !text.is_empty())
            && !self.violations.iter().any(|violation| violation.field.starts_with("original"))
        {
            self.missing("originalReferenceNo");
        }
        let amount = self.amount(terms.profile);
        let additional_info = self.additional_info(terms.profile);
        let not_after = self.time("notAfter");
        let qr_expires_at = self.time("qrExpiresAt");
        let metadata = self.metadata();
        self.refuse_the_rest();
        Some(CancelCommand {
            job_id: job_id?,
            texts,
            own_merchant_fields,
            amount,
            additional_info,
            not_after,
            qr_expires_at,
            metadata,
        })
    }

    /// What an event can name of a command that is not sent.
    pub fn peek(&mut self) -> Rejection {
        let violations = std::mem::take(&mut self.violations);
        let mut reference = |name| self.take(name).and_then(json::string).filter(|text| text.chars().count() <= 64);
        let original_reference_no = reference("originalReferenceNo");
        let original_partner_reference_no = reference("originalPartnerReferenceNo");
        let (job_id, metadata) = (self.job_id(), self.metadata());
        self.violations.clear();
        Rejection { violations, job_id, original_reference_no, original_partner_reference_no, metadata }
    }

    fn job_id(&mut self) -> Option<String> {
        let rule = "1 to 128 visible ASCII characters";
        let good = |id: &str| (1..=MAX_JOB_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        let (name, id) = match self.take("jobId") {
            Some(raw) => ("jobId", json::string(raw)),
            None => match self.fallback_id.clone() {
                Some((name, id)) => (name, Some(id)),
                None => {
                    self.add(
                        "jobId",
                        Cause::MissingField,
                        format!("required, {rule} (or as the CloudEvents id, or the AMQP message_id)"),
                    );
                    return None;
                }
            },
        };
        let id = id.filter(|id| good(id));
        if id.is_none() {
            self.add(name, Cause::FieldValue, format!("must be a text of {rule}"));
        }
        id
    }

    fn text(&mut self, field: CommandField, taken: Option<&Field>, profile: &Profile) -> Option<String> {
        let name = field.name();
        let raw = self.take(name)?;
        let Some(taken) = taken else {
            self.not_taken(name, profile);
            return None;
        };
        let min = usize::from(taken.required);
        let rule = match min {
            0 => format!("must be a text of at most {} characters", taken.max),
            _ => format!("must be a text of 1 to {} characters", taken.max),
        };
        let Some(text) = json::string(raw) else {
            self.add(name, Cause::FieldValue, rule);
            return None;
        };
        if !(min..=taken.max).contains(&text.chars().count()) {
            self.add(name, Cause::FieldValue, rule);
            return None;
        }
        if text.chars().any(char::is_control) {
            self.add(name, Cause::FieldValue, format!("{rule}, without control characters"));
            return None;
        }
        Some(text)
    }

    fn amount(&mut self, profile: &Profile) -> Option<Amount> {
        let name = CommandField::Amount.name();
        let taken = profile.cancel_field(CommandField::Amount);
        let Some(raw) = self.take(name) else {
            if taken.is_some_and(|field| field.required) {
                self.missing(name);
            }
            return None;
        };
        if taken.is_none() {
            self.not_taken(name, profile);
            return None;
        }
        let amount = json::members(raw).and_then(|members| {
            let part = |name| json::get(&members, name).and_then(json::string);
            (members.len() == 2).then_some(Amount { value: part("value")?, currency: part("currency")? })
        });
        let good = |amount: &Amount| {
            let digits = |text: &str, len: std::ops::RangeInclusive<usize>| {
                len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
            };
            let value = amount
                .value
                .split_once('.')
                .is_some_and(|(whole, cents)| digits(whole, 1..=16) && digits(cents, 2..=2));
            value && amount.currency.len() == 3 && amount.currency.bytes().all(|b| b.is_ascii_uppercase())
        };
        let amount = amount.filter(good);
        if amount.is_none() {
            self.add(name, Cause::FieldValue, r#"must be {"value":"10000.00","currency":"IDR"}: up to 16 digits, a point and 2 digits; 3 capital letters"#);
        }
        amount
    }

    fn additional_info(&mut self, profile: &Profile) -> Option<Members> {
        let name = CommandField::AdditionalInfo.name();
        let taken = profile.cancel_field(CommandField::AdditionalInfo);
        let raw = self.take(name);
        let Some(taken) = taken else {
            if raw.is_some() {
                self.not_taken(name, profile);
            }
            return None;
        };
        let given = match raw {
            None if taken.required && taken.constants.is_empty() => {
                self.missing(name);
                return None;
            }
            None if taken.constants.is_empty() => return None,
            None => Members::default(),
            Some(raw) => {
                let Some(members) = json::members(raw) else {
                    self.add(name, Cause::FieldValue, "must be a JSON object");
                    return None;
                };
                json::minified(&members)
            }
        };
        let mut info = Members::default();
        for (key, value) in &taken.constants {
            let constant = serde_json::to_string(value).expect("a text is JSON");
            if given.get(key).is_some_and(|own| json::string(own).as_deref() != Some(value)) {
                let rule = format!("is always {constant} at {}; leave it out", profile.title);
                self.add(&format!("{name}.{key}"), Cause::ConstantOverridden, rule);
            }
            info.push(key.clone(), RawValue::from_string(constant).expect("a text is JSON"));
        }
        for (key, value) in given {
            if !taken.constants.contains_key(&key) {
                info.push(key, value);
            }
        }
        Some(info)
    }

    fn time(&mut self, name: &str) -> Option<DateTime<Utc>> {
        let raw = self.take(name)?;
        let time = json::string(raw).and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
        if time.is_none() {
            self.add(
                name,
                Cause::FieldValue,
                "must be a time as RFC 3339 writes it, with an offset, like \"2026-11-20T18:30:15+07:00\"",
            );
        }
        time.map(|time| time.to_utc())
    }

    fn metadata(&mut self) -> Option<Box<RawValue>> {
        let raw = self.take("metadata")?;
        if json::members(raw).is_none() {
            self.add("metadata", Cause::FieldValue, "must be a JSON object");
            return None;
        }
        Some(RawValue::from_string(raw.to_owned()).expect("was read as JSON"))
    }

    fn refuse_the_rest(&mut self) {
        for (name, _) in std::mem::take(&mut self.members) {
            if !self.blames(&name) {
                self.add(&name, Cause::UnknownField, "no field of a cancel command has this name");
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<&'a str> {
        let at = self.members.iter().position(|(key, _)| key == name)?;
        let (_, raw) = self.members.remove(at);
        // A duplicate is already noted; its other value is not a second mistake.
        self.members.retain(|(key, _)| key != name);
        Some(raw)
    }

    fn blames(&self, name: &str) -> bool {
        self.violations.iter().any(|violation| violation.field == name)
    }

    fn missing(&mut self, name: &str) {
        let rule = match name {
            "originalReferenceNo" => "required: it says which transaction is meant",
            _ => "required",
        };
        self.add(name, Cause::MissingField, rule);
    }

    fn not_taken(&mut self, name: &str, profile: &Profile) {
        self.add(name, Cause::UnknownField, format!("{} takes no {name} in a cancel; leave it out", profile.title));
    }

    fn add(&mut self, field: &str, cause: Cause, rule: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation(field, cause, rule));
        }
    }
}
