//! What holds of any answer.

use super::*;

/// Bytes that a provider, a gateway in front of it, or a broken line may send.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let codes: Vec<_> = table().iter().flat_map(|r| [r.code, r.code.of(Operation::Query)]).collect();
    let code = prop_oneof![
        4 => prop::sample::select(codes).prop_map(|code| code.to_string()),
        1 => "[0-9]{6,8}",
        1 => ".{0,9}",
    ];
    let status = prop_oneof![3 => "0[0-9]", 1 => ".{0,3}"];
    let object = (code, status, any::<bool>()).prop_map(|(code, status, own)| {
        let reference = if own { "R-1" } else { "R-2" };
        serde_json::json!({"responseCode": code, "latestTransactionStatus": status, "originalReferenceNo": reference})
            .to_string()
            .into_bytes()
    });
    prop_oneof![
        4 => object.clone(),
        1 => (object.clone(), any::<prop::sample::Index>()).prop_map(|(body, at)| body[..at.index(body.len())].to_vec()),
        1 => (object, prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(body, tail)| [body, tail].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ]
}

fn any_status() -> impl Strategy<Value = u16> {
    prop_oneof![prop::sample::select(vec![200, 202, 400, 401, 403, 404, 405, 409, 429, 500, 504]), any::<u16>()]
}

/// What a body says, read by other code than the one under test: its code and status, if it is about our transaction.
fn said(http_status: u16, body: &[u8], service: &str) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| value.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let code = text("responseCode");
    let believable = code.len() == 7
        && code.bytes().all(|b| b.is_ascii_digit())
        && code[..3] == http_status.to_string()
        && &code[3..5] == service
        && ["", "R-1"].contains(&text("originalReferenceNo").as_str());
    believable.then(|| (code, text("latestTransactionStatus")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_cancel_has_a_yes_or_a_no_only_from_a_whole_answer_with_a_matching_code(
        http_status in any_status(), body in any_body(),
    ) {
        let said = said(http_status, &body, "77");
        for name in ["ifortepay", "aspi"] {
            let verdict = cancel_with(profile(name), http_status, &body);
            let code = said.as_ref().map_or("", |(code, _)| code.as_str());
            match verdict {
                Verdict::Canceled => prop_assert_eq!(code, "2007700"),
                Verdict::Pending => prop_assert_eq!(code, "2027700"),
                Verdict::Refused { .. } => prop_assert!(code.starts_with('4'), "{verdict:?} of {code:?}"),
                Verdict::Verify | Verdict::Token | Verdict::CutOff | Verdict::Misconfigured { .. } => {
                    prop_assert!(said.is_some(), "{verdict:?}");
                }
                Verdict::Retry => prop_assert!(http_status == 429 || code == "4037704"),
                Verdict::Unauthorized => prop_assert_eq!(http_status, 401),
                Verdict::Unknown => {}
                Verdict::Status(_) | Verdict::QueryFailed => prop_assert!(false, "{verdict:?} of a cancel"),
            }
        }
    }

    #[test]
    fn a_query_has_a_status_only_from_a_whole_answer_with_a_matching_code(
        http_status in any_status(), body in any_body(),
    ) {
        let verdict = query(http_status, &body);
        let said = said(http_status, &body, "51");
        match verdict {
            Verdict::Status(status) => {
                let (code, text) = said.expect("a status needs an answer");
                let expected = match (code.as_str(), text.as_str()) {
                    ("4045101", _) | ("2005100", "07") => Status::NotFound,
                    ("2005100", "00") => Status::Paid,
                    ("2005100", "01" | "03") => Status::Open,
                    ("2005100", "02") => Status::Paying,
                    ("2005100", "04") => Status::Refunded,
                    ("2005100", "05") => Status::Canceled,
                    ("2005100", "06") => Status::Failed,
                    other => return Err(TestCaseError::fail(format!("{status:?} of {other:?}"))),
                };
                prop_assert_eq!(status, expected);
            }
            Verdict::Token | Verdict::Misconfigured { .. } => prop_assert!(said.is_some()),
            Verdict::Unauthorized => prop_assert_eq!(http_status, 401),
            Verdict::QueryFailed => {}
            other => prop_assert!(false, "{other:?} of a query"),
        }
    }
}
