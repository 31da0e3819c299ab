//! What each of the other built-in banks is sent, to the byte. The expected signatures were made with Python's hashlib and hmac,
//! and with openssl.

use super::{
    tests::{at, command, headers, partner, text},
    *,
};

struct Bank {
    name: &'static str,
    mode: SigningMode,
    cancel: &'static str,
    query: &'static str,
    url: &'static str,
    /// After the method: path, token if it is signed, the body's hash, time.
    signed: &'static str,
    signature: &'static str,
    /// All headers but those whose value is the signature, the token or the external id.
    headers: &'static [(&'static str, &'static str)],
}

const COMMAND: &str = r#"{"jobId":"j","originalReferenceNo":"R-1","originalPartnerReferenceNo":"P-1","reason":"salah input: 1/2 é"MERCHANT}"#;
const WIB: (&str, &str) = ("X-TIMESTAMP", "2026-11-21T01:30:15+07:00");
const UTC: (&str, &str) = ("X-TIMESTAMP", "2026-11-20T18:30:15Z");
const PARTNER: (&str, &str) = ("X-PARTNER-ID", "partner-7");

const BANKS: [Bank; 4] = [
    Bank {
        name: "midtrans",
        mode: SigningMode::Symmetric,
        cancel: r#"{"originalPartnerReferenceNo":"P-1","originalReferenceNo":"R-1","merchantId":"M-1","reason":"salah input: 1/2 é"}"#,
        query: r#"{"originalReferenceNo":"R-1","merchantId":"M-1","serviceCode":"47"}"#,
        url: "/v1.0/qr/qr-mpm-cancel",
        signed: "/v1.0/qr/qr-mpm-cancel:tok-1:4bb287f64fa8491a8cb22c4889053cdce017150c147f206d611352cc5e6c8f4c:2026-11-21T01:30:15+07:00",
        signature: "S+BI8oAGwVM1RhcX4QA26JsYuGE/zhF+MTtI5DTl0SHE2zSqFfl1KrBkHoJIZbb7WXRis0oMiDaXAD5Bk5uDow==",
        headers: &[("CHANNEL-ID", "12345"), PARTNER, WIB],
    },
    Bank {
        name: "winpay",
        mode: SigningMode::Asymmetric,
        cancel: r#"{"originalPartnerReferenceNo":"P-1","reason":"salah input: 1/2 é","additionalInfo":{"contractId":"R-1"}}"#,
        query: r#"{"originalPartnerReferenceNo":"P-1","serviceCode":"47","additionalInfo":{"contractId":"R-1"}}"#,
        url: "/v1.0/qr/qr-mpm-cancel",
        signed: "/v1.0/qr/qr-mpm-cancel:968aae11d9300b33da53e58bcbcde4a99d7b93a50cea7037c22003db217a6816:2026-11-21T01:30:15+07:00",
        signature: "QZZRRQXhnKmrNLBVK2sw9IFepe65gvh9nOGfCH+H+mDL+j1UUJKSsbdjHhI8IbPFFG0m4hSQuqVbVxuY6iOfFn5dGbtCVSSVWPy0wp2jKD6bpZd+nucamtojU3M5TfsczQCGfYP36kc35ETR60t8vFAdZnsgz1+sQuEQ7FEKRDPY1Vk1mbdrLLppYFIPJBdF3+oZg7LZ5kfWqVjZohyWD/iTBZYyrL0gam+a/CwyIN6V0CkYCJVZ/VL+AEkvIN6n3OBWMcFosy2Fyn313VSqVl9tkKKcxOcZ5e20AnI+V4YP28CE+ZlZAoxO3eODPQPz8H11Mq3JxWJiTyw9wOksUg==",
        headers: &[("CHANNEL-ID", "WEB"), PARTNER, WIB],
    },
    Bank {
        name: "doku",
        mode: SigningMode::Symmetric,
        cancel: r#"{"partnerReferenceNo":"P-1","referenceNo":"R-1","merchantId":"M-1","reason":"salah input: 1/2 é"}"#,
        query: r#"{"originalReferenceNo":"R-1","originalPartnerReferenceNo":"P-1","serviceCode":"47","merchantId":"M-1"}"#,
        url: "/snap-adapter/b2b/v1.0/qr/qr-expire",
        signed: "/snap-adapter/b2b/v1.0/qr/qr-expire:tok-1:f31e288276052e834ddb0e4fa3fb1d124f30e309c71805a21cb5573bf709761a:2026-11-20T18:30:15Z",
        signature: "WDZEgn/CzMKFU+Ts+K0mUh/mYJPog8Vz+LupYy9N8aA3hhe52pVKG3ZjCQBvYsbgXCLFzFRz+lFsdtRWQjY7gw==",
        headers: &[("CHANNEL-ID", "H2H"), PARTNER, UTC],
    },
    Bank {
        name: "ayolinx",
        mode: SigningMode::Symmetric,
        cancel: r#"{"originalPartnerReferenceNo":"P-1","originalReferenceNo":"R-1","reason":"salah input: 1\/2 \u00e9","additionalInfo":{"channel":"BNC_QRIS"}}"#,
        query: r#"{"originalPartnerReferenceNo":"P-1","originalReferenceNo":"R-1","serviceCode":"47","additionalInfo":{"channel":"BNC_QRIS"}}"#,
        url: "/v1.0/qr/qr-mpm-cancel",
        signed: "/v1.0/qr/qr-mpm-cancel:tok-1:201514d5ab1a2868fe883d458dd54c53292127809368b8e64407b53f8a5ddcb0:2026-11-21T01:30:15+07:00",
        signature: "NygSIY14gBcWk8bkaneR82DLsXfcr9M0c9dK5KGz4U9iXrJOWDWjesbJJUcxcT04sqIv55Rk571uy04/l+fYQQ==",
        headers: &[PARTNER, WIB],
    },
];

