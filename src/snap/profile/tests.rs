mod dialect;

use super::*;
use crate::{
    command::{CancelCommand, Hints, Terms},
    outcome::Cause,
    snap::{
        Operation, Reply,
        key::PrivateKey,
        request::{Ids, MerchantDefaults, Partner, Route, SignedRequest},
        response::{Answer, TokenAnswer},
    },
    verdict::{self, Asked, Verdict},
};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

const MADE_UP: &str = include_str!("../../../tests/vectors/made-up-dialect.toml");

fn made_up() -> Profile {
    Profile::read("made-up-dialect.toml", MADE_UP).unwrap()
}

#[test]
fn the_built_in_profiles_load_and_bear_their_names() {
    for (name, text) in BUILT_IN {
        let profile = Profile::find(name, Path::new("/nowhere")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(profile.name, name);
        assert_eq!(profile.means, Means::Withdraw);
        assert_eq!(profile.external_id.digits, 32);
        assert_eq!(profile.external_id.repeat == Repeat::Same, name == "midtrans", "{name}");
        assert!(profile.query.is_some_and(|query| query.status["00"] == Status::Paid), "{name}");
        assert!(text.starts_with('#'), "{name} says where it comes from");
        assert!(text.contains("Not confirmed:") || ["ifortepay", "bnc", "aspi"].contains(&name), "{name}");
    }
    let ifortepay = Profile::find("ifortepay", Path::new("")).unwrap();
    assert!(ifortepay.notes.iter().any(|note| note.contains("NOBU dynamic QRIS only")));
    assert!(ifortepay.query.unwrap().not_found_can_mean_expired);
    let bnc = Profile::find("bnc", Path::new("")).unwrap();
    assert_eq!((bnc.cancel.path, bnc.query.unwrap().path), (None, None));
}

#[test]
fn a_profile_is_found_by_its_built_in_name_or_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bank.toml"), MADE_UP).unwrap();
    assert_eq!(Profile::find("bank.toml", folder.path()).unwrap().name, "made-up");
    assert_eq!(Profile::find("./bank.toml", folder.path()).unwrap().name, "made-up");
    let absolute = folder.path().join("bank.toml");
    assert_eq!(Profile::find(absolute.to_str().unwrap(), Path::new("/nowhere")).unwrap().name, "made-up");

    let error = Profile::find("bank", folder.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        "bank: no built-in profile has this name; there are ifortepay, bnc, midtrans, winpay, doku, ayolinx, aspi, or give a file's path"
    );
    let error = Profile::find("other.toml", folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("other.toml: cannot be read: "), "{error}");
    std::fs::write(folder.path().join("bank.toml"), MADE_UP.replace("name = \"made-up\"", "nam = \"made-up\""))
        .unwrap();
    let error = Profile::find("bank.toml", folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("bank.toml:2: unknown field `nam`"), "{error}");
}

