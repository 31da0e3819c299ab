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

// The made-up dialect, spoken.

fn partner(mode: SigningMode) -> Partner {
    let profile = made_up();
    let route = |path: &Option<UrlPath>, signed: &Option<UrlPath>| {
        let text = |path: &Option<UrlPath>| path.as_ref().unwrap().as_str().to_owned();
        Route { path: text(path), signed_path: text(signed) }
    };
    let query = profile.query.clone().unwrap();
    Partner {
        mode,
        base_url: "https://bank.example".into(),
        token_base_url: "https://id.bank.example".into(),
        cancel: route(&profile.cancel.path, &profile.cancel.signed_path),
        query: Some(route(&query.path, &query.signed_path)),
        ids: Ids {
            partner_id: Some("MUB-77".into()),
            client_key: Some("MUB-KEY".into()),
            channel_id: profile.defaults.channel_id.clone(),
            origin: profile.defaults.origin.clone(),
        },
        merchant: MerchantDefaults { external_store_id: Some("T-9".into()), ..MerchantDefaults::default() },
        private_key: PrivateKey::read(include_bytes!("../../../tests/vectors/midtrans-public-sample-key.pem")).ok(),
        client_secret: Some("made-up secret".into()),
        profile,
    }
}

const COMMAND: &str = r#"{"jobId":"j","reason":"salah input","originalReferenceNo":"BR-1","originalPartnerReferenceNo":"SR-1",
    "amount":{"value":"2500.00","currency":"IDR"},"additionalInfo":{"note":{ "n": 1.10 },"lane":"7"}}"#;

fn command(partner: &Partner, json: &str) -> Result<CancelCommand, Vec<String>> {
    let terms = Terms { profile: &partner.profile, defaults: &partner.merchant };
    CancelCommand::read(json.as_bytes(), Hints::default(), terms).map_err(|rejection| {
        rejection.violations.into_iter().map(|v| format!("{} {}", v.cause.name(), v.field)).collect()
    })
}

fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-20T18:30:15.678Z").unwrap().to_utc()
}

fn headers(request: &SignedRequest) -> Vec<(&str, &str)> {
    request.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect()
}

#[test]
fn the_dialects_cancel_has_its_own_body_headers_and_string_to_sign() {
    let partner = partner(SigningMode::Symmetric);
    assert_eq!(partner.lacks(), []);
    let body = partner.body(Operation::Cancel, &command(&partner, COMMAND).unwrap());
    assert_eq!(
        String::from_utf8(body.clone()).unwrap(),
        r#"{"why":"salah input","serviceVersion":"2","storeCode":"T-9","bankRef":"BR-1","shopRef":"SR-1","sum":{"value":"2500.00","currency":"IDR"},"extra":{"kind":"QR","lane":"7","note":{"n":1.10}}}"#
    );
    let token = SecretString::from("tok-1");
    let id = partner.external_id(Operation::Cancel, b"digest", false, 1);
    assert_eq!(id, "07178707453828339910");
    assert_eq!(partner.external_id(Operation::Cancel, b"digest", false, 2), id);
    let request = partner.transaction(Operation::Cancel, body.clone(), &id, Some(&token), now());
    assert_eq!(request.url, "https://bank.example/gate/qris/void");
    // The expected signatures were made with openssl and Python's hashlib and hmac.
    assert_eq!(
        request.string_to_sign.expose_secret(),
        "POST:/qris/void:tok-1:F5wnsvBtGsRxOSsjRBS62v6voMaBqnT/5Tb+eNy7tzc=:2026-11-20T18:30:15.678Z"
    );
    let signature = "v2=333cb65954620e3d5aaaa8132ad05ad76fd970b6f2f983ec614710894286338a3e32dc99bf678dddbe2bba33c0d587f3d9fa55a901d46cf1980fcceb0ac25dbb;q=1";
    let expected = [
        ("X-Api-Version", "2.1"),
        ("X-Channel", "MB-1"),
        ("X-Client", "MUB-77/MUB-KEY"),
        ("X-Origin", "https://shop.example"),
        ("X-Request-Id", "mub-07178707453828339910"),
        ("X-Request-Sign", signature),
        ("X-Request-Time", "2026-11-20T18:30:15.678Z"),
        ("X-Token", "Token tok-1"),
    ];
    assert_eq!(headers(&request), expected);

    // In its other mode the token is sent, and not signed.
    let partner = self::partner(SigningMode::Asymmetric);
    assert!(partner.needs_token());
    let request = partner.transaction(Operation::Cancel, body, &id, Some(&token), now());
    assert_eq!(
        request.string_to_sign.expose_secret(),
        "POST:/qris/void:F5wnsvBtGsRxOSsjRBS62v6voMaBqnT/5Tb+eNy7tzc=:2026-11-20T18:30:15.678Z"
    );
    assert_eq!(
        request.signature.expose_secret(),
        "8d043d95e98621371cd192f9df5e56c6315b1fa9105bb6b6b691c7a76eaaf0cc50e436a7ae0c13e63ff934cdecb7cb729267cc5b2cbbb611cfd069a43d509dd5609ece48a017734d43a2f56d0c172eebe989ccf68f611cef6903e2083d33eeabb438dd9684d4be3245d2ee9d438009a3801d04a7b2eb719220cf5dd7016d198ea7bd2ef047243add5dacc94c3bc28a6c7db0f715b6b9bc44954373222bff5a36c503f7fa080f80197cca3648ee4fc2ba3daffc2fe66cd63f0310e711574e1e60dd5a1e23fd4c32f7f41561b6620bdf68692f976b84b1ec2be8bfb62f86615355a2d5c95697a691348b5595151cc5818d6ea8f0e4a30d4fd5152eba4ce2510511"
    );
}