fn spoken(bank: &Bank) -> (Partner, CancelCommand) {
    let partner = partner(bank.name, bank.mode);
    let path = |path: &Option<crate::snap::profile::UrlPath>| path.as_ref().unwrap().as_str().to_owned();
    let (cancel, query) = (path(&partner.profile.cancel.path), path(&partner.profile.query.as_ref().unwrap().path));
    let route = |path: String| Route { signed_path: path.clone(), path };
    let partner = Partner { cancel: route(cancel), query: Some(route(query)), ..partner };
    let takes_merchant = partner.profile.cancel_field(CommandField::MerchantId).is_some();
    let merchant = if takes_merchant { r#","merchantId":"M-1""# } else { "" };
    let command = command(&partner, &COMMAND.replace("MERCHANT", merchant));
    (partner, command)
}

#[test]
fn each_bank_is_sent_its_own_bytes_headers_and_signature() {
    for bank in &BANKS {
        let (partner, command) = spoken(bank);
        assert_eq!(partner.profile.signing.modes, [bank.mode], "{}", bank.name);
        assert_eq!(text(&partner.body(Operation::Query, &command)), bank.query);
        let body = partner.body(Operation::Cancel, &command);
        assert_eq!(text(&body), bank.cancel);
        let token = partner.needs_token().then(|| SecretString::from("tok-1"));
        let request =
            partner.transaction(Operation::Cancel, body, "0042", token.as_ref(), at("2026-11-20T18:30:15.678Z"));
        assert_eq!(request.url, format!("https://api.example{}", bank.url));
        assert_eq!(request.string_to_sign.expose_secret(), format!("POST:{}", bank.signed));
        assert_eq!(request.signature.expose_secret(), bank.signature, "{}", bank.name);
        let mut expected = bank.headers.to_vec();
        expected.extend([("X-EXTERNAL-ID", "0042"), ("X-SIGNATURE", bank.signature)]);
        expected.extend(token.map(|_| ("Authorization", "Bearer tok-1")));
        expected.sort_unstable();
        assert_eq!(headers(&request), expected);
    }
}

#[test]
fn banks_with_a_token_ask_for_it_each_at_its_own_path_and_time() {
    let expected = [
        ("midtrans", Some(("/v1.0/access-token/b2b", WIB.1))),
        ("winpay", None),
        ("doku", Some(("/authorization/v1/access-token/b2b", UTC.1))),
        ("ayolinx", Some(("/v1.0/access-token/b2b", WIB.1))),
    ];
    for (bank, (name, call)) in BANKS.iter().zip(expected) {
        let (partner, _) = spoken(bank);
        let request = partner.token_request(at("2026-11-20T18:30:15.678Z"));
        assert_eq!((bank.name, partner.needs_token(), request.is_some()), (name, call.is_some(), call.is_some()));
        let (Some(request), Some((path, time))) = (request, call) else { continue };
        assert_eq!(request.url, format!("https://token.example{path}"));
        assert_eq!(text(&request.body), r#"{"grantType":"client_credentials"}"#);
        assert_eq!(request.string_to_sign.expose_secret(), format!("{name}-key|{time}"));
        let names: Vec<_> = headers(&request).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["X-CLIENT-KEY", "X-SIGNATURE", "X-TIMESTAMP"]);
    }
}

#[test]
fn fields_inside_an_object_stand_together_where_the_first_is_listed_and_an_empty_one_is_left_out() {
    let nested = include_str!("../profiles/winpay.toml").replacen(
        r#"{ name = "reason", required = true, max = 256 }, # the standard's length"#,
        r#"{ name = "info.store", from = "externalStoreId", max = 9 }, { name = "reason", required = true, max = 256 },
           { name = "info.kind", value = "QR" }, { name = "more.shop", from = "merchantId", max = 9 },"#,
        1,
    );
    let of_winpay = partner("winpay", SigningMode::Asymmetric);
    let partner = Partner { profile: Profile::read("nested", &nested).unwrap(), ..of_winpay };
    let with = |more: &str| {
        let text = COMMAND.replace("MERCHANT", more);
        String::from_utf8(partner.body(Operation::Cancel, &command(&partner, &text))).unwrap()
    };
    assert_eq!(
        with(r#","externalStoreId":"S","merchantId":"M""#),
        r#"{"originalPartnerReferenceNo":"P-1","info":{"store":"S","kind":"QR"},"reason":"salah input: 1/2 é","more":{"shop":"M"},"additionalInfo":{"contractId":"R-1"}}"#
    );
    assert_eq!(
        with(""),
        r#"{"originalPartnerReferenceNo":"P-1","reason":"salah input: 1/2 é","info":{"kind":"QR"},"additionalInfo":{"contractId":"R-1"}}"#
    );
}

#[test]
fn what_is_escaped_as_php_does_it_says_the_same() {
    let text = r#"{"a/b":"é漢😀\/\\/\"/\u00e9","n":[1,"x"]}"#;
    let escaped = sign::php_escaped(text);
    assert_eq!(escaped, r#"{"a\/b":"\u00e9\u6f22\ud83d\ude00\/\\\/\"\/\u00e9","n":[1,"x"]}"#);
    assert_eq!(sign::php_escaped(&escaped), escaped);
    // However a publisher's library has escaped it.
    for (published, by_php) in [
        (r#"{"note":"Toko \u0026 Co\u003d\/\u002f"}"#, r#"{"note":"Toko & Co=\/\/"}"#),
        (r#"{"note":"\u00E9\ud83d\uDE00\u0022\u005C"}"#, r#"{"note":"\u00e9\ud83d\ude00\"\\"}"#),
        (r#"{"note":"\u000a\u0009\u0008\u000C\u000D\u001F\n\""}"#, r#"{"note":"\n\t\b\f\r\u001f\n\""}"#),
    ] {
        assert_eq!(sign::php_escaped(published), by_php);
    }
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(&escaped), value(text));
}