/// What is broken in the made-up dialect (a text of it, and what stands there instead), the line that is blamed (by a text
/// that stands in it; empty: none), and a part of the reason.
const BROKEN: &[(&str, &str, &str, &str)] = &[
    ("means = \"withdraw\"", "means = \"withdraw\"\nmaens = 1", "maens", "unknown field `maens`, expected one of"),
    (
        "offset = \"Z\"",
        "offset = \"Z\"\nzone = \"UTC\"",
        "zone",
        "unknown field `zone`, expected `offset` or `fraction`",
    ),
    ("own_host = true", "own_hots = true", "own_hots", "unknown field `own_hots`"),
    ("from = \"reason\", required", "form = \"reason\", required", "form =", "unknown field `form`"),
    ("means = \"withdraw\"", "means = \"reverse\"", "means", "is a refund; this worker only withdraws unpaid QRs"),
    ("means = \"withdraw\"", "means = \"void\"", "means", "expected `withdraw` or `reverse`"),
    ("title = \"Made-Up Bank\"\n", "", "", "missing field `title`"),
    ("name = \"made-up\"", "name = 5", "name = 5", "expected a string"),
    ("modes = [\"symmetric\", \"asymmetric\"]", "modes = []", "modes", "name at least one signing mode"),
    ("modes = [\"symmetric\",", "modes = [\"hmac\",", "modes", "expected `symmetric` or `asymmetric`"),
    ("signature = \"hex\"", "signature = \"HEX\"", "HEX", "expected `hex` or `base64`"),
    ("offset = \"Z\"", "offset = \"+08:00\"", "+08:00", "expected `+07:00` or `Z`"),
    ("digits = 20", "digits = 15", "digits = 15", "15 digits: X-EXTERNAL-ID has 16 to 36"),
    ("digits = 20", "digits = 37", "digits = 37", "37 digits: X-EXTERNAL-ID has 16 to 36"),
    ("repeat = \"same\"", "repeat = \"never\"", "never", "expected `new` or `same`"),
    (
        "\"{channel_id}\"",
        "\"{channel}\"",
        "{channel}",
        "{channel} is not a value a header can hold; there are {token},",
    ),
    ("\"{channel_id}\"", "\"{channel_id\"", "{channel_id", "a { has no }"),
    ("\"2.1\"", "\"2.1\\n\"", "2.1\\n", "only printable ASCII can be sent"),
    ("\"X-Channel\"", "\"X Channel\"", "[headers]", "\"X Channel\" is no name of a header"),
    ("\"X-Channel\"", "\"content-Type\"", "[headers]", "content-Type is set by the worker itself"),
    ("\"X-Channel\"", "\"x-request-time\"", "[headers]", "the header x-request-time stands there twice"),
    ("v2={signature};q=1", "v2", "[headers]", "no header holds {signature}"),
    ("\"X-Request-Time\" = \"{timestamp}\"\n", "", "[headers]", "no header holds {timestamp}"),
    ("\"Token {token}\"", "\"Token\"", "[headers]", "no header holds {token}"),
    ("\"X-Kind\" = \"b2b\"", "\"X-Kind\" = \"{token}\"", "[token]", "a token call has no {token} and no {external_id}"),
    ("\"X-Kind\" = \"b2b\"", "\"X-Kind\" = \"{external_id}\"", "[token]", "no {token} and no {external_id}"),
    ("access_token = [\"token\", \"bearer\"]", "access_token = []", "[token]", "at least one accepted name"),
    ("expires_in = [\"ttl\", \"seconds\"]", "expires_in = []", "[token]", "at least one accepted name"),
    ("path = \"/oauth/v9/token\"", "path = \"oauth/v9/token\"", "\"oauth/", "must start with /"),
    (
        "path = \"/gate/qris/void\"",
        "path = \"/gate/qris/void?x=1\"",
        "void?x",
        "hold no query, fragment, space or escape",
    ),
    (
        "signed_path = \"/qris/void\"",
        "signed_path = \"https://bank.example/qris\"",
        "https://bank",
        "must start with /",
    ),
    (
        "from = \"reason\", required = true, max = 12",
        "from = \"reason\", required = true",
        "fields = [",
        "why: `max`, its longest length in characters, is missing",
    ),
    ("max = 12", "max = 0", "fields = [", "why: `max` must be at least 1"),
    ("max = 12", "max = -1", "max = -1", "invalid value: integer `-1`"),
    (
        "from = \"amount\", required = true",
        "from = \"amount\", max = 5",
        "fields = [",
        "sum: `max` is for texts of the command",
    ),
    (
        "name = \"serviceVersion\", value = \"2\"",
        "name = \"serviceVersion\"",
        "fields = [",
        "serviceVersion is no field of a command: say with `from`",
    ),
    (
        "name = \"serviceVersion\", value = \"2\"",
        "name = \"serviceVersion\", value = \"2\", from = \"reason\"",
        "fields = [",
        "serviceVersion: give `from` or `value`, not both",
    ),
    ("name = \"serviceVersion\"", "name = \"\"", "fields = [", "a field's name is empty"),
    ("name = \"serviceVersion\"", "name = \"a.b.c\"", "fields = [", "a.b.c: a field inside an object is written"),
    ("name = \"serviceVersion\"", "name = \"a.\"", "fields = [", "is written object.field, one level deep"),
    (
        "name = \"serviceVersion\"",
        "name = \"extra.version\"",
        "[cancel]",
        "extra.version stands in an object that is a field",
    ),
    ("escapes = \"php\"", "escapes = \"PHP\"", "PHP", "expected `none` or `php`"),
    (
        "name = \"shopRef\", from = \"originalPartnerReferenceNo\", max = 9 },\n    { name = \"sum\"",
        "name = \"why\", from = \"originalPartnerReferenceNo\", max = 9 },\n    { name = \"sum\"",
        "[cancel]",
        "why is listed twice",
    ),
    ("name = \"query\", value", "name = \"bankRef\", value", "[query]", "bankRef is listed twice"),
    (
        "from = \"externalStoreId\", max = 8",
        "from = \"externalStoreId\", max = 8, constants = { a = \"b\" }",
        "fields = [",
        "storeCode: only additionalInfo can have `constants`",
    ),
    ("from = \"externalStoreId\"", "from = \"storeId\"", "storeId", "unknown variant `storeId`, expected one of"),
    (
        "name = \"query\", value = \"status\"",
        "name = \"shop\", from = \"merchantId\", max = 9",
        "[query]",
        "shop is filled from merchantId, which [cancel] does not take",
    ),
    ("\"08\" = \"expired\"", "\"08\" = \"timeout\"", "timeout", "unknown variant `timeout`, expected one of"),
    ("\"08\" = \"expired\"", "\"00\" = \"expired\"", "\"00\" = \"expired\"", "duplicate key"),
    ("verdict = \"pending\"", "verdict = \"wait\"", "wait", "unknown variant `wait`, expected one of `canceled`"),
    ("cause = \"not_authorized\"", "cause = \"paid\"", "cause = \"paid\"", "expected one of `response_code`"),
    ("4037705 =", "4035105 =", "4035105", "\"4035105\" is no response code of a cancel: three digits, 77, two digits"),
    ("4037705 =", "403775 =", "403775 ", "\"403775\" is no response code of a cancel"),
    ("4037705 =", "4037701 =", "4037701 = { verdict = \"pending\"", "duplicate key"),
    ("[defaults]", "[defaults", "[defaults", ""),
];

