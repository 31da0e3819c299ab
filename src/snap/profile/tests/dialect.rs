//! The made-up dialect, spoken.

use super::*;

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
        private_key: PrivateKey::read(include_bytes!("../../../../tests/vectors/midtrans-public-sample-key.pem")).ok(),
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
    assert_eq!(answer.access_token.as_ref().map(|token| token.expose_secret()), Some("tok-1"));
    assert_eq!(answer.expires_in, Some(Duration::from_secs(90)));
    assert_eq!(read(br#"{"accessToken":"tok-1","expiresIn":90}"#).access_token.map(drop), None);
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
