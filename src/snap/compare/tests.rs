use super::*;
use crate::snap::{
    key::PrivateKey,
    profile::Profile,
    request::{Ids, MerchantDefaults},
};
use aws_lc_rs::{rand::SystemRandom, signature::RsaKeyPair};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::Digest;
use std::collections::BTreeSet;

const KEY: &str = include_str!("../../../tests/vectors/midtrans-public-sample-key.pem");
const VECTORS: &str = include_str!("../../../tests/vectors/signatures.json");
const SECRET: &str = "bXlzZWNyZXQ=";
const BODY: &str = r#"{"b":"two words","a":"x/y é","n":1.10}"#;
/// By `openssl dgst -sha1 -sign`: the library makes no such signatures.
const BY_SHA1: &str = "Nv6jV/XD6fl8Uw72LLXcEG+Vrq+pEKL+oj9RTz6+bhW9nVO0FhcQDZX3yMg4Sws3xD91R2VHn8FkPy8dupsJCNppkfzrvGWdufG2KHM+IXn4AmsVqC/y5f+gm7AGE5g7xD0I9AeHrW/U6/vc8GYZRweVJb8ZR9bTH1FrYQJj6mzurY3D71hD/GrhtHweVli6z4WVdv5DkkLkbThTHDQoMt5iHPJz63r66zzx5H+aUowPGVlx/bXDCVLO+0DzVT2nJpVo9BTIZfCFmdkLfF2JGYdYhDv4HEdgHXpyu5Iue7pRocbALiivH1ZP48yA/qM/Vaq3vzECKzouIyRA3BIklw==";
const TIME: &str = "2026-11-20T18:30:15.678+07:00";

fn partner(mode: SigningMode, profile: &str) -> Partner {
    let profile = include_str!("../profiles/ifortepay.toml").replace("offset = \"+07:00\"", profile);
    let route = |path: &str, signed: &str| Route { path: path.into(), signed_path: signed.into() };
    Partner {
        profile: Profile::read("test", &profile).unwrap(),
        mode,
        base_url: "https://api.example.id/snap".into(),
        token_base_url: "https://api.example.id".into(),
        cancel: route("/v1.0/asked/cancel", "/v1.0/qr/cancel"),
        query: Some(route("/v1.0/qr/query", "/v1.0/qr/query")),
        ids: Ids { partner_id: Some("PARTNER".into()), client_key: Some("CLIENT".into()), ..Ids::default() },
        merchant: MerchantDefaults::default(),
        private_key: Some(PrivateKey::read(KEY.as_bytes()).unwrap()),
        client_secret: Some(SECRET.into()),
    }
}

fn usual(mode: SigningMode) -> Partner {
    partner(mode, "offset = \"+07:00\"")
}

fn found(partner: &Partner, operation: Operation, expected: &str) -> Finding {
    let at = DateTime::parse_from_rfc3339(TIME).unwrap().to_utc();
    let key = partner.private_key.as_ref().map(PrivateKey::public_der);
    let body = if operation == Operation::Token { br#"{"grantType":"client_credentials"}"# } else { BODY.as_bytes() };
    compare(Call { partner, operation, body, token: Some("TOKEN"), at, public_key: key.as_deref() }, expected)
}

fn names(finding: &Finding) -> Vec<&'static str> {
    match finding {
        Finding::Mistakes(mistakes) => mistakes.iter().map(|mistake| mistake.name).collect(),
        other => panic!("{other:?}"),
    }
}

fn hash(body: &str) -> String {
    hex::encode(Sha256::digest(body))
}

fn signed(mode: SigningMode, text: &str) -> Vec<u8> {
    match mode {
        SigningMode::Symmetric => hmac_sha512(SECRET.as_bytes(), text.as_bytes()),
        SigningMode::Asymmetric => PrivateKey::read(KEY.as_bytes()).unwrap().sign(text),
    }
}

/// The parts of a string to sign as they are right for [`usual`].
struct Made {
    method: String,
    path: String,
    token: Option<String>,
    hash: String,
    time: String,
}

impl Made {
    fn right(mode: SigningMode) -> Self {
        Self {
            method: "POST".into(),
            path: "/v1.0/qr/cancel".into(),
            token: (mode == SigningMode::Symmetric).then(|| "TOKEN".into()),
            hash: hash(BODY),
            time: "2026-11-20T18:30:15+07:00".into(),
        }
    }