#[test]
fn every_mistake_in_a_profile_is_refused_with_its_line_and_what_to_do() {
    let mut wrong = Vec::new();
    for (good, bad, blamed, reason) in BROKEN {
        assert!(MADE_UP.contains(good), "{good:?} stands in the dialect");
        let text = MADE_UP.replacen(good, bad, 1);
        match Profile::read("bank.toml", &text) {
            Ok(_) => wrong.push(format!("{bad:?} passes")),
            Err(error) => {
                let line = text.lines().position(|line| line.contains(blamed)).map(|at| at + 1);
                if error.line != line || !error.reason.contains(reason) || error.place != "bank.toml" {
                    wrong.push(format!("{bad:?} is blamed as {error}, line {line:?} was expected, and {reason:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn symmetric_signing_or_a_token_needs_a_section_that_says_how_to_get_one() {
    let begin = MADE_UP.find("[token]").unwrap();
    let end = MADE_UP.find("[cancel]").unwrap();
    let text = format!("{}{}", &MADE_UP[..begin], &MADE_UP[end..]);
    let line = |text: &str| text.lines().position(|line| line == "[signing]").map(|at| at + 1);
    for text in [text.clone(), text.replace("token = true", ""), text.replace("\"symmetric\", ", "")] {
        let error = Profile::read("bank.toml", &text).unwrap_err();
        assert_eq!(error.line, line(&text));
        assert!(error.reason.contains("there is no [token] section"), "{error}");
    }
    let without = text.replace("token = true", "").replace("\"symmetric\", ", "").replace("Token {token}", "none");
    assert!(!Profile::read("bank.toml", &without).unwrap().needs_token(SigningMode::Asymmetric));
}

#[test]
fn a_template_with_one_placeholder_can_be_taken_apart() {
    let template = |text: &str| Template::try_from(text.to_owned()).unwrap();
    assert_eq!(template("v2={signature};q=1").around(), Some(("v2=", Placeholder::Signature, ";q=1")));
    assert_eq!(template("{token}").around(), Some(("", Placeholder::Token, "")));
    assert_eq!(template("Bearer {token}").around(), Some(("Bearer ", Placeholder::Token, "")));
    assert_eq!(template("{token}!").around(), Some(("", Placeholder::Token, "!")));
    assert_eq!(template("{partner_id}/{client_key}").around(), None);
    assert_eq!(template("2.1").around(), None);
}