#[test]
fn the_dialects_query_and_token_calls_are_its_own_too() {
    let partner = partner(SigningMode::Symmetric);
    let body = partner.body(Operation::Query, &command(&partner, COMMAND).unwrap());
    assert_eq!(String::from_utf8(body.clone()).unwrap(), r#"{"query":"status","bankRef":"BR-1","shopRef":"SR-1"}"#);
    let request = partner.transaction(Operation::Query, body, "1", Some(&SecretString::from("tok-1")), now());
    assert_eq!(request.url, "https://bank.example/gate/qris/status");
    assert_eq!(
        request.string_to_sign.expose_secret(),
        "POST:/qris/status:tok-1:uTBL9187PJBWnn94dXrMijfxFojG2V4a01MG0+47SPE=:2026-11-20T18:30:15.678Z"
    );
    assert_eq!(
        request.signature.expose_secret(),
        "ffdce5085be178fc5ecae588c7f173726851aeea1a4909820139519bcc86eb877f307e44dcd122608df53e50da175791eb813f2748ffb6eb70fd331eb5cb224a"
    );

    let request = partner.token_request(now()).unwrap();
    assert_eq!(request.url, "https://id.bank.example/oauth/v9/token");
    assert_eq!(String::from_utf8(request.body.clone()).unwrap(), r#"{"grant":"client_credentials"}"#);
    let signature = "14b68e666d2a4f68be17daee6b4b86affd2313126165819b0d22de7b9c414d752d026dd70bf831e0854379e7771719cee08cd5da425d7f6d87ecce99dfdf9314e9f1d6bdb17de4af52a279b5ab6e960c5ba6d2f341cf3591c23c5d08448310b7bf74ebd24a7bf42f0fe0dcec732445c84a40c180a61b18042e70ce6e3e97b92f1fe2183bf6581d4c9f9b2cbb97b41df1c430b273adb50ed30f1283de83e2ee05d6eb7e488d09d17959fdebb290aa772f09200cc51ec3e02646a884dd1e926c48e1cc416e81d442fd57573a58f9ef8d55b4b0a088380aa5d6030537ef8fe03baff6590ee176f0938163f5d4e07e10fdc6bd001bca3a9f19bd1c5bafe5bf9eaed3";
    let expected =
        [("X-Client", "MUB-KEY"), ("X-Kind", "b2b"), ("X-Sign", signature), ("X-Time", "2026-11-21T01:30:15+07:00")];
    assert_eq!(headers(&request), expected);

    let call = partner.profile.token.as_ref().unwrap();
    let read = |body: &[u8]| TokenAnswer::read(body, &call.access_token, &call.expires_in).unwrap();
    let answer = read(br#"{"bearer":"tok-1","seconds":"90"}"#);
    assert_eq!(answer.access_token.as_deref(), Some("tok-1"));
    assert_eq!(answer.expires_in, Some(Duration::from_secs(90)));
    assert_eq!(read(br#"{"accessToken":"tok-1","expiresIn":90}"#).access_token, None);
    assert_eq!(call.expires_default_s, 120);
}

#[test]
fn the_dialects_limits_hold_for_its_commands_by_the_commands_names() {
    let partner = partner(SigningMode::Symmetric);
    let faults = |json: &str| command(&partner, json).unwrap_err();
    assert_eq!(faults(&COMMAND.replace("salah input", "salah input!!")), ["field_value reason"]);
    assert!(command(&partner, &COMMAND.replace("salah input", "salah inpüt!")).is_ok());
    assert_eq!(faults(&COMMAND.replace("BR-1", "BR-12345678")), ["field_value originalReferenceNo"]);
    assert_eq!(faults(&COMMAND.replace("\"reason\"", "\"why\"")), ["missing_field reason", "unknown_field why"]);
    assert_eq!(faults(&COMMAND.replace("\"jobId\"", "\"merchantId\":\"m\",\"jobId\"")), ["unknown_field merchantId"]);
    assert_eq!(
        faults(&COMMAND.replace("\"lane\":\"7\"", "\"lane\":\"8\"")),
        ["constant_overridden additionalInfo.lane"]
    );
    assert_eq!(faults(&COMMAND.replace("\"amount\"", "\"metadata\"")), ["missing_field amount"]);
}

#[test]
fn the_dialects_codes_and_statuses_mean_what_it_says() {
    let profile = made_up();
    let reply = |body: String| Reply {
        http_status: body.split('"').find_map(|part| part.get(..3)?.parse().ok()).unwrap(),
        body: body.into_bytes(),
        retry_after: None,
        date: None,
    };
    let refused = |cause| Verdict::Refused { cause, malformed: false };
    for (code, expected) in [
        ("2007700", Verdict::Canceled),
        ("2027700", Verdict::Unknown),
        ("4007700", Verdict::Misconfigured { merchant: false }),
        ("4007701", Verdict::Refused { cause: Cause::ResponseCode, malformed: true }),
        ("4037701", refused(Cause::NotAuthorized)),
        ("4037705", Verdict::Pending),
        ("4047700", Verdict::Verify),
        ("4047701", refused(Cause::NotCancelableByProvider)),
        ("4097701", Verdict::Canceled),
        ("5007700", Verdict::Unknown),
        ("5007701", Verdict::Retry),
        ("5037700", Verdict::Token),
        ("5047700", Verdict::Verify),
    ] {
        let reply = reply(format!(r#"{{"responseCode":"{code}"}}"#));
        let answer = Answer::read(&reply.body);
        let verdict = verdict::of_cancel(Ok((&reply, answer.as_ref())), Asked::default(), &profile.codes);
        assert_eq!(verdict, expected, "{code}");
    }
    for (status, expected) in [
        ("00", Verdict::Status(Status::Open)),
        ("01", Verdict::Status(Status::Paid)),
        ("05", Verdict::Status(Status::Paying)),
        ("08", Verdict::Status(Status::Expired)),
        ("09", Verdict::Status(Status::Failed)),
        ("V", Verdict::Status(Status::Canceled)),
        ("R", Verdict::Status(Status::Refunded)),
        ("N", Verdict::Status(Status::NotFound)),
        ("02", Verdict::QueryFailed),
        ("v", Verdict::QueryFailed),
    ] {
        let reply = reply(format!(r#"{{"responseCode":"2005100","latestTransactionStatus":"{status}"}}"#));
        let answer = Answer::read(&reply.body);
        let verdict =
            verdict::of_query(Ok((&reply, answer.as_ref())), Asked::default(), profile.query.as_ref().unwrap());
        assert_eq!(verdict, expected, "{status}");
    }
    assert!(profile.query.unwrap().not_found_can_mean_expired);
}
