//! What holds of any message.

use super::*;

/// Members that a command may have, good and bad.
fn any_member() -> impl Strategy<Value = String> {
    let names = [
        "jobId",
        "reason",
        "originalReferenceNo",
        "amount",
        "additionalInfo",
        "notAfter",
        "metadata",
        "specversion",
        "data",
        "id",
    ];
    let name = prop_oneof![prop::sample::select(names.to_vec()).prop_map(str::to_owned), "[a-z\\\\\"]{0,3}"];
    let value = prop_oneof![
        Just("\"x\"".to_owned()),
        Just("\"1.0\"".to_owned()),
        Just("null".to_owned()),
        Just("{\"type\":\"DYNAMIC\"}".to_owned()),
        Just("\"2026-11-20T18:30:15Z\"".to_owned()),
        "[0-9e.{}\\[\\]\",:-]{0,6}",
    ];
    (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn reading_never_panics_and_a_rejection_always_says_why(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(any_member(), 0..8).prop_map(|members| format!("{{{}}}", members.join(",")).into_bytes()),
            any::<prop::sample::Index>().prop_map(|at| ifortepay("").as_bytes()[..at.index(ifortepay("").len())].to_vec()),
        ],
        content_type in prop::option::of(prop_oneof![Just("application/cloudevents+json".to_owned()), ".{0,12}", "charset=.{0,8}"]),
        content_encoding in prop::option::of(".{0,4}"),
        message_id in prop::option::of(".{0,4}"),
    ) {
        let hints = Hints {
            content_type: content_type.as_deref(),
            content_encoding: content_encoding.as_deref(),
            message_id: message_id.as_deref(),
        };
        for (name, _) in BUILT_IN {
            match read_as(name, &MerchantDefaults::default(), &bytes, hints) {
                Ok(command) => {
                    prop_assert!((1..=128).contains(&command.job_id.len()));
                    prop_assert!((1..=256).contains(&command.text(REASON).unwrap().chars().count()));
                }
                Err(rejection) => {
                    prop_assert!(!rejection.violations.is_empty());
                    prop_assert_eq!(rejection.cause().outcome(), crate::outcome::Outcome::Invalid);
                    prop_assert!(rejection.violations.iter().all(|violation| !violation.rule.is_empty()));
                }
            }
        }
        Rejection::peek(&bytes, hints);
        let rejection = Rejection::unknown_account(&bytes, hints, "x");
        prop_assert_eq!(rejection.violations.len(), 1);
    }

    #[test]
    fn a_good_command_is_read_back_as_it_was_written(
        job_id in "[!-~]{1,128}", reason in "[^\\p{Cc}]{1,256}", reference in "[^\\p{Cc}]{1,64}", partner in "[^\\p{Cc}]{0,64}",
    ) {
        let text = serde_json::json!({
            "jobId": job_id, "reason": reason, "originalReferenceNo": reference, "originalPartnerReferenceNo": partner, "merchantId": "M",
        });
        let command = read("aspi", text.to_string()).unwrap();
        prop_assert_eq!(command.job_id, job_id);
        for (field, expected) in [(REASON, reason), (REFERENCE, reference), (PARTNER_REFERENCE, partner)] {
            prop_assert_eq!(command.texts.get(&field), Some(&expected));
        }
    }
}