    fn text(&self) -> String {
        let token = self.token.as_ref().map(|token| format!("{token}:")).unwrap_or_default();
        let method = if self.method.is_empty() { String::new() } else { format!("{}:", self.method) };
        format!("{method}{}:{token}{}:{}", self.path, self.hash, self.time)
    }
}

type Change = Box<dyn Fn(&mut Made)>;

/// Every mistake that shows in the string, with what it does, written out.
fn mistakes_in_the_string() -> Vec<(&'static str, Change)> {
    let body = |text: &'static str| -> Change { Box::new(move |made| made.hash = hash(text)) };
    let text = |text: &'static str| -> Change { Box::new(move |made| made.hash = text.into()) };
    let path = |text: &'static str| -> Change { Box::new(move |made| made.path = text.into()) };
    let method = |text: &'static str| -> Change { Box::new(move |made| made.method = text.into()) };
    let time = |text: &'static str| -> Change { Box::new(move |made| made.time = text.into()) };
    vec![
        ("the body parsed and written again (numbers change)", body(r#"{"b":"two words","a":"x/y é","n":1.1}"#)),
        ("the keys of the body sorted", body(r#"{"a":"x/y é","b":"two words","n":1.1}"#)),
        ("white space taken out of the body's values", body(r#"{"b":"twowords","a":"x/yé","n":1.10}"#)),
        (
            "the body pretty-printed with 2 spaces",
            body("{\n  \"b\": \"two words\",\n  \"a\": \"x/y é\",\n  \"n\": 1.1\n}"),
        ),
        (
            "the body pretty-printed with 4 spaces",
            body("{\n    \"b\": \"two words\",\n    \"a\": \"x/y é\",\n    \"n\": 1.1\n}"),
        ),
        (
            "a space after each comma and colon of the body, as Python writes it",
            body(r#"{"b": "two words", "a": "x/y é", "n": 1.1}"#),
        ),
        ("the slashes of the body escaped, as PHP writes them", body(r#"{"b":"two words","a":"x\/y é","n":1.10}"#)),
        ("what is not ASCII in the body escaped as \\u…", body(r#"{"b":"two words","a":"x/y \u00e9","n":1.10}"#)),
        ("a new line at the end of the body", body("{\"b\":\"two words\",\"a\":\"x/y é\",\"n\":1.10}\n")),
        ("an empty body", text("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")),
        ("{} for the body", text("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")),
        ("the body's hash in upper-case hexadecimal", Box::new(|made| made.hash = hash(BODY).to_uppercase())),
        ("the body's hash in base64", Box::new(|made| made.hash = STANDARD.encode(Sha256::digest(BODY)))),
        ("the body itself where its hash belongs", text(BODY)),
        ("the requested path instead of the signed one", path("/v1.0/asked/cancel")),
        ("the path of the other call", path("/v1.0/qr/query")),
        ("the path without its version", path("/qr/cancel")),
        ("a slash at the end of the path", path("/v1.0/qr/cancel/")),
        ("the base URL's path before the path", path("/snap/v1.0/qr/cancel")),
        ("the whole URL instead of the path", path("https://api.example.id/snap/v1.0/qr/cancel")),
        ("no slash at the beginning of the path", path("v1.0/qr/cancel")),
        ("the method in lower case", method("post")),
        ("no method", method("")),
        ("the time in UTC, written with Z", time("2026-11-20T11:30:15Z")),
        ("the time in UTC, written with +00:00", time("2026-11-20T11:30:15+00:00")),
        ("the time in UTC, but labelled +07:00", time("2026-11-20T11:30:15+07:00")),
        ("the time of Jakarta, but labelled Z", time("2026-11-20T18:30:15Z")),
        ("the time with milliseconds", time("2026-11-20T18:30:15.678+07:00")),
        ("the time without its offset", time("2026-11-20T18:30:15")),
        ("the offset without its colon (+0700)", time("2026-11-20T18:30:15+0700")),
    ]
}

/// Mistakes that only one kind of account can make: the account, the call, and the signature.
fn other_mistakes() -> Vec<(&'static str, Partner, Operation, Vec<u8>)> {
    use Operation::{Cancel, Token};
    use SigningMode::{Asymmetric, Symmetric};
    let made = |mode, change: fn(&mut Made)| {
        let mut made = Made::right(mode);
        change(&mut made);
        made.text()
    };
    let right = |mode| made(mode, |_| {});
    let hmac = |text: String| signed(Symmetric, &text);
    let rsa = |text: String| signed(Asymmetric, &text);
    let with_secret = |secret: &[u8]| hmac_sha512(secret, right(Symmetric).as_bytes());
    let pair = RsaKeyPair::from_pkcs8(
        &STANDARD.decode(KEY.lines().filter(|line| !line.starts_with(['-', '#'])).collect::<String>()).unwrap(),
    )
    .unwrap();
    let rsa_by = |algorithm| {
        let mut out = vec![0; pair.public_modulus_len()];
        pair.sign(algorithm, &SystemRandom::new(), right(Asymmetric).as_bytes(), &mut out).unwrap();
        out
    };
    let (asymmetric, symmetric) = (|| usual(Asymmetric), || usual(Symmetric));
    let in_utc = |mode| partner(mode, "offset = \"Z\"\nfraction = \"milliseconds\"");
    let token = "CLIENT|2026-11-20T18:30:15+07:00";
    vec![
        ("the time of Jakarta, written with +07:00", in_utc(Symmetric), Cancel, {
            hmac(made(Symmetric, |made| made.time = "2026-11-20T18:30:15.678+07:00".into()))
        }),
        ("the time of Jakarta, written with +07:00", in_utc(Asymmetric), Cancel, {
            rsa(made(Asymmetric, |made| made.time = "2026-11-20T18:30:15.678+07:00".into()))
        }),
        ("the time without milliseconds", in_utc(Symmetric), Cancel, {
            hmac(made(Symmetric, |made| made.time = "2026-11-20T11:30:15Z".into()))
        }),
        ("the time without milliseconds", in_utc(Asymmetric), Cancel, {
            rsa(made(Asymmetric, |made| made.time = "2026-11-20T11:30:15Z".into()))
        }),
        ("the other signing mode", symmetric(), Cancel, rsa(right(Asymmetric))),
        ("the other signing mode", asymmetric(), Cancel, hmac(right(Symmetric))),
        ("the other signing mode", asymmetric(), Token, hmac(token.into())),
        ("HMAC-SHA256 instead of HMAC-SHA512", symmetric(), Cancel, {
            hmac_sha256(SECRET.as_bytes(), right(Symmetric).as_bytes())
        }),
        ("RSA with SHA-512 instead of SHA-256", asymmetric(), Cancel, rsa_by(&signature::RSA_PKCS1_SHA512)),
        ("RSA-PSS instead of PKCS #1 v1.5", asymmetric(), Cancel, rsa_by(&signature::RSA_PSS_SHA256)),
        ("a new line at the end of the secret", symmetric(), Cancel, with_secret(b"bXlzZWNyZXQ=\n")),
        ("the secret decoded from base64", symmetric(), Cancel, with_secret(b"mysecret")),
        ("\"Bearer \" before the token", symmetric(), Cancel, {
            hmac(made(Symmetric, |made| made.token = Some("Bearer TOKEN".into())))
        }),
        ("no token in the string", symmetric(), Cancel, hmac(right(Asymmetric))),
        ("nothing where the token belongs (two colons)", symmetric(), Cancel, {
            hmac(made(Symmetric, |made| made.token = Some(String::new())))
        }),
        ("the token in the string", asymmetric(), Cancel, rsa(right(Symmetric))),
        ("the time before the client key", asymmetric(), Token, rsa("2026-11-20T18:30:15+07:00|CLIENT".into())),
        ("the partner id for the client key", asymmetric(), Token, rsa("PARTNER|2026-11-20T18:30:15+07:00".into())),
        ("the time in UTC, written with Z", asymmetric(), Token, rsa("CLIENT|2026-11-20T11:30:15Z".into())),
    ]
}

#[test]
fn every_mistake_is_named_and_no_other() {
    let mut tested = BTreeSet::new();
    for mode in [SigningMode::Symmetric, SigningMode::Asymmetric] {
        let partner = usual(mode);
        assert_eq!(
            found(&partner, Operation::Cancel, &STANDARD.encode(signed(mode, &Made::right(mode).text()))),
            Finding::Equal
        );
        for (name, change) in mistakes_in_the_string() {
            let mut made = Made::right(mode);
            change(&mut made);
            let expected = STANDARD.encode(signed(mode, &made.text()));
            assert_eq!(names(&found(&partner, Operation::Cancel, &expected)), [name], "{mode:?}");
            tested.insert(name);
        }
    }
    for (name, partner, operation, signature) in other_mistakes() {
        let finding = found(&partner, operation, &STANDARD.encode(signature));
        assert_eq!(names(&finding), [name], "{:?}", partner.mode);
        tested.insert(name);
    }
    let asymmetric = usual(SigningMode::Asymmetric);
    assert_eq!(names(&found(&asymmetric, Operation::Cancel, BY_SHA1)), ["RSA with SHA-1 instead of SHA-256"]);
    tested.insert("RSA with SHA-1 instead of SHA-256");
    // The one that is left takes a profile that has its hash in base64: the next test.
    let untested: Vec<_> =
        VARIATIONS.iter().map(|variation| variation.mistake.name).filter(|name| !tested.contains(name)).collect();
    assert_eq!(untested, ["the body's hash in hexadecimal"]);
}

#[test]
fn a_hash_in_hexadecimal_where_base64_is_right_is_named() {
    for mode in [SigningMode::Symmetric, SigningMode::Asymmetric] {
        let mut partner = usual(mode);
        partner.profile.signing.body_hash = Encoding::Base64;
        let expected = STANDARD.encode(signed(mode, &Made::right(mode).text()));
        let finding = found(&partner, Operation::Cancel, &expected);
        assert_eq!(names(&finding), ["the body's hash in hexadecimal"]);
        let Finding::Mistakes(mistakes) = finding else { unreachable!() };
        assert_eq!(mistakes[0].mend, Some("body_hash = \"hex\" in the profile's [signing]"));
    }
}

#[test]
fn every_other_way_to_write_a_signature_is_named() {
    for mode in [SigningMode::Symmetric, SigningMode::Asymmetric] {
        let bytes = signed(mode, &Made::right(mode).text());
        let base64 = STANDARD.encode(&bytes);
        let url_safe = base64.replace('+', "-").replace('/', "_");
        assert_ne!(base64, url_safe, "the signature has neither + nor /: it tests nothing");
        let broken: Vec<_> = base64.as_bytes().chunks(64).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
        let ways = [
            ("a signature in hexadecimal instead of base64", hex::encode(&bytes)),
            ("a signature in upper-case hexadecimal", hex::encode_upper(&bytes)),
            ("base64 without its = at the end", base64.trim_end_matches('=').to_owned()),
            ("URL-safe base64 (- and _ for + and /)", url_safe.clone()),
            ("URL-safe base64 (- and _ for + and /)", url_safe.trim_end_matches('=').to_owned()),
            ("URL-encoded base64 (%2B, %2F, %3D)", base64.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D")),
            ("base64 broken into lines", broken.join("\n")),
            ("base64 of the hexadecimal text instead of the bytes", STANDARD.encode(hex::encode(&bytes))),
        ];
        let partner = usual(mode);
        for (name, written) in ways {
            assert_eq!(names(&found(&partner, Operation::Cancel, &written)), [name], "{mode:?}");
        }
        if base64.contains('+') {
            let spaced = base64.replace('+', " ");
            let name = "base64 whose + became spaces, as URL decoding does";
            assert_eq!(names(&found(&partner, Operation::Cancel, &spaced)), [name]);
        }
        assert_eq!(found(&partner, Operation::Cancel, &format!(" {base64}\n")), Finding::Equal);
        let mut in_hex = usual(mode);
        in_hex.profile.signing.signature = Encoding::Hex;
        assert_eq!(found(&in_hex, Operation::Cancel, &hex::encode(&bytes)), Finding::Equal);
        let finding = found(&in_hex, Operation::Cancel, &base64);
        assert_eq!(names(&finding), ["a signature in base64 instead of hexadecimal"]);
    }
}

#[test]
fn two_mistakes_at_once_are_found() {
    for mode in [SigningMode::Symmetric, SigningMode::Asymmetric] {
        let partner = usual(mode);
        let all = mistakes_in_the_string();
        for (at, (one, change)) in all.iter().enumerate() {
            for (other, change_too) in &all[at + 1..] {
                let mut both = Made::right(mode);
                change(&mut both);
                change_too(&mut both);
                let different = |a: &Made, b: &Made| {
                    (a.hash != b.hash) as u8
                        + (a.path != b.path) as u8
                        + (a.method != b.method) as u8
                        + (a.time != b.time) as u8
                };
                // Of two about the same part, the second takes the place of the first. A part of the pairs is enough.
                if different(&Made::right(mode), &both) != 2 || at % 6 != 0 {
                    continue;
                }
                let expected = STANDARD.encode(signed(mode, &both.text()));
                assert_eq!(names(&found(&partner, Operation::Cancel, &expected)), [*one, *other]);
            }
        }
        let mut made = Made::right(mode);
        made.path.push('/');
        let expected = hex::encode(signed(mode, &made.text()));
        assert_eq!(
            names(&found(&partner, Operation::Cancel, &expected)),
            ["a slash at the end of the path", "a signature in hexadecimal instead of base64"]
        );
        made.method.clear();
        let three = hex::encode(signed(mode, &made.text()));
        assert!(matches!(found(&partner, Operation::Cancel, &three), Finding::Unknown { .. }));
    }
}

#[test]
fn what_nobody_can_make_is_unknown_and_says_what_can_be_said() {
    let hint = |mode, expected: &str| match found(&usual(mode), Operation::Cancel, expected) {
        Finding::Unknown { tried, hint } => {
            assert!(tried > 500, "{tried}");
            hint
        }
        other => panic!("{other:?}"),
    };
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let placeholder = vectors["never_expect"]["value"].as_str().unwrap();
    assert!(hint(SigningMode::Asymmetric, placeholder).contains("placeholder"));
    assert!(hint(SigningMode::Symmetric, "nonsense!").contains("neither"));
    assert!(hint(SigningMode::Symmetric, &hex::encode([7; 64])).contains("another secret or token"));
    assert!(hint(SigningMode::Asymmetric, &STANDARD.encode([7; 256])).contains("another key"));
    assert!(hint(SigningMode::Asymmetric, &STANDARD.encode([7; 255])).contains("255 bytes"));
    assert!(hint(SigningMode::Asymmetric, "").contains("neither"));
}

#[test]
fn the_published_signatures_are_equal_and_the_traps_are_named() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let traps: Vec<_> =
        vectors["body_hash_traps"].as_array().unwrap().iter().map(|t| t["sha256"].as_str().unwrap()).collect();
    for vector in vectors["vectors"].as_array().unwrap() {
        let text = |field: &str| vector[field].as_str().unwrap_or_default();
        let mode = match text("kind") {
            "symmetric" => SigningMode::Symmetric,
            _ => SigningMode::Asymmetric,
        };
        let in_utc = text("timestamp").ends_with('Z');
        let mut partner =
            partner(mode, if in_utc { "offset = \"Z\"\nfraction = \"milliseconds\"" } else { "offset = \"+07:00\"" });
        partner.cancel = Route { path: text("path").into(), signed_path: text("path").into() };
        partner.client_secret = Some(text("client_secret").into());
        partner.ids.client_key = Some(text("client_key").into());
        let at = DateTime::parse_from_rfc3339(text("timestamp")).unwrap().to_utc();
        let operation = if text("kind") == "token" { Operation::Token } else { Operation::Cancel };
        let key = partner.private_key.as_ref().unwrap().public_der();
        let call = Call {
            partner: &partner,
            operation,
            body: text("body").as_bytes(),
            token: vector["access_token"].as_str(),
            at,
            public_key: Some(&key),
        };
        assert_eq!(Parts::right(&call).string_to_sign(), text("string_to_sign"));
        assert_eq!(compare(call, text("signature_base64")), Finding::Equal, "{vector}");
        if vector["signature_hex"].is_string() {
            let hex = compare(call, text("signature_hex"));
            assert_eq!(names(&hex), ["a signature in hexadecimal instead of base64"]);
        }
        if text("name").starts_with("ifortepay-cancel") {
            let trap = |trap: &str| {
                let string = text("string_to_sign").replace(text("body_sha256"), trap);
                let signature = match mode {
                    SigningMode::Symmetric => hmac_sha512(text("client_secret").as_bytes(), string.as_bytes()),
                    SigningMode::Asymmetric => signed(mode, &string),
                };
                names(&compare(call, &STANDARD.encode(signature)))
            };
            assert_eq!(trap(traps[0]), ["the keys of the body sorted"]);
            assert_eq!(trap(traps[1]), ["white space taken out of the body's values"]);
        }
    }
}
