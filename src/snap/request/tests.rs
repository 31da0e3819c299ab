use super::*;
use crate::{
    command::{Hints, Terms},
    snap::profile::Encoding,
};
use proptest::prelude::*;
use serde_json::Value;
use std::{collections::BTreeSet, path::Path};

pub fn at(time: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(time).unwrap().to_utc()
}

/// One of the vectors that were computed by other means.
fn vector(name: &str) -> Value {
    let vectors: Value = serde_json::from_str(include_str!("../../../tests/vectors/signatures.json")).unwrap();
    vectors["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap().clone()
}

/// A partner with a value for everything.
pub fn partner(profile: &str, mode: SigningMode) -> Partner {
    let profile = Profile::find(profile, Path::new("")).unwrap();
    let route = |path: &str| Route { path: path.into(), signed_path: path.into() };
    Partner {
        mode,
        base_url: "https://api.example".into(),
        token_base_url: "https://token.example".into(),
        cancel: route("/v1.0/qr/qr-mpm-cancel"),
        query: Some(route("/v1.0/qr/qr-mpm-query")),
        ids: Ids {
            partner_id: Some("partner-7".into()),
            client_key: Some(format!("{}-key", profile.name)),
            channel_id: profile.defaults.channel_id.clone().or(Some("12345".into())),
            origin: Some("www.example.co.id".into()),
        },
        merchant: MerchantDefaults::default(),
        private_key: PrivateKey::read(include_bytes!("../../../tests/vectors/midtrans-public-sample-key.pem")).ok(),
        client_secret: Some("myclientsecret".into()),
        profile,
    }
}

pub fn command(partner: &Partner, json: &str) -> CancelCommand {
    let terms = Terms { profile: &partner.profile, defaults: &partner.merchant };
    CancelCommand::read(json.as_bytes(), Hints::default(), terms).unwrap_or_else(|e| panic!("{:?}", e.violations))
}

pub fn headers(request: &SignedRequest) -> Vec<(&str, &str)> {
    request.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect()
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const IFORTEPAY: &str = r#"{"jobId":"j","reason":"cancel reason","originalReferenceNo":"2020102977770000000009","originalPartnerReferenceNo":"2020102900000000000001"}"#;
const BNC: &str = r#"{"jobId":"j","originalPartnerReferenceNo":"","originalReferenceNo":"2023101814012941070122319","reason":"test reason"}"#;

#[test]
fn ifortepay_is_sent_the_vectors_bytes_signed_with_the_private_key_and_without_a_token() {
    let (partner, vector) = (partner("ifortepay", SigningMode::Asymmetric), vector("ifortepay-cancel"));
    assert!(!partner.needs_token());
    let body = partner.body(Operation::Cancel, &command(&partner, IFORTEPAY));
    assert_eq!(text(&body), vector["body"]);
    let request = partner.transaction(Operation::Cancel, body.clone(), "0042", None, at("2020-12-23T01:10:11.999Z"));
    assert_eq!(request.body, body);
    assert_eq!(sign::body_hash(&request.body, Encoding::Hex), vector["body_sha256"].as_str().unwrap());
    assert_eq!(request.url, "https://api.example/v1.0/qr/qr-mpm-cancel");
    assert_eq!(request.string_to_sign.expose_secret(), vector["string_to_sign"]);
    let signature = vector["signature_base64"].as_str().unwrap();
    assert_eq!(request.signature.expose_secret(), signature);
    let expected = [
        ("CHANNEL-ID", "QR004"),
        ("X-EXTERNAL-ID", "0042"),
        ("X-PARTNER-ID", "partner-7"),
        ("X-SIGNATURE", signature),
        ("X-TIMESTAMP", "2020-12-23T08:10:11+07:00"),
    ];
    assert_eq!(headers(&request), expected);
}

#[test]
fn ifortepay_in_its_symmetric_mode_signs_the_bare_token_and_sends_it_as_bearer() {
    let (partner, vector) = (partner("ifortepay", SigningMode::Symmetric), vector("ifortepay-cancel-symmetric"));
    assert!(partner.needs_token());
    let body = partner.body(Operation::Cancel, &command(&partner, IFORTEPAY));
    let token = SecretString::from("myaccesstoken");
    let request = partner.transaction(Operation::Cancel, body, "0042", Some(&token), at("2020-12-23T08:10:11+07:00"));
    assert_eq!(request.string_to_sign.expose_secret(), vector["string_to_sign"]);
    let signature = vector["signature_base64"].as_str().unwrap();
    let expected = [
        ("Authorization", "Bearer myaccesstoken"),
        ("CHANNEL-ID", "QR004"),
        ("X-EXTERNAL-ID", "0042"),
        ("X-PARTNER-ID", "partner-7"),
        ("X-SIGNATURE", signature),
        ("X-TIMESTAMP", "2020-12-23T08:10:11+07:00"),
    ];
    assert_eq!(headers(&request), expected);
}

#[test]
fn bank_neo_commerce_is_sent_a_token_that_is_not_signed() {
    let mut partner = partner("bnc", SigningMode::Asymmetric);
    partner.merchant.merchant_id = Some("000123456789".into());
    assert!(partner.needs_token());
    let body = partner.body(Operation::Cancel, &command(&partner, BNC));
    assert_eq!(
        text(&body),
        r#"{"originalPartnerReferenceNo":"","originalReferenceNo":"2023101814012941070122319","reason":"test reason","merchantId":"000123456789"}"#
    );
    let token = SecretString::from("myaccesstoken");
    let request = partner.transaction(Operation::Cancel, body, "0042", Some(&token), at("2020-12-17T03:55:00Z"));
    // Made with openssl dgst and the sample key.
    assert_eq!(
        request.string_to_sign.expose_secret(),
        "POST:/v1.0/qr/qr-mpm-cancel:b5aa1ee706d4efe8d033f7517de4a30ef54a5b484e8de2dc0872ae74a882f673:2020-12-17T10:55:00+07:00"
    );
    let signature = "gf4ZewyxFcvB012I8auKnWjo+nhCLp2QhFilW45mGOke1mWy5XNKWsVeaj5WHNi8NvPUGF8/CY1P8mN7++8U48UvMtnx9Xd3LBoD7dq9fxUzjFtfL8hS+fGfK6swOaw3vML57ZEO7KeW9KG3HYWUULhVQaIjkVat/lM8dtPqvkFLB6IqWO2+w3fkYFw/sUTJbndjgp3t44ot6O50I9sEyxjPJSeaNsRYUZd7pTH+sU6lxKCaXQL4CUjJx4EKKO7n+fEpXpRTQ0ifCcMWnKWnr9L/4KjC7mUH8U/4IkDQTVPJH8nqC0Dk3rd+D/ouDRogFxxbij2CX1titQp4jQPwzQ==";
    let expected = [
        ("Authorization", "Bearer myaccesstoken"),
        ("CHANNEL-ID", "95221"),
        ("ORIGIN", "www.example.co.id"),
        ("X-EXTERNAL-ID", "0042"),
        ("X-PARTNER-ID", "partner-7"),
        ("X-SIGNATURE", signature),
        ("X-TIMESTAMP", "2020-12-17T10:55:00+07:00"),
    ];
    assert_eq!(headers(&request), expected);
}

#[test]
fn the_standards_body_holds_every_field_in_order_and_its_numbers_as_they_came() {
    let partner = partner("aspi", SigningMode::Symmetric);
    let json = r#"{"additionalInfo" : { "z" : 1.10 , "a":[ 1,
        "x y" ] },"jobId":"j","reason":"grund: ü","originalReferenceNo":"R","originalPartnerReferenceNo":"P","originalExternalId":"E",
        "amount":{"currency":"IDR","value":"10000.00"},"externalStoreId":"T","subMerchantId":"S","merchantId":"M","metadata":{"never":"sent"}}"#;
    let body = partner.body(Operation::Cancel, &command(&partner, json));
    assert_eq!(
        text(&body),
        r#"{"originalReferenceNo":"R","originalPartnerReferenceNo":"P","originalExternalId":"E","merchantId":"M","subMerchantId":"S","externalStoreId":"T","reason":"grund: ü","amount":{"value":"10000.00","currency":"IDR"},"additionalInfo":{"z":1.10,"a":[1,"x y"]}}"#
    );
    let token = SecretString::from("tok");
    let partner = Partner { client_secret: Some("shh".into()), ..partner };
    let request = partner.transaction(Operation::Cancel, body, "1", Some(&token), at("2020-12-17T03:55:00Z"));
    assert_eq!(
        sign::body_hash(&request.body, Encoding::Hex),
        "db4b32db926e2b8c74c0a80826bed8e14b27a13f3efc91cd01cc4320184796ac"
    );
    assert_eq!(
        request.signature.expose_secret(),
        "4t7w9YmUj5S5q1PyrneUyrXQEYwHPxy7KDzSATE+Y+7Lq+YkY7+QMD6g2IgY4r4eZQrsqUqKx3Jc1HYQKejvww=="
    );
}

