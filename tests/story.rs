//! The pipeline's stories, each told once, with in-memory doubles of the provider, the broker, the clock and chance: the
//! calls that are made, the delays that are chosen, what is carried to the next attempt, the order of the effects, and
//! the event as it is published.

#[path = "story/doubles.rs"]
mod doubles;
#[path = "story/model.rs"]
mod model;

use chrono::TimeDelta;
use doubles::{Answer, COMMAND, Nack, Story, canceled, code, message, not_sent, start, status, timeout, with};
use qris_cancel_worker::{
    breaker::Health,
    message::{Carried, DeadLetter, Message, Origin},
    outcome::Cause,
    parked::replayed,
    pipeline::{Ending::*, NotConfirmed},
    retry::{Later, Progress},
    snap::{Operation, SendError},
};
use std::time::Duration;

/// Shows the event that was published last, as a snapshot.
macro_rules! assert_event {
    ($story:expr) => {
        insta::with_settings!({ snapshot_path => "story/events", prepend_module_to_snapshot => false }, {
            insta::assert_json_snapshot!($story.event());
        })
    };
}

const REFUSED: &str = "4037705";
const DENIED: &str = "4047716";

// The reply to a cancel.

#[tokio::test]
async fn canceled_at_once() {
    let story = Story::new();
    assert_eq!(story.attempt([canceled()]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.journal(), "cancel, publish shop.canceled, reply");
    assert_eq!(
        story.rig.state().sent[0].1,
        r#"{"originalPartnerReferenceNo":"P-1","originalReferenceNo":"R-1","reason":"salah input","additionalInfo":{"type":"DYNAMIC"}}"#
    );
    // The snapshot would round this.
    let body = String::from_utf8(story.rig.state().events[0].body.clone()).unwrap();
    assert!(body.ends_with(r#""metadata":{"price":1.10}}}"#), "{body}");
    assert_event!(story);
}

#[tokio::test]
async fn a_trace_and_a_first_token_call_are_told() {
    let mut story = Story::new();
    story.message.properties.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    assert_eq!(story.attempt([canceled().after_a_token_call()]).await, Ok(Finished(Cause::Canceled)));
    assert_event!(story);
}

#[tokio::test]
async fn confirm_cancel_settles_a_yes_by_a_query_first() {
    let mut story = Story::new();
    story.pipeline.confirm_cancel = true;
    assert_eq!(story.attempt([canceled(), status("05")]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.journal(), "cancel, query, publish shop.canceled, reply");
    assert_event!(story);

    // The query knows better.
    let mut story = Story::new();
    story.pipeline.confirm_cancel = true;
    assert_eq!(story.attempt([canceled(), status("00")]).await, Ok(Finished(Cause::Paid)));

    // A query that tells nothing is asked again, and the yes is not forgotten.
    let mut story = Story::new();
    story.pipeline.confirm_cancel = true;
    assert_eq!(story.attempt([canceled(), timeout()]).await, Ok(Scheduled(Later::QueryFailed)));
    assert!(story.waiting().0.ambiguous);
    story.comes_back();
    story.journal();
    assert_eq!(story.attempt([status("05")]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.journal(), "query, publish shop.canceled, reply");

    // An account without a query takes the provider's word.
    let mut story = Story::at("bnc", COMMAND);
    story.pipeline.confirm_cancel = true;
    assert_eq!(story.attempt([canceled()]).await, Ok(Finished(Cause::Canceled)));
}

#[tokio::test]
async fn the_provider_answered_and_did_nothing_so_a_query_tells() {
    for (said, ending) in [
        ("00", Finished(Cause::Paid)),
        ("04", Finished(Cause::Refunded)),
        ("05", Finished(Cause::AlreadyCanceled)),
        ("06", Finished(Cause::Failed)),
        ("01", Scheduled(Later::Open)),
        ("02", Scheduled(Later::Paying)),
        ("03", Scheduled(Later::Open)),
        ("07", Scheduled(Later::NotFound)),
        ("08", Scheduled(Later::QueryFailed)),
    ] {
        let story = Story::new();
        assert_eq!(story.attempt([code("4047700"), status(said)]).await, Ok(ending), "{said}");
        let journal = story.journal();
        match ending {
            Finished(cause) => {
                assert_eq!(journal, format!("cancel, query, publish shop.{}, reply", cause.outcome().name()));
            }
            _ => {
                assert_eq!(journal, "cancel, query, retry");
                let (progress, _) = story.waiting();
                assert!(!progress.ambiguous, "{said}");
                assert_eq!(progress.query_first, !["01", "03"].contains(&said), "{said}");
                assert_eq!((progress.attempts, story.delay(), progress.history.count), (1, 1, 2));
            }
        }
    }
}

#[tokio::test]
async fn already_canceled_by_someone_else() {
    let story = Story::new();
    assert_eq!(story.attempt([code("4047704"), status("05")]).await, Ok(Finished(Cause::AlreadyCanceled)));
    assert_event!(story);
}

#[tokio::test]
async fn the_customer_paid_first() {
    let story = Story::new();
    assert_eq!(story.attempt([code("4047714"), status("00")]).await, Ok(Finished(Cause::Paid)));
    assert_event!(story);
}

#[tokio::test]
async fn a_lost_reply_is_ambiguous_and_a_query_tells() {
    for (said, ending) in [
        ("05", Finished(Cause::Canceled)),
        ("00", Finished(Cause::Paid)),
        ("04", Finished(Cause::Refunded)),
        ("06", Finished(Cause::Failed)),
        ("01", Scheduled(Later::Open)),
        ("02", Scheduled(Later::Paying)),
        ("03", Scheduled(Later::Open)),
        ("07", Scheduled(Later::NotFound)),
    ] {
        for lost in
            [timeout(), Answer::error(SendError::Broken("reset".into())), code("5007700"), Answer::body(302, "")]
        {
            let story = Story::new();
            assert_eq!(story.attempt([lost, status(said)]).await, Ok(ending), "{said}");
            if let Scheduled(_) = ending {
                assert_eq!(story.journal(), "cancel, query, retry");
                assert!(story.waiting().0.ambiguous, "{said}");
                assert_eq!(story.delay(), 1);
            }
        }
    }
    let story = Story::new();
    story.attempt([timeout(), status("05")]).await.unwrap();
    assert_event!(story);
}

#[tokio::test]
async fn an_ambiguous_command_is_queried_before_it_is_cancelled_again() {
    let mut story = Story::new();
    story.attempt([timeout(), status("01")]).await.unwrap();
    story.comes_back();
    story.journal();
    assert_eq!(story.attempt([status("01"), canceled()]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.journal(), "query, cancel, publish shop.canceled, reply");
    // The first X-EXTERNAL-ID is not used again.
    let ids: Vec<_> = story.rig.state().sent.iter().map(|(_, _, id)| id.clone()).collect();
    assert_eq!(ids, (1..=4).map(|n| format!("{n:032}")).collect::<Vec<_>>());
    assert_event!(story);
}

#[tokio::test]
async fn what_is_open_and_not_ambiguous_is_cancelled_again_without_a_query_first() {
    let mut story = Story::new();
    story.attempt([code("4047710"), status("01")]).await.unwrap();
    story.comes_back();
    story.journal();
    assert_eq!(story.attempt([canceled()]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.journal(), "cancel, publish shop.canceled, reply");
}

#[tokio::test]
async fn what_is_not_found_or_being_paid_is_queried_again_and_not_cancelled() {
    for said in ["02", "07"] {
        let mut story = Story::new();
        story.attempt([code("4047701"), status(said)]).await.unwrap();
        story.comes_back();
        story.journal();
        story.attempt([status(said)]).await.unwrap();
        assert_eq!(story.journal(), "query, retry");
        assert_eq!((story.delay(), story.waiting().0.attempts), (2, 2));
        story.comes_back();
        // Open after all: the cancel follows in the same attempt.
        assert_eq!(story.attempt([status("01"), canceled()]).await, Ok(Finished(Cause::Canceled)));
    }
}

#[tokio::test]
async fn another_transactions_answer_settles_nothing() {
    let story = Story::new();
    let other = |code: &str| {
        Answer::body(
            200,
            format!(r#"{{"responseCode":"{code}","originalReferenceNo":"R-2","latestTransactionStatus":"05"}}"#),
        )
    };
    assert_eq!(story.attempt([other("2007700"), other("2005100")]).await, Ok(Scheduled(Later::QueryFailed)));
    assert!(story.waiting().0.ambiguous);
}

#[tokio::test]
async fn accepted_and_not_finished_waits_a_minute_at_least() {
    for said in ["01", "03"] {
        let mut story = Story::new();
        assert_eq!(story.attempt([code("2027700"), status(said)]).await, Ok(Scheduled(Later::Pending)));
        assert_eq!(story.journal(), "cancel, query, retry");
        assert_eq!(story.delay(), 60);
        assert!(story.waiting().0.ambiguous);
        story.comes_back();
        assert_eq!(story.attempt([status("05")]).await, Ok(Finished(Cause::Canceled)));
    }
    // Whatever the query says: a cancel could follow the next one at once.
    for unsettled in [status("02"), status("07"), timeout(), code("4015100")] {
        let story = Story::new();
        let repeated = unsettled.clone();
        let answers =
            if format!("{unsettled:?}").contains("401") { vec![unsettled, repeated] } else { vec![unsettled] };
        story.attempt([vec![code("2027700")], answers].concat()).await.unwrap();
        assert!(story.delay() >= 60, "{}", story.delay());
    }
    // The second attempt's minute is not the first one's.
    let mut story = Story::new();
    story.attempt([code("2027700"), status("01")]).await.unwrap();
    story.comes_back();
    assert_eq!(story.attempt([status("01"), code("4297700")]).await, Ok(Scheduled(Later::Busy)));
    assert_eq!(story.delay(), 2);
}

#[tokio::test]
async fn refused_for_good() {
    let story = Story::new();
    assert_eq!(story.attempt([code(REFUSED), status("01")]).await, Ok(Finished(Cause::ResponseCode)));
    assert_eq!(story.journal(), "cancel, query, publish shop.refused, reply");
    assert_event!(story);
}

#[tokio::test]
async fn ifortepay_cannot_cancel_this_kind_of_qr() {
    let story = Story::new();
    assert_eq!(story.attempt([code("4037701"), status("01")]).await, Ok(Finished(Cause::NotCancelableByProvider)));
    assert_event!(story);
}

#[tokio::test]
async fn refused_while_ambiguous_is_queried_and_told_with_a_warning() {
    for said in ["01", "03"] {
        let story = Story::new().redelivered();
        let answers = [status("01"), code(REFUSED), status(said)];
        assert_eq!(story.attempt(answers).await, Ok(Finished(Cause::ResponseCode)));
        assert_eq!(story.journal(), "query, cancel, query, publish shop.refused, reply");
        let event = story.event();
        assert_eq!(event["data"]["mayHaveTakenEffect"], true);
        // The deciding answer is the refusal, not the query's.
        assert_eq!(event["data"]["responseCode"], REFUSED);
    }
    for (said, ending) in [
        (status("05"), Finished(Cause::Canceled)),
        (status("00"), Finished(Cause::Paid)),
        (status("02"), Scheduled(Later::Paying)),
        (status("07"), Scheduled(Later::NotFound)),
        (timeout(), Scheduled(Later::QueryFailed)),
    ] {
        let story = Story::new().redelivered();
        assert_eq!(story.attempt([status("01"), code(REFUSED), said]).await, Ok(ending));
    }
    let story = Story::new().redelivered();
    story.attempt([status("01"), code(REFUSED), status("01")]).await.unwrap();
    assert_event!(story);
}

#[tokio::test]
async fn a_refusal_may_be_the_echo_of_another_copys_success() {
    // It was published twice, or a worker that died between the retry's confirm and the acknowledgement has left another copy.
    for (said, ending, effect) in [
        (status("05"), Finished(Cause::AlreadyCanceled), serde_json::Value::Null),
        (status("01"), Finished(Cause::ResponseCode), serde_json::json!(false)),
        (status("07"), Scheduled(Later::NotFound), serde_json::Value::Null),
        (timeout(), Scheduled(Later::QueryFailed), serde_json::Value::Null),
    ] {
        // At once; put off by the provider; put off without a call; at the provider's closing time, which counts as no attempt.
        let put_off = [code("4297700"), Answer::error(SendError::Stopping), code("4037706")].map(Some);
        for first in [None].into_iter().chain(put_off) {
            let mut story = Story::new();
            if let Some(first) = first {
                story.attempt([first]).await.unwrap();
                assert_eq!(story.journal(), "cancel, retry");
                story.comes_back();
            }
            assert_eq!(story.attempt([code(REFUSED), said.clone()]).await, Ok(ending));
            if let Finished(_) = ending {
                assert!(story.journal().starts_with("cancel, query, publish shop."));
                assert_eq!(story.event()["data"]["mayHaveTakenEffect"], effect);
                assert_eq!(story.event()["data"]["responseCode"] == REFUSED, ending == Finished(Cause::ResponseCode));
            }
        }
    }
    // Nobody can ask.
    let mut story = Story::at("bnc", COMMAND);
    assert_eq!(story.attempt([code(REFUSED)]).await, Ok(Finished(Cause::NoQuery)));
    assert_eq!(story.journal(), "cancel, park no_query, publish shop.unresolved, reply");
    assert_eq!(story.event()["data"]["mayHaveTakenEffect"], false);
    story = Story::at("bnc", COMMAND);
    story.attempt([code("4297700")]).await.unwrap();
    story.comes_back();
    assert_eq!(story.attempt([code(REFUSED)]).await, Ok(Finished(Cause::NoQuery)));
    assert_eq!(story.event()["data"]["mayHaveTakenEffect"], true);
    // A faulty request did nothing, whatever became of its copies.
    let story = Story::at("bnc", COMMAND);
    assert_eq!(story.attempt([code("4007701")]).await, Ok(Finished(Cause::ResponseCode)));
}

#[tokio::test]
async fn a_malformed_request_is_refused_even_while_ambiguous() {
    for faulty in ["4007700", "4007701", "4007702"] {
        let story = Story::new().redelivered();
        assert_eq!(story.attempt([status("01"), code(faulty)]).await, Ok(Finished(Cause::ResponseCode)));
        assert_eq!(story.journal(), "query, cancel, publish shop.refused, reply");
        assert_eq!(story.event()["data"]["mayHaveTakenEffect"], true);
    }
}

#[tokio::test]
async fn busy_or_unreachable_is_cancelled_again_later() {
    for busy in [
        code("4297700"),
        code("4037704"),
        Answer::body(429, "<html>"),
        not_sent(),
        Answer::error(SendError::NoToken("HTTP 503".into())),
    ] {
        let mut story = Story::new();
        assert_eq!(story.attempt([busy]).await, Ok(Scheduled(Later::Busy)));
        assert_eq!(story.journal(), "cancel, retry");
        let (progress, _) = story.waiting();
        assert_eq!((progress.ambiguous, progress.query_first, progress.attempts, story.delay()), (false, false, 1, 1));
        story.comes_back();
        assert_eq!(story.attempt([canceled()]).await, Ok(Finished(Cause::Canceled)));
        assert_eq!(story.journal(), "cancel, publish shop.canceled, reply");
    }
}

#[tokio::test]
async fn a_provider_that_asks_for_a_pause_gets_it_up_to_an_hour() {
    for (asked, delay) in [(0, 1), (120, 120), (3600, 3600), (86_400, 3600)] {
        let story = Story::new();
        story.attempt([code("4297700").retry_after(asked)]).await.unwrap();
        assert_eq!(story.delay(), delay);
    }
    // Also of what was tried before, and where it gives no token.
    for asks in [code("4297700"), Answer::error(SendError::NoToken("HTTP 503".into()))] {
        let mut story = Story::new();
        story.attempt([code("4297700")]).await.unwrap();
        story.comes_back();
        assert_eq!(story.attempt([asks.clone().retry_after(3600)]).await, Ok(Scheduled(Later::Busy)));
        assert_eq!(story.delay(), 3600);
        // The hour is over then: this was the last pause.
        story.comes_back();
        assert_eq!(story.attempt([asks]).await, Ok(Finished(Cause::AttemptsExhausted)));
    }
}

#[tokio::test]
async fn the_providers_closing_time_is_waited_out_for_a_day_and_uses_no_attempt() {
    let mut story = Story::new();
    story.rig.state().jitter = 0.0;
    let mut waited = 0;
    let ending = loop {
        match story.attempt([code("4037706")]).await.unwrap() {
            Scheduled(why) => assert_eq!(why, Later::CutOff),
            ending => break ending,
        }
        assert!((300..=3600).contains(&story.delay()), "{}", story.delay());
        assert_eq!(story.waiting().0.attempts, 0);
        waited += story.delay();
        story.comes_back();
    };
    assert_eq!(ending, Finished(Cause::AttemptsExhausted));
    assert!((82_800..=86_400).contains(&waited), "{waited}");
    assert_eq!(story.event()["data"]["mayHaveTakenEffect"], false);
}

// Without a query path.

#[tokio::test]
async fn without_a_query_nobody_can_verify() {
    let story = Story::at("bnc", COMMAND);
    assert_eq!(story.attempt([code("4047700")]).await, Ok(Finished(Cause::NoQuery)));
    assert_eq!(story.journal(), "cancel, park no_query, publish shop.unresolved, reply");
    let (progress, finish) = story.rig.state().parked[0].clone();
    assert_eq!((progress.attempts, finish.cause, finish.ambiguous), (1, Cause::NoQuery, false));
    assert_event!(story);

    // After a retry, another copy of it may have cancelled: "invalid status" can be the echo of that.
    let mut story = Story::at("bnc", COMMAND);
    story.attempt([code("4297700")]).await.unwrap();
    story.comes_back();
    assert_eq!(story.attempt([code("4047700")]).await, Ok(Finished(Cause::NoQuery)));
    assert_eq!(story.event()["data"]["mayHaveTakenEffect"], true);
    assert!(story.rig.state().parked[0].1.ambiguous);
}

#[tokio::test]
async fn without_a_query_an_unknown_is_cancelled_again() {
    for (answer, why, delay) in
        [(timeout(), Later::Unknown, 1), (code("5047700"), Later::Unknown, 1), (code("2027700"), Later::Pending, 60)]
    {
        let mut story = Story::at("bnc", COMMAND);
        assert_eq!(story.attempt([answer]).await, Ok(Scheduled(why)));
        assert_eq!(story.journal(), "cancel, retry");
        assert_eq!(story.delay(), delay);
        assert!(story.waiting().0.ambiguous);
        story.comes_back();
        assert_eq!(story.attempt([canceled()]).await, Ok(Finished(Cause::Canceled)));
        assert_eq!(story.journal(), "cancel, publish shop.canceled, reply");
    }
    // Refused while ambiguous: a yes may have gone before, and nobody can tell.
    let story = Story::at("bnc", COMMAND).redelivered();
    assert_eq!(story.attempt([code(REFUSED)]).await, Ok(Finished(Cause::NoQuery)));
    assert_eq!(story.event()["data"]["mayHaveTakenEffect"], true);
}

// Keys, tokens, rights.

#[tokio::test]
async fn a_token_is_renewed_once_and_keys_that_earned_one_are_not_in_doubt() {
    for refusal in ["4017701", "4017703"] {
        let story = Story::new();
        assert_eq!(story.attempt([code(refusal), canceled()]).await, Ok(Finished(Cause::Canceled)));
        assert_eq!(story.journal(), "cancel, forget token 1, cancel, publish shop.canceled, reply");

        let story = Story::new();
        assert_eq!(story.attempt([code(refusal), code(refusal)]).await, Ok(Scheduled(Later::Busy)));
        assert_eq!(story.journal(), "cancel, forget token 1, cancel, forget token 2, retry");
        assert_eq!((story.waiting().0.attempts, story.waiting().0.doubts), (1, 0));
        // An account whose tokens all end so rests as one whose provider fails.
        let state = story.rig.state();
        assert_eq!((state.denials, state.news.as_slice()), (0, [(Operation::Cancel, Health::Bad)].as_slice()));
    }
    let story = Story::new().redelivered();
    assert_eq!(story.attempt([code("4015101"), code("4015101")]).await, Ok(Scheduled(Later::QueryFailed)));
    // With the new token the signature is refused: that is no matter of tokens.
    let story = Story::new();
    let answers = [code("4017701"), code("4017700"), code("4017700")];
    assert_eq!(story.attempt(answers).await, Ok(Scheduled(Later::Misconfigured)));
}

#[tokio::test]
async fn a_request_that_is_not_let_in_is_repeated_once_with_a_fresh_timestamp() {
    for refusal in [code("4017700"), Answer::body(401, "<html>")] {
        let story = Story::new();
        assert_eq!(story.attempt([refusal.clone(), canceled()]).await, Ok(Finished(Cause::Canceled)));
        assert_eq!(story.journal(), "cancel, cancel, publish shop.canceled, reply");
        let event = story.event();
        let calls = event["data"]["calls"].as_array().unwrap();
        assert_ne!(calls[0]["at"], calls[1]["at"]);
        assert_ne!(calls[0]["externalId"], calls[1]["externalId"]);

        let story = Story::new();
        let answers = [refusal.clone(), refusal];
        assert_eq!(story.attempt(answers).await, Ok(Scheduled(Later::Misconfigured)));
        assert_eq!(story.journal(), "cancel, cancel, retry");
    }
    // A query is let in the same way.
    let story = Story::new().redelivered();
    let answers = [code("4015100"), code("4015101"), code("4015100")];
    assert_eq!(story.attempt(answers).await, Ok(Scheduled(Later::Misconfigured)));
    assert_eq!(story.journal(), "query, query, forget token 2, query, retry");
}

#[tokio::test]
async fn wrong_keys_use_up_no_attempt() {
    let refusals = [code("4047716"), code("4037719"), Answer::error(SendError::TokenRefused("4017300".into()))];
    for refusal in refusals {
        let mut story = Story::new();
        for doubts in 1..=40 {
            assert_eq!(story.attempt([refusal.clone()]).await, Ok(Scheduled(Later::Misconfigured)));
            let (progress, _) = story.waiting();
            assert_eq!((progress.attempts, progress.doubts), (0, doubts));
            assert_eq!(story.delay(), (1 << (doubts - 1).min(20)).min(300));
            story.comes_back();
        }
        // The keys are mended.
        assert_eq!(story.attempt([canceled()]).await, Ok(Finished(Cause::Canceled)));
        assert_eq!(story.event()["data"]["callsTotal"], 41);
    }
}

#[tokio::test]
async fn a_query_that_is_let_in_is_no_right_to_cancel() {
    // The merchant may query, and may not cancel: nobody else is let in, so no attempt is used up.
    let mut story = Story::at("aspi", &with(r#""merchantId":"M-1""#)).redelivered();
    for doubts in 1..=30 {
        let answers = [status("01"), code("4037701")];
        assert_eq!(story.attempt(answers).await, Ok(Scheduled(Later::Misconfigured)));
        assert_eq!((story.waiting().0.attempts, story.waiting().0.doubts), (0, doubts));
        story.comes_back();
    }
}

#[tokio::test]
async fn the_account_is_to_blame_unless_the_command_brought_the_merchant() {
    let own = with(r#""merchantId":"M-1""#);
    for (command, refusal, denials) in [
        (own.as_str(), code("4047708"), 0),
        (&own, code("4037719"), 0),
        (&own, code("4037701"), 1),
        (COMMAND, code("4047708"), 1),
        (COMMAND, Answer::error(SendError::TokenRefused("4017300".into())), 1),
    ] {
        let mut story = Story::at("aspi", command);
        story.partner_mut().merchant.merchant_id = Some("M-0".into());
        assert_eq!(story.attempt([refusal.clone()]).await, Ok(Scheduled(Later::Misconfigured)));
        assert_eq!(story.rig.state().denials, denials, "{command}: {refusal:?}");
        assert_eq!(story.waiting().0.doubts, 1);
    }
    // Once for a visit, however many calls it took; a query that is not let in says the same.
    let story = Story::new().redelivered();
    story.attempt([code("4015100"), code("4015100")]).await.unwrap();
    assert_eq!(story.rig.state().denials, 1);
}

#[tokio::test]
async fn a_visit_is_one_piece_of_news_and_a_cancel_says_more_than_a_query() {
    use Health::{Bad, Good, Untold};
    use Operation::{Cancel, Query};
    let no_token = || Answer::error(SendError::NoToken("503".into()));
    let cases: [(bool, Vec<Answer>, (Operation, Health)); 10] = [
        (false, vec![canceled()], (Cancel, Good)),
        (false, vec![timeout(), status("01")], (Cancel, Bad)),
        (false, vec![code("4047714"), timeout()], (Cancel, Good)),
        (true, vec![status("05")], (Query, Good)),
        (true, vec![timeout()], (Query, Bad)),
        (true, vec![status("01"), not_sent()], (Cancel, Bad)),
        (false, vec![code("4017700"), canceled()], (Cancel, Good)),
        (false, vec![code("4017700"), code("4017700")], (Cancel, Untold)),
        (false, vec![no_token()], (Cancel, Bad)),
        (false, vec![no_token().hearsay()], (Cancel, Untold)),
    ];
    for (redelivered, answers, expected) in cases {
        let story = if redelivered { Story::new().redelivered() } else { Story::new() };
        story.attempt(answers.clone()).await.unwrap();
        assert_eq!(story.rig.state().news, [expected], "{answers:?}");
        assert_eq!(story.rig.state().claimed_again, redelivered);
    }
    for (hearsay, denials) in [(true, 0), (false, 1)] {
        let story = Story::new();
        let refused = Answer::error(SendError::TokenRefused("4017300".into()));
        story.attempt([if hearsay { refused.hearsay() } else { refused }]).await.unwrap();
        assert_eq!(story.rig.state().denials, denials);
    }
}

// Limits of one worker.

#[tokio::test]
async fn a_transaction_is_in_hand_until_everything_is_told() {
    let story = Story::new();
    story.attempt([canceled()]).await.unwrap();
    assert_eq!(story.rig.state().claimed, ["originalReferenceNo R-1", "originalPartnerReferenceNo P-1"]);
    assert_eq!(story.rig.state().released_after.as_deref(), Some("reply"));
    let story = Story::new();
    story.attempt([timeout(), timeout()]).await.unwrap();
    assert_eq!(story.rig.state().released_after.as_deref(), Some("retry"));
}

#[tokio::test]
async fn a_command_whose_transaction_is_in_hand_too_long_comes_again_and_is_not_to_blame() {
    let mut story = Story::new();
    story.rig.state().in_hand = true;
    for _ in 0..50 {
        assert_eq!(story.attempt([]).await, Ok(Scheduled(Later::InHand)));
        assert_eq!(story.journal(), "retry");
        let (progress, _) = story.waiting();
        assert_eq!((progress.attempts, progress.ambiguous, story.delay()), (0, false, 1));
        story.comes_back();
    }
    story.rig.state().in_hand = false;
    assert_eq!(story.attempt([canceled()]).await, Ok(Finished(Cause::Canceled)));
}

#[tokio::test]
async fn no_call_begins_when_the_visit_has_taken_a_minute() {
    let slow = || {
        let story = Story::new();
        story.rig.state().takes = Duration::from_secs(40);
        story
    };
    // The second call begins after 40 s and ends after 80 s; then it is not repeated.
    let mut story = slow();
    assert_eq!(story.attempt([timeout(), code("4015100")]).await, Ok(Scheduled(Later::QueryFailed)));
    let (progress, _) = story.waiting();
    assert_eq!((progress.ambiguous, progress.query_first, progress.attempts), (true, true, 1));
    story.comes_back();
    assert_eq!(story.attempt([status("05")]).await, Ok(Finished(Cause::Canceled)));
    // The cancel waits for the next attempt, too.
    let mut story = slow().redelivered();
    story.rig.state().takes = Duration::from_secs(61);
    assert_eq!(story.attempt([status("03")]).await, Ok(Scheduled(Later::Busy)));
    story.rig.state().takes = Duration::from_secs(1);
    story.comes_back();
    assert_eq!(story.attempt([status("03"), canceled()]).await, Ok(Finished(Cause::Canceled)));
}

#[tokio::test]
async fn a_command_that_alone_is_not_authorized_ends_after_its_last_attempt() {
    let mut story = Story::new();
    let mut delays = Vec::new();
    let ending = loop {
        story.rig.provider(|operation, _| if operation == Operation::Cancel { code(DENIED) } else { status("01") });
        match story.attempt([]).await.unwrap() {
            Scheduled(why) => assert_eq!(why, Later::Misconfigured),
            ending => break ending,
        }
        delays.push(story.delay());
        story.comes_back();
        another_passes(&story).await;
    };
    assert_eq!(ending, Finished(Cause::NotAuthorized));
    assert_eq!(delays.len(), 20);
    assert_eq!(delays[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!(story.event()["data"]["mayHaveTakenEffect"], false);
    assert_eq!(
        (&story.event()["data"]["attempts"], &story.event()["data"]["responseCode"]),
        (&20.into(), &DENIED.into())
    );
    assert_event!(story);
}

/// Another command of the account is taken just before now.
async fn another_passes(story: &Story) {
    let mut other = Story::new();
    other.pipeline.accepted_at = story.pipeline.accepted_at.clone();
    other.rig.state().now = story.rig.state().now - TimeDelta::milliseconds(10);
    other.attempt([canceled()]).await.unwrap();
}

/// One answer to each attempt, while others pass; the last is asked for again and again, and a query says what is given.
async fn to_the_end(mut story: Story, answers: &[&str], query: &'static str) -> (Cause, Story) {
    for attempt in 0.. {
        assert!(attempt < 60, "no end");
        let answer = (*answers.get(attempt).or(answers.last()).unwrap()).to_owned();
        story.rig.provider(move |operation, _| match operation {
            Operation::Cancel => code(&answer),
            _ => Answer::body(200, format!(r#"{{"responseCode":"2005100","latestTransactionStatus":"{query}"}}"#)),
        });
        match story.attempt([]).await.unwrap() {
            Finished(cause) => return (cause, story),
            _ => story.comes_back(),
        }
        another_passes(&story).await;
    }
    unreachable!()
}

#[tokio::test]
async fn only_denials_in_a_row_are_a_refusal() {
    const BUSY: &str = "4297700";
    let busy = |times| vec![BUSY; times];
    let denied = |times| vec![DENIED; times];
    for (answers, cause) in [
        // The first denial shows nothing; then five in a row are the last five of twenty attempts.
        ([busy(15), denied(1)], Cause::NotAuthorized),
        ([busy(16), denied(1)], Cause::AttemptsExhausted),
        ([busy(19), denied(1)], Cause::AttemptsExhausted),
        // Denied often, and not to the end: the row begins again.
        ([denied(14), [busy(1), denied(1)].concat()], Cause::NotAuthorized),
        ([denied(16), [busy(1), denied(1)].concat()], Cause::AttemptsExhausted),
        ([denied(20), busy(1)], Cause::AttemptsExhausted),
    ] {
        let answers = answers.concat();
        let (ended, story) = to_the_end(Story::new(), &answers, "01").await;
        assert_eq!(ended, cause, "{answers:?}");
        assert_eq!(story.event()["data"]["attempts"], 20, "{answers:?}");
        assert_eq!(story.rig.state().parked.len(), usize::from(cause == Cause::AttemptsExhausted));
    }
    // No longer denied, it is in no doubt.
    let mut story = Story::new();
    for (answer, doubted, row) in [(DENIED, true, 0), (DENIED, true, 1), (BUSY, false, 0), (DENIED, true, 0)] {
        story.attempt([code(answer)]).await.unwrap();
        let (progress, _) = story.waiting();
        assert_eq!((progress.doubted_at.is_some(), progress.denied_in_a_row), (doubted, row), "{answer}");
        story.comes_back();
        another_passes(&story).await;
    }
    // Fewer attempts are not enough.
    for (max_attempts, cause) in [(4, Cause::AttemptsExhausted), (5, Cause::NotAuthorized)] {
        let mut story = Story::new();
        story.pipeline.policy.max_attempts = max_attempts;
        assert_eq!(to_the_end(story, &[DENIED], "01").await.0, cause, "{max_attempts}");
    }
}

#[tokio::test]
async fn a_denial_is_told_of_a_qr_that_is_still_open() {
    for (query, cause) in [
        ("05", Cause::AlreadyCanceled),
        ("00", Cause::Paid),
        ("06", Cause::Failed),
        ("02", Cause::AttemptsExhausted),
        ("07", Cause::AttemptsExhausted),
        ("no status", Cause::AttemptsExhausted),
    ] {
        let (ended, story) = to_the_end(Story::new(), &[DENIED], query).await;
        assert_eq!((ended, story.event()["data"]["attempts"].as_u64()), (cause, Some(20)), "{query}");
    }
    // Nobody can ask.
    assert_eq!(to_the_end(Story::at("bnc", COMMAND), &[DENIED], "01").await.0, Cause::AttemptsExhausted);
}

#[tokio::test]
async fn a_denial_that_is_excused_or_happens_to_all_does_not_count() {
    let mut story = Story::new();
    let hearsay = || Answer::error(SendError::TokenRefused("4017300".into())).hearsay();
    for (answer, others_pass, row) in [
        (code(DENIED), true, 0),
        (code(DENIED), true, 1),
        (hearsay(), true, 1),
        (code(DENIED), false, 2),
        (code(DENIED), true, 2),
        (code(DENIED), true, 3),
    ] {
        assert_eq!(story.attempt([answer]).await, Ok(Scheduled(Later::Misconfigured)));
        assert_eq!(story.waiting().0.denied_in_a_row, row);
        story.comes_back();
        if others_pass {
            another_passes(&story).await;
        }
    }
}

#[tokio::test]
async fn a_query_alone_never_refuses() {
    // The customer has paid, and we may not query: a refusal would tell nobody to look.
    let mut story = Story::new();
    assert_eq!(story.attempt([code("4047714"), code("4035101")]).await, Ok(Scheduled(Later::Misconfigured)));
    let ending = loop {
        story.comes_back();
        another_passes(&story).await;
        match story.attempt([code("4035101")]).await.unwrap() {
            Scheduled(_) => {}
            ending => break ending,
        }
    };
    assert_eq!(ending, Finished(Cause::AttemptsExhausted));
}

// The end of patience.

#[tokio::test]
async fn attempts_are_exhausted() {
    let mut story = Story::new();
    let mut delays = Vec::new();
    let mut answers = vec![timeout(), timeout()];
    let ending = loop {
        match story.attempt(answers).await.unwrap() {
            Scheduled(why) => assert_eq!(why, Later::QueryFailed),
            ending => break ending,
        }
        delays.push(story.delay());
        story.comes_back();
        answers = vec![timeout()];
    };
    assert_eq!(ending, Finished(Cause::AttemptsExhausted));
    assert_eq!(delays.len(), 19);
    assert_eq!(delays[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    let journal = story.journal();
    assert!(journal.ends_with("query, park attempts_exhausted, publish shop.unresolved, reply"), "{journal}");
    assert_event!(story);
}

#[tokio::test]
async fn an_hour_of_chosen_delays_is_enough() {
    let mut story = Story::new();
    story.pipeline.policy.max_attempts = 1000;
    story.pipeline.policy.initial = Duration::from_secs(300);
    let mut waited = 0;
    while story.attempt([not_sent()]).await == Ok(Scheduled(Later::Busy)) {
        waited += story.delay();
        story.comes_back();
        // Time in a queue does not count.
        story.rig.state().now += TimeDelta::days(1);
    }
    assert_eq!(waited, 3600);
    assert_eq!(story.rig.state().parked[0].1.cause, Cause::AttemptsExhausted);
    assert_eq!(story.event()["data"]["mayHaveTakenEffect"], false);
    assert_eq!(story.event()["data"]["attempts"], 13);
}

#[tokio::test]
async fn after_its_time_a_cancel_is_not_sent() {
    // At the very moment it still is.
    let story = Story::with(r#""notAfter":"2026-11-20T18:30:15+07:00""#);
    assert_eq!(story.attempt([canceled()]).await, Ok(Finished(Cause::Canceled)));

    let story = Story::with(r#""notAfter":"2026-11-20T18:30:14.999+07:00""#);
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::NotAfterPassed)));
    assert_eq!(story.journal(), "park not_after_passed, publish shop.unresolved, reply");
    assert_event!(story);
}

#[tokio::test]
async fn after_its_time_an_ambiguous_command_is_queried_all_the_same() {
    let passed = || Story::with(r#""notAfter":"2026-11-20T18:30:14+07:00""#).redelivered();
    for (answer, ending) in [
        (status("05"), Finished(Cause::Canceled)),
        (status("00"), Finished(Cause::Paid)),
        (status("01"), Finished(Cause::NotAfterPassed)),
        (status("02"), Scheduled(Later::Paying)),
        (timeout(), Scheduled(Later::QueryFailed)),
    ] {
        let story = passed();
        assert_eq!(story.attempt([answer]).await, Ok(ending));
        assert!(story.journal().starts_with("query, "));
        if ending == Finished(Cause::NotAfterPassed) {
            assert_eq!(story.event()["data"]["mayHaveTakenEffect"], true);
        }
    }
    // It passes between two attempts.
    let mut story = Story::with(r#""notAfter":"2026-11-20T18:30:17+07:00""#);
    story.attempt([timeout(), status("01")]).await.unwrap();
    story.rig.state().now += TimeDelta::seconds(1);
    story.comes_back();
    assert_eq!(story.attempt([status("01")]).await, Ok(Finished(Cause::NotAfterPassed)));
}

#[tokio::test]
async fn after_its_time_a_cancel_that_was_not_let_in_is_not_repeated() {
    for refusal in ["4017700", "4017701"] {
        let mut story = Story::with(r#""notAfter":"2026-11-20T18:30:15.1+07:00""#);
        assert_eq!(story.attempt([code(refusal)]).await, Ok(Scheduled(Later::Misconfigured)));
        assert_eq!(story.rig.state().sent.len(), 1);
        assert_eq!(story.rig.state().denials, 0, "it was not tried again");
        story.comes_back();
        assert_eq!(story.attempt([]).await, Ok(Finished(Cause::NotAfterPassed)));
    }
}

/// A command that the provider does not find to the end: its last attempt's cause.
async fn not_found_to_the_end(mut story: Story, first: [Answer; 2]) -> Cause {
    let mut answers = first.to_vec();
    loop {
        match story.attempt(std::mem::take(&mut answers)).await.unwrap() {
            Finished(cause) => return cause,
            ending => assert_eq!(ending, Scheduled(Later::NotFound)),
        }
        story.comes_back();
        answers = vec![status("07")];
    }
}

#[tokio::test]
async fn not_found_to_the_end_means_expired_only_when_nothing_else_can_be_meant() {
    let verify = || [code("4047701"), status("07")];
    let expires = r#""qrExpiresAt":"2026-11-20T18:35:00+07:00""#;
    let ends = |story, first| not_found_to_the_end(story, first);
    assert_eq!(ends(Story::with(expires), verify()).await, Cause::Expired);
    // No expiry is known.
    assert_eq!(ends(Story::new(), verify()).await, Cause::NotFound);
    // Something was ambiguous.
    assert_eq!(ends(Story::with(expires), [timeout(), status("07")]).await, Cause::NotFound);
    // This provider does not say 07 of what has expired.
    let aspi = Story::at("aspi", &with(&format!(r#"{expires},"merchantId":"M-1""#)));
    assert_eq!(ends(aspi, verify()).await, Cause::NotFound);
    // It expired just now.
    let mut story = Story::with(r#""qrExpiresAt":"2026-11-20T18:30:00+07:00""#);
    story.pipeline.policy.max_attempts = 3;
    assert_eq!(ends(story, verify()).await, Cause::NotFound);
    let mut story = Story::with(r#""qrExpiresAt":"2026-11-20T18:25:00+07:00""#);
    story.pipeline.policy.max_attempts = 3;
    assert_eq!(ends(story, verify()).await, Cause::Expired);
    // 4045101 says the same as 07.
    let mut story = Story::with(r#""qrExpiresAt":"2026-11-20T18:25:00+07:00""#);
    story.pipeline.policy.max_attempts = 1;
    assert_eq!(ends(story, [code("4047701"), code("4045101")]).await, Cause::Expired);
}

#[tokio::test]
async fn closed_because_it_expired() {
    let mut story = Story::with(r#""qrExpiresAt":"2026-11-20T18:25:00+07:00""#);
    story.pipeline.policy.max_attempts = 1;
    story.attempt([code("4047701"), status("07")]).await.unwrap();
    assert_eq!(story.journal(), "cancel, query, publish shop.closed, reply");
    assert_event!(story);
}

#[tokio::test]
async fn not_found_to_the_end_is_parked() {
    let mut story = Story::new();
    story.pipeline.policy.max_attempts = 1;
    story.attempt([code("4047701"), status("07")]).await.unwrap();
    assert_eq!(story.journal(), "cancel, query, park not_found, publish shop.unresolved, reply");
    assert_event!(story);
}

// Deliveries.

#[tokio::test]
async fn a_redelivered_command_is_queried_first_and_cancelled_in_the_same_attempt() {
    let story = Story::new().redelivered();
    assert_eq!(story.attempt([status("01"), canceled()]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.journal(), "query, cancel, publish shop.canceled, reply");

    let story = Story::new().redelivered();
    assert_eq!(story.attempt([status("05")]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.journal(), "query, publish shop.canceled, reply");
    assert_event!(story);

    let story = Story::new().redelivered();
    assert_eq!(story.attempt([timeout()]).await, Ok(Scheduled(Later::QueryFailed)));
    assert!(story.waiting().0.ambiguous);
}

#[tokio::test]
async fn a_replayed_command_is_ambiguous_from_the_start_and_its_event_has_an_id_of_its_own() {
    let first = Story::new();
    first.attempt([canceled()]).await.unwrap();
    let mut story = Story::new();
    story.message.origin = Origin::Due;
    let replayed = Progress { replay: 1, ..Progress::new(start()) };
    story.message.carried = Carried::Progress(Box::new(replayed));
    assert_eq!(story.attempt([status("05")]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.event()["data"]["replay"], 1);
    assert_ne!(story.event()["id"], first.event()["id"]);
}

#[tokio::test]
async fn the_fiftieth_delivery_is_the_last() {
    let mut story = Story::new().redelivered();
    story.message.delivery_count = 49;
    assert_eq!(story.attempt([status("05")]).await, Ok(Finished(Cause::Canceled)));

    let mut story = Story::new().redelivered();
    story.message.delivery_count = 50;
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::WorkerCrashed)));
    assert_eq!(story.journal(), "park worker_crashed, publish shop.unresolved, reply");
    assert_event!(story);
}

#[tokio::test]
async fn an_invalid_command_is_parked_then_told_and_never_sent() {
    let story = Story::with(r#""refrence":"R-2","notAfter":"soon""#);
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::UnknownField)));
    assert_eq!(story.journal(), "park unknown_field, publish shop.invalid, reply");
    assert_event!(story);
}

#[tokio::test]
async fn what_was_delivered_before_may_have_been_sent_by_a_worker_with_other_settings() {
    for (field, cause) in [
        (r#""refrence":"R-2""#, "unknown_field"),
        (r#""originalExternalId":"7""#, "unknown_field"),
        (r#""notAfter":"soon""#, "field_value"),
    ] {
        let story = Story::with(field).redelivered();
        assert_eq!(story.attempt([]).await, Ok(Finished(Cause::NoLongerValid)), "{field}");
        assert_eq!(story.journal(), "park no_longer_valid, publish shop.unresolved, reply");
        let data = &story.event()["data"];
        assert_eq!((&data["mayHaveTakenEffect"], &data["violations"][0]["cause"]), (&true.into(), &cause.into()));
        assert!(story.rig.state().parked[0].1.ambiguous);
        // What is new was not sent.
        let story = Story::with(field);
        story.attempt([]).await.unwrap();
        assert_eq!(story.event()["data"]["outcome"], "invalid");
    }
    let missing = Story::at("ifortepay", r#"{"jobId":"job-1","reason":"x"}"#).redelivered();
    assert_eq!(missing.attempt([]).await, Ok(Finished(Cause::NoLongerValid)));
    // No settings make a command of these.
    let twice = with(r#""reason":"y""#);
    for (bytes, cause) in [("<xml/>", Cause::NotJson), (twice.as_str(), Cause::DuplicateKey)] {
        let story = Story::at("ifortepay", bytes).redelivered();
        assert_eq!(story.attempt([]).await, Ok(Finished(cause)), "{bytes}");
        assert_eq!((story.event()["data"]["outcome"].clone(), story.rig.state().parked.len()), ("invalid".into(), 1));
    }
}

/// Its worker died before it could record the call, and it is replayed while the settings still refuse it.
#[tokio::test]
async fn a_replay_of_what_may_have_been_sent_is_not_said_to_be_invalid() {
    let field = r#""refrence":"R-2""#;
    for (redelivered, cause) in [(true, Cause::NoLongerValid), (false, Cause::UnknownField)] {
        let mut parked = Story::with(field);
        parked.message.redelivered = redelivered;
        assert_eq!(parked.attempt([]).await, Ok(Finished(cause)));
        let (progress, finish) = parked.rig.state().parked[0].clone();
        let copy = Message {
            carried: Carried::Progress(Box::new(progress)),
            parked: Some(finish),
            redelivered: false,
            ..parked.message.clone()
        };
        let mut story = Story::with(field);
        // Twice, as a replay forgets nothing.
        let once = replayed(&copy, None).unwrap();
        let again = replayed(&Message { carried: Carried::Progress(Box::new(once.clone())), ..copy }, None).unwrap();
        for progress in [once, again] {
            story.message.carried = Carried::Progress(Box::new(progress));
            assert_eq!(story.attempt([]).await, Ok(Finished(cause)));
        }
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_known_by_its_digest() {
    let story = Story::at("ifortepay", "<xml/>");
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::NotJson)));
    assert_eq!(story.journal(), "park not_json, publish shop.invalid, reply");
    let other = Story::at("ifortepay", "<xml></xml>");
    other.attempt([]).await.unwrap();
    assert_ne!(other.event()["id"], story.event()["id"]);
    assert_event!(story);
}

#[tokio::test]
async fn a_message_of_another_version_waits_as_it_is() {
    let mut story = Story::new().redelivered();
    story.message.carried = Carried::Foreign { version: 9, headers: Vec::new() };
    story.message.delivery_count = 50;
    assert_eq!(story.attempt([]).await, Ok(Postponed));
    assert_eq!(story.journal(), "postpone 30s");
    story.rig.state().nacks = vec![Nack::Postpone];
    assert!(story.attempt([]).await.is_err());
}

#[tokio::test]
async fn a_message_whose_state_is_damaged_begins_anew_with_a_query() {
    let mut story = Story::new();
    story.message.origin = Origin::Due;
    story.message.carried = Carried::Damaged;
    assert_eq!(story.attempt([status("02")]).await, Ok(Scheduled(Later::Paying)));
    assert!(story.waiting().0.ambiguous);

    // What it was sent for, if it was, nobody knows: `invalid` would say that it was not.
    let mut story = Story::with(r#""surprise":1"#);
    story.message.origin = Origin::Due;
    story.message.carried = Carried::Damaged;
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::NoLongerValid)));
    assert_eq!(story.event()["data"]["mayHaveTakenEffect"], true);
}

#[tokio::test]
async fn a_stop_in_the_middle_leaves_the_command_ambiguous_and_uses_no_attempt() {
    let interrupted = || Answer::error(SendError::Interrupted);
    let stopping = || Answer::error(SendError::Stopping);
    for (answers, journal, ambiguous) in [
        // The cancel was under way: no query follows.
        (vec![interrupted()], "cancel, retry", true),
        // The query was.
        (vec![code("4047700"), interrupted()], "cancel, query, retry", false),
        (vec![timeout(), interrupted()], "cancel, query, retry", true),
        (vec![timeout(), stopping()], "cancel, query, retry", true),
        (vec![code("4017700"), interrupted()], "cancel, cancel, retry", true),
        (vec![code("4017701"), stopping()], "cancel, forget token 1, cancel, retry", false),
        // Nothing was sent.
        (vec![stopping()], "cancel, retry", false),
    ] {
        let mut story = Story::new();
        assert_eq!(story.attempt(answers).await, Ok(Scheduled(Later::Interrupted)), "{journal}");
        assert_eq!(story.journal(), journal);
        let (progress, _) = story.waiting();
        assert_eq!((progress.ambiguous, progress.attempts, progress.doubts), (ambiguous, 0, 0), "{journal}");
        assert_eq!((story.delay(), progress.waited), (1, Duration::ZERO));
        story.comes_back();
        if ambiguous {
            story.attempt([status("05")]).await.unwrap();
        }
    }
    // Even at the last attempt.
    let mut story = Story::new();
    story.pipeline.policy.max_attempts = 1;
    assert_eq!(story.attempt([interrupted()]).await, Ok(Scheduled(Later::Interrupted)));
}

// What the broker does not confirm.

/// The ids and bodies of all events that were handed to the broker.
fn told(story: &Story) -> Vec<(String, Vec<u8>)> {
    story.rig.state().events.iter().map(|event| (event.id.to_string(), event.body.clone())).collect()
}

#[tokio::test]
async fn an_event_that_is_not_confirmed_travels_in_retry_and_is_told_again_unchanged() {
    let mut story = Story::new();
    story.rig.state().nacks = vec![Nack::Publish];
    assert_eq!(story.attempt([canceled()]).await, Ok(Scheduled(Later::Unpublished)));
    assert_eq!(story.journal(), "cancel, publish shop.canceled: nack, retry");
    let (progress, _) = story.waiting();
    assert_eq!(progress.finish.as_ref().map(|finish| finish.cause), Some(Cause::Canceled));
    assert_eq!(story.delay(), 1);
    for _ in 0..30 {
        story.comes_back();
        assert_eq!(story.attempt([]).await, Ok(Scheduled(Later::Unpublished)));
        assert_eq!(story.journal(), "publish shop.canceled: nack, retry");
    }
    story.comes_back();
    story.rig.state().nacks.clear();
    // Not even a redelivery, or its time that passed, makes it ask again.
    (story.message.redelivered, story.message.delivery_count) = (true, 50);
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::Canceled)));
    assert_eq!(story.journal(), "publish shop.canceled, reply");
    let told = told(&story);
    assert_eq!(told.len(), 32);
    assert!(told.iter().all(|event| *event == told[0]));
}

#[tokio::test]
async fn what_is_parked_already_is_not_parked_again() {
    let mut story = Story::with(r#""typo":1"#);
    story.rig.state().nacks = vec![Nack::Publish];
    assert_eq!(story.attempt([]).await, Ok(Scheduled(Later::Unpublished)));
    assert_eq!(story.journal(), "park unknown_field, publish shop.invalid: nack, retry");
    story.comes_back();
    story.rig.state().nacks.clear();
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::UnknownField)));
    assert_eq!(story.journal(), "publish shop.invalid, reply");
    let told = told(&story);
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn what_cannot_be_parked_is_not_told_yet() {
    let mut story = Story::at("bnc", COMMAND);
    story.rig.state().nacks = vec![Nack::Park];
    assert_eq!(story.attempt([code("4047700")]).await, Ok(Scheduled(Later::Unpublished)));
    assert_eq!(story.journal(), "cancel, park no_query: nack, retry");
    story.comes_back();
    story.rig.state().nacks.clear();
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::NoQuery)));
    assert_eq!(story.journal(), "park no_query, publish shop.unresolved, reply");
}

#[tokio::test]
async fn while_the_broker_confirms_nothing_nothing_may_be_acknowledged() {
    let all = vec![Nack::Retry, Nack::Postpone, Nack::Park, Nack::Publish];
    let not_confirmed = || Err(NotConfirmed("nack".into()));
    let story = Story::new();
    story.rig.state().nacks = all.clone();
    assert_eq!(story.attempt([canceled()]).await, not_confirmed());
    assert_eq!(story.journal(), "cancel, publish shop.canceled: nack, retry: nack");
    assert_eq!(story.attempt([not_sent()]).await, not_confirmed());
    assert_eq!(story.journal(), "cancel, retry: nack");
    let story = Story::with(r#""typo":1"#);
    story.rig.state().nacks = all.clone();
    assert_eq!(story.attempt([]).await, not_confirmed());
    assert_eq!(story.journal(), "park unknown_field: nack, retry: nack");
    assert_eq!(story.strays(&[]).handle(&story.message).await, not_confirmed());
    assert_eq!(story.strays(&["shop"]).handle(&story.message).await, not_confirmed());
    assert!(story.rig.state().waiting.is_none());
}

// Strays.

#[tokio::test]
async fn a_stray_for_nobody_is_parked_then_told() {
    let story = Story::new();
    let stray = message("no-such-account", COMMAND, start());
    assert_eq!(story.strays(&["shop"]).handle(&stray).await, Ok(Finished(Cause::UnknownAccount)));
    assert_eq!(story.journal(), "park unknown_account, publish no-such-account.invalid, reply");
    assert_event!(story);

    // A routing key that is no account's name does not reach the event's routing key.
    let stray = message("#.*\u{1}", COMMAND, start());
    story.strays(&["shop"]).handle(&stray).await.unwrap();
    assert_eq!(story.journal(), "park unknown_account, publish unknown.invalid, reply");
}

#[tokio::test]
async fn a_stray_for_nobody_that_could_not_be_told_is_told_again_unchanged() {
    let mut story = Story::new();
    story.message.routing_key = "no-such-account".into();
    let strays = story.strays(&["shop"]);
    for _ in 0..2 {
        story.rig.state().nacks = vec![Nack::Publish];
        assert_eq!(strays.handle(&story.message).await, Ok(Scheduled(Later::Unpublished)));
        story.comes_back();
    }
    story.rig.state().nacks.clear();
    assert_eq!(strays.handle(&story.message).await, Ok(Finished(Cause::UnknownAccount)));
    let told = told(&story);
    assert_eq!(told.len(), 3);
    for (id, body) in &told {
        assert_eq!((id, String::from_utf8_lossy(body)), (&told[0].0, String::from_utf8_lossy(&told[0].1)));
    }
    assert_eq!(story.rig.state().parked.len(), 1);
    assert_eq!(story.event()["data"]["violations"][0]["cause"], "unknown_account");
}

#[tokio::test]
async fn a_stray_that_expired_or_was_dead_lettered_may_have_taken_effect() {
    for (why, cause) in [(DeadLetter::Expired, Cause::ExpiredInQueue), (DeadLetter::Other, Cause::WorkerCrashed)] {
        let mut story = Story::new();
        story.message.origin = Origin::DeadLettered(why);
        for accounts in [&["shop"][..], &[]] {
            assert_eq!(story.strays(accounts).handle(&story.message).await, Ok(Finished(cause)));
            assert_eq!(story.journal(), format!("park {}, publish shop.unresolved, reply", cause.name()));
            assert_eq!(story.event()["data"]["mayHaveTakenEffect"], true);
        }
        if cause == Cause::ExpiredInQueue {
            assert_event!(story);
        }
    }
}

#[tokio::test]
async fn a_stray_that_comes_back_for_a_removed_account_is_told_with_its_history() {
    let mut story = Story::new();
    story.attempt([timeout(), status("01")]).await.unwrap();
    story.comes_back();
    story.journal();
    assert_eq!(story.strays(&["other"]).handle(&story.message).await, Ok(Finished(Cause::AccountRemoved)));
    assert_eq!(story.journal(), "park account_removed, publish shop.unresolved, reply");
    assert_event!(story);

    // One that nothing was sent for yet cannot have taken effect; one whose state is damaged can.
    for (carried, may_have) in [(Carried::Progress(Box::new(Progress::new(start()))), false), (Carried::Damaged, true)]
    {
        story.message.carried = carried;
        story.strays(&["other"]).handle(&story.message).await.unwrap();
        assert_eq!(story.event()["data"]["mayHaveTakenEffect"], may_have);
    }
}

#[tokio::test]
async fn a_stray_for_a_known_account_is_sent_to_it() {
    let mut story = Story::new();
    assert_eq!(story.strays(&["shop"]).handle(&story.message).await, Ok(Rerouted));
    assert_eq!(story.journal(), "retry");
    // Should its binding be gone, it waits longer each time.
    assert_eq!(story.waiting().0, Progress { doubts: 1, ..Progress::new(start()) });
    // Nothing is forgotten on the way.
    story.attempt([timeout(), status("01")]).await.unwrap();
    let (carried, _) = story.waiting();
    story.comes_back();
    story.strays(&["shop"]).handle(&story.message).await.unwrap();
    assert_eq!(story.waiting().0, Progress { doubts: 1, ..carried });
    story.message.carried = Carried::Damaged;
    story.strays(&["shop"]).handle(&story.message).await.unwrap();
    assert!(story.waiting().0.ambiguous);
    // Whoever had it before may have sent a copy of it on.
    let story = Story::new().redelivered();
    assert_eq!(story.strays(&["shop"]).handle(&story.message).await, Ok(Rerouted));
    assert!(story.waiting().0.ambiguous);
    // What was decided its account tells, in full.
    let mut story = Story::with(r#""surprise":1"#);
    story.rig.state().nacks = vec![Nack::Publish];
    story.attempt([]).await.unwrap();
    story.rig.state().nacks.clear();
    story.comes_back();
    story.journal();
    assert_eq!(story.strays(&["shop"]).handle(&story.message).await, Ok(Rerouted));
    story.comes_back();
    assert_eq!(story.attempt([]).await, Ok(Finished(Cause::UnknownField)));
    assert_eq!(story.journal(), "retry, publish shop.invalid, reply");
    assert_eq!(told(&story)[0], told(&story)[1]);
}

#[tokio::test]
async fn what_missed_its_queue_has_the_objects_looked_at_once_a_minute() {
    for origin in [Origin::Published, Origin::Due, Origin::PastItsQueue] {
        let mut story = Story::new();
        story.message.origin = origin;
        let strays = story.strays(&["shop"]);
        assert_eq!(strays.handle(&story.message).await, Ok(Rerouted), "they have just been looked at");
        story.rig.state().now += TimeDelta::seconds(60);
        assert!(strays.handle(&story.message).await.is_err(), "{origin:?}");
        assert_eq!(strays.handle(&story.message).await, Ok(Rerouted));
        story.rig.state().now += TimeDelta::seconds(60);
        let story = story.redelivered();
        assert_eq!(strays.handle(&story.message).await, Ok(Rerouted), "it comes again for that");
        assert_eq!(story.journal(), "retry, retry, retry");
    }
    // Nothing is missing where nobody has the account.
    let mut story = Story::new();
    story.message.origin = Origin::Due;
    story.message.carried = Carried::Progress(Box::new(Progress::new(start())));
    let strays = story.strays(&["other"]);
    story.rig.state().now += TimeDelta::seconds(60);
    assert_eq!(strays.handle(&story.message).await, Ok(Finished(Cause::AccountRemoved)));
}

#[tokio::test]
async fn a_parked_copy_that_found_no_queue_is_parked_again_and_nothing_else() {
    let mut story = Story::at("bnc", COMMAND);
    story.attempt([code("4047700")]).await.unwrap();
    story.journal();
    let (progress, finish) = story.rig.state().parked.pop().unwrap();
    story.message.origin = Origin::PastItsQueue;
    story.message.carried = Carried::Progress(Box::new(progress.clone()));
    story.message.parked = Some(finish.clone());
    for accounts in [&["shop"][..], &[]] {
        assert_eq!(story.strays(accounts).handle(&story.message).await, Ok(Rerouted));
        assert_eq!(story.journal(), "park no_query");
        assert_eq!(story.rig.state().parked.pop().unwrap(), (progress.clone(), finish.clone()));
    }
}

#[tokio::test]
async fn a_stray_of_another_version_waits_as_it_is() {
    let mut story = Story::new();
    story.message.origin = Origin::Due;
    story.message.carried = Carried::Foreign { version: 9, headers: Vec::new() };
    for accounts in [&["shop"][..], &[]] {
        assert_eq!(story.strays(accounts).handle(&story.message).await, Ok(Postponed));
        assert_eq!(story.journal(), "postpone 30s");
    }
}

// X-EXTERNAL-ID.

#[tokio::test]
async fn a_kept_external_id_is_given_up_after_a_conflict() {
    let mut story = Story::new();
    let mut partner = doubles::partner("ifortepay");
    partner.profile.external_id.repeat = qris_cancel_worker::snap::profile::Repeat::Same;
    story.pipeline.partner = std::sync::Arc::new(partner);
    story.attempt([code("5007700"), status("01")]).await.unwrap();
    story.comes_back();
    story.attempt([status("01"), code("4097700"), status("01")]).await.unwrap();
    story.comes_back();
    story.attempt([status("01"), canceled()]).await.unwrap();
    let state = story.rig.state();
    let ids: Vec<_> =
        state.sent.iter().filter(|(operation, _, _)| *operation == Operation::Cancel).map(|(_, _, id)| id).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[1], ids[2]);
}