#[test]
fn a_query_is_made_of_what_the_cancel_command_brought() {
    let query = |name, json| {
        let partner = partner(name, SigningMode::Asymmetric);
        String::from_utf8(partner.body(Operation::Query, &command(&partner, json))).unwrap()
    };
    let ifortepay = r#"{"originalReferenceNo":"2020102977770000000009","originalPartnerReferenceNo":"2020102900000000000001","serviceCode":"47"}"#;
    assert_eq!(query("ifortepay", IFORTEPAY), ifortepay);
    let bnc = BNC.replace("\"jobId\"", "\"merchantId\":\"000123456789\",\"jobId\"");
    assert_eq!(query("bnc", &bnc), r#"{"originalReferenceNo":"2023101814012941070122319","serviceCode":"47"}"#);
    let aspi = r#"{"jobId":"j","reason":"r","originalExternalId":"E","merchantId":"M"}"#;
    assert_eq!(query("aspi", aspi), r#"{"originalExternalId":"E","serviceCode":"47","merchantId":"M"}"#);
}

#[test]
fn the_signed_path_can_differ_from_the_requested_one() {
    let mut partner = partner("ifortepay", SigningMode::Asymmetric);
    partner.query = Some(Route { path: "/gate/query".into(), signed_path: "/query".into() });
    let request = partner.transaction(Operation::Query, b"{}".to_vec(), "1", None, at("2020-12-17T03:55:00Z"));
    assert_eq!(request.url, "https://api.example/gate/query");
    assert!(request.string_to_sign.expose_secret().starts_with("POST:/query:44136fa3"));
}

#[test]
fn a_token_is_asked_for_with_the_client_key_signed() {
    let request = partner("bnc", SigningMode::Asymmetric).token_request(at("2020-12-17T03:55:00Z")).unwrap();
    assert_eq!(request.url, "https://token.example/open/bi/v1.0/get/token");
    assert_eq!(text(&request.body), r#"{"grant_type":"client_credentials"}"#);
    assert_eq!(request.string_to_sign.expose_secret(), "bnc-key|2020-12-17T10:55:00+07:00");
    // Made with openssl dgst and the sample key.
    let signature = "TKk8yxTkJBl9mGevSn+KYPpDwxBAc2ELQgym57a9IM9v9JyX6pUKyHKs0NYNyMDUiGajdaI90ndPXxTM/6DHyUzaYbgr3w7n089+uTAr6ne5/eMMN2GTk6vWT8bSdsq5iKsYiCDQtrwv9flodOjIRuxaBffUwerN9qPdZsOX6eNDwfTuGhJJYuPXZRM8QCsvGFXPHkRb+O3QAPQFg7HwOPhiZvYOPjkoLmZIp55Nr0LshETaablVkfKHf2HDm/QEGIB2CuNg62JB8S+0fMBQvyVOSM4tUNnhlDWHHZoJZTLO7tMbqXkf/U1cFdZqTMJNNiUu6lgiuQmDkiASW4y/og==";
    let expected =
        [("X-CLIENT-KEY", "bnc-key"), ("X-SIGNATURE", signature), ("X-TIMESTAMP", "2020-12-17T10:55:00+07:00")];
    assert_eq!(headers(&request), expected);
    // A symmetric account's token call is signed with the private key all the same.
    let request = partner("aspi", SigningMode::Symmetric).token_request(at("2020-12-17T03:55:00Z")).unwrap();
    assert_eq!(request.url, "https://token.example/v1.0/access-token/b2b");
    assert_eq!(text(&request.body), r#"{"grantType":"client_credentials"}"#);
    assert_eq!(request.signature.expose_secret().len(), 344);
}

#[test]
fn every_setting_that_is_lacking_is_named() {
    let lacks = |name, mode, strip: fn(&mut Partner)| {
        let mut partner = partner(name, mode);
        strip(&mut partner);
        partner.lacks()
    };
    let all = |partner: &mut Partner| {
        partner.ids = Ids::default();
        partner.private_key = None;
        partner.client_secret = None;
    };
    let names = |lacks: Vec<(&'static str, String)>| lacks.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    for (name, mode, expected) in [
        ("ifortepay", SigningMode::Asymmetric, &["channel_id", "partner_id", "private_key"][..]),
        (
            "ifortepay",
            SigningMode::Symmetric,
            &["channel_id", "client_key", "client_secret", "partner_id", "private_key"],
        ),
        ("bnc", SigningMode::Asymmetric, &["channel_id", "client_key", "origin", "partner_id", "private_key"]),
        ("aspi", SigningMode::Symmetric, &["channel_id", "client_key", "client_secret", "partner_id", "private_key"]),
    ] {
        assert_eq!(lacks(name, mode, |_| {}), [], "{name} {mode:?}");
        assert_eq!(names(lacks(name, mode, all)), expected.iter().copied().collect(), "{name} {mode:?}");
    }
    let named = lacks("bnc", SigningMode::Asymmetric, |p| p.ids.origin = None);
    assert_eq!(named, [("origin", "Bank Neo Commerce wants it in the header ORIGIN".to_owned())]);
    let named = lacks("ifortepay", SigningMode::Symmetric, |p| p.private_key = None);
    assert_eq!(named, [("private_key", "iFortePay's token call is signed with it".to_owned())]);
}

/// A partner whose repeated cancels keep their X-EXTERNAL-ID.
fn keeping(digits: usize) -> Partner {
    let mut partner = partner("ifortepay", SigningMode::Asymmetric);
    partner.profile.external_id.repeat = Repeat::Same;
    partner.profile.external_id.digits = digits;
    partner
}

#[test]
fn a_repeated_cancel_keeps_its_external_id_only_where_the_profile_says_so() {
    let new = partner("ifortepay", SigningMode::Asymmetric);
    assert_eq!(new.external_id(Operation::Cancel, b"digest", false, 7), format!("{:032}", 7));
    assert_ne!(
        new.external_id(Operation::Cancel, b"digest", false, 7),
        new.external_id(Operation::Cancel, b"digest", false, 8)
    );

    let kept = keeping(32).external_id(Operation::Cancel, b"digest", false, 7);
    // Whatever the chance, and in another worker.
    assert_eq!(keeping(32).external_id(Operation::Cancel, b"digest", false, 8), kept);
    // Another command, a query, or after the provider said that it knows the id: another id.
    assert_ne!(keeping(32).external_id(Operation::Cancel, b"other", false, 7), kept);
    assert_eq!(keeping(32).external_id(Operation::Query, b"digest", false, 7), format!("{:032}", 7));
    assert_eq!(keeping(32).external_id(Operation::Cancel, b"digest", true, 7), format!("{:032}", 7));
    // Fixed for ever: a worker of another version has to make the same.
    assert_eq!(kept, "59841376757707178707453828339910");
}

proptest! {
    #[test]
    fn an_external_id_has_the_profiles_digits(digits in 16usize..=36, random: u128, digest in ".{0,8}", conflict: bool) {
        for operation in [Operation::Cancel, Operation::Query] {
            let id = keeping(digits).external_id(operation, digest.as_bytes(), conflict, random);
            prop_assert_eq!(id.len(), digits);
            prop_assert!(id.bytes().all(|b| b.is_ascii_digit()));
        }
    }
}
