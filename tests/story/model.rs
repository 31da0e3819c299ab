//! Any provider against a tiny model of one transaction: whatever the provider, the broker and the customer do, a command
//! ends, and what is told of it does not contradict the transaction.

use crate::doubles::{Answer, COMMAND, Nack, Story, canceled, code, not_sent, start, status, timeout, with};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use proptest::prelude::*;
use qris_cancel_worker::{
    outcome::{Cause, Outcome},
    pipeline::Ending,
    snap::{Operation, SendError},
};
use std::sync::{Arc, Mutex};

/// The transaction as it truly stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Qr {
    Open,
    Paying,
    Paid,
    Canceled,
    Failed,
    Refunded,
    Expired,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// It is done, and the answer is true.
    Honest,
    /// It never arrives, and nobody says so.
    Lost,
    /// It is done, and the answer is lost.
    ReplyLost,
    /// It is done, and the answer is nonsense.
    Nonsense,
    /// It is done, and the answer is an error.
    DoneWithError,
    /// It is not done, and the answer is an error.
    Error,
    /// It arrives and is done later, if at all; the answer is lost.
    Late,
    /// It is accepted and done later, if at all.
    Pending,
    NotSent,
    Busy,
    Refused,
    Malformed,
    /// Not done, for a reason that a query has to tell.
    Verify,
    /// A race with the transaction's creation.
    NotFoundYet,
    NotLetIn,
    Token,
    Misconfigured,
    Interrupted,
    Stopping,
    CutOff,
}

/// What happens to the transaction before a call, if it can.
#[derive(Debug, Clone, Copy)]
enum Event {
    Nothing,
    Scanned,
    Paid,
    Refunded,
    Failed,
    CanceledBySomeoneElse,
    /// A late cancel of ours is done.
    Done,
}

#[derive(Debug)]
struct Model {
    qr: Qr,
    /// A cancel of ours has arrived that may still be done.
    under_way: bool,
    /// A cancel of ours was done.
    ours: bool,
    expires: DateTime<Utc>,
    not_after: Option<DateTime<Utc>>,
}

impl Model {
    fn happens(&mut self, event: Event, now: DateTime<Utc>) {
        self.qr = match (event, self.qr) {
            (Event::Scanned, Qr::Open) => Qr::Paying,
            (Event::Paid, Qr::Open | Qr::Paying) => Qr::Paid,
            (Event::Refunded, Qr::Paid) => Qr::Refunded,
            (Event::Failed, Qr::Open | Qr::Paying) => Qr::Failed,
            (Event::CanceledBySomeoneElse, Qr::Open) => Qr::Canceled,
            (Event::Done, Qr::Open) if self.under_way => {
                self.ours = true;
                Qr::Canceled
            }
            (_, Qr::Open | Qr::Paying) if now >= self.expires => Qr::Expired,
            (_, unchanged) => unchanged,
        };
    }

    fn cancel(&mut self) -> Answer {
        match self.qr {
            Qr::Open => {
                (self.qr, self.ours) = (Qr::Canceled, true);
                canceled()
            }
            Qr::Paid => code("4047714"),
            Qr::Expired => code("4037700"),
            Qr::Canceled => code("4097701"),
            Qr::Paying | Qr::Failed | Qr::Refunded => code("4047700"),
        }
    }

    fn query(&self) -> Answer {
        status(match self.qr {
            Qr::Open => "01",
            Qr::Paying => "02",
            Qr::Paid => "00",
            Qr::Canceled => "05",
            Qr::Failed => "06",
            Qr::Refunded => "04",
            Qr::Expired => "07",
        })
    }

    fn done(&mut self, operation: Operation) -> Answer {
        if operation == Operation::Cancel { self.cancel() } else { self.query() }
    }

    fn answer(&mut self, act: Act, operation: Operation, now: DateTime<Utc>) -> Answer {
        let cancels = operation == Operation::Cancel;
        assert!(!cancels || self.not_after.is_none_or(|limit| now <= limit), "a cancel was sent too late");
        let coded = |case: &str| code(&case.replace("..", operation.service()));
        match act {
            Act::Honest => self.done(operation),
            Act::ReplyLost => {
                self.done(operation);
                timeout()
            }
            Act::Nonsense => {
                self.done(operation);
                Answer::body(200, "<html>")
            }
            Act::DoneWithError => {
                self.done(operation);
                coded("500..01")
            }
            Act::Late | Act::Pending if cancels => {
                self.under_way = true;
                if act == Act::Late { timeout() } else { coded("202..00") }
            }
            Act::Lost | Act::Late | Act::Pending => timeout(),
            Act::Error => coded("500..00"),
            Act::NotSent => not_sent(),
            Act::Busy => coded("429..00"),
            Act::Refused => coded("403..05"),
            Act::Malformed => coded("400..01"),
            Act::Verify if cancels => coded("404..10"),
            Act::NotFoundYet if matches!(self.qr, Qr::Open) => coded("404..01"),
            Act::Verify | Act::NotFoundYet => self.done(operation),
            Act::NotLetIn => coded("401..00"),
            Act::Token => coded("401..01"),
            Act::Misconfigured => coded("404..16"),
            Act::Interrupted => Answer::error(SendError::Interrupted),
            Act::Stopping => Answer::error(SendError::Stopping),
            Act::CutOff => coded("403..06"),
        }
    }
}

fn any_act() -> impl Strategy<Value = Act> {
    use Act::*;
    prop::sample::select(vec![
        Honest,
        Lost,
        ReplyLost,
        Nonsense,
        DoneWithError,
        Error,
        Late,
        Pending,
        NotSent,
        Busy,
        Refused,
        Malformed,
        Verify,
        NotFoundYet,
        NotLetIn,
        Token,
        Misconfigured,
        Interrupted,
        Stopping,
        CutOff,
    ])
}

fn any_event() -> impl Strategy<Value = Event> {
    use Event::*;
    let change = prop::sample::select(vec![Scanned, Paid, Refunded, Failed, CanceledBySomeoneElse, Done]);
    prop_oneof![3 => Just(Nothing), 1 => change]
}

#[derive(Debug, Clone)]
struct Case {
    profile: &'static str,
    confirm_cancel: bool,
    redelivered: bool,
    expires_in: i64,
    says_expiry: bool,
    not_after: Option<i64>,
    /// One for each call; then the last word, for ever.
    acts: Vec<(Act, Event)>,
    for_ever: Act,
    /// What the broker does not confirm at the first deliveries.
    nacks: Vec<Vec<Nack>>,
}

fn any_case() -> impl Strategy<Value = Case> {
    let nack = prop::sample::select(vec![Nack::Retry, Nack::Park, Nack::Publish]);
    let for_ever = prop::sample::select(vec![
        Act::Honest,
        Act::Lost,
        Act::Error,
        Act::Busy,
        Act::ReplyLost,
        Act::Pending,
        Act::NotSent,
        Act::NotFoundYet,
        Act::Verify,
        Act::CutOff,
    ]);
    (
        (prop::sample::select(vec!["ifortepay", "ifortepay", "bnc"]), any::<bool>(), any::<bool>()),
        (-600i64..7200, any::<bool>(), prop::option::weighted(0.3, 0i64..600)),
        prop::collection::vec((any_act(), any_event()), 0..14),
        for_ever,
        prop::collection::vec(prop::collection::vec(nack, 0..3), 0..6),
    )
        .prop_map(
            |((profile, confirm_cancel, redelivered), (expires_in, says_expiry, not_after), acts, for_ever, nacks)| {
                Case { profile, confirm_cancel, redelivered, expires_in, says_expiry, not_after, acts, for_ever, nacks }
            },
        )
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn run(case: Case) -> Result<(), TestCaseError> {
    let expires = start() + TimeDelta::seconds(case.expires_in);
    let not_after = case.not_after.map(|seconds| start() + TimeDelta::seconds(seconds));
    let mut more: Vec<String> = Vec::new();
    more.extend(case.says_expiry.then(|| format!(r#""qrExpiresAt":"{}""#, time(expires))));
    more.extend(not_after.map(|limit| format!(r#""notAfter":"{}""#, time(limit))));
    let command = if more.is_empty() { COMMAND.to_owned() } else { with(&more.join(",")) };
    let mut story = Story::at(case.profile, &command);
    story.pipeline.confirm_cancel = case.confirm_cancel;
    story.message.redelivered = case.redelivered;

    let model = Arc::new(Mutex::new(Model { qr: Qr::Open, under_way: false, ours: false, expires, not_after }));
    let (mut acts, theirs, for_ever) = (case.acts.clone().into_iter(), model.clone(), case.for_ever);
    story.rig.provider(move |operation, now| {
        let (act, event) = acts.next().unwrap_or((for_ever, Event::Nothing));
        let mut model = theirs.lock().unwrap();
        model.happens(event, now);
        model.answer(act, operation, now)
    });

    let mut nacks = case.nacks.clone().into_iter();
    for delivery in 0.. {
        prop_assert!(delivery < 150, "no end");
        story.rig.state().nacks = nacks.next().unwrap_or_default();
        let before = story.rig.state().events.len();
        match story.pipeline.handle(&story.message).await {
            Ok(Ending::Scheduled(_)) => story.comes_back(),
            Ok(Ending::Postponed | Ending::Rerouted) => prop_assert!(false, "it is of this version, and no stray"),
            // Not acknowledged: the broker delivers it again, as it was.
            Err(_) => {
                (story.message.redelivered, story.message.delivery_count) = (true, story.message.delivery_count + 1)
            }
            Ok(Ending::Finished(cause)) => {
                prop_assert_eq!(story.rig.state().events.len(), before + 1);
                return check(&story, cause, &model.lock().unwrap());
            }
        }
    }
    unreachable!("the loop has no end")
}

fn check(story: &Story, cause: Cause, model: &Model) -> Result<(), TestCaseError> {
    let event = story.event();
    let data = &event["data"];
    let told = format!("{cause:?} was told of {model:?}: {event:#}");
    prop_assert!(data["attempts"].as_u64().unwrap() <= 20, "{}", told);
    let outcome = cause.outcome();
    prop_assert_eq!(data["outcome"].as_str(), Some(outcome.name()));
    match cause {
        Cause::Canceled => prop_assert!(model.qr == Qr::Canceled, "{}", told),
        Cause::AlreadyCanceled => prop_assert!(model.qr == Qr::Canceled && !model.ours, "{}", told),
        Cause::Paid => prop_assert!(model.qr == Qr::Paid, "{}", told),
        Cause::Failed => prop_assert!(model.qr == Qr::Failed, "{}", told),
        Cause::Refunded => prop_assert!(model.qr == Qr::Refunded, "{}", told),
        Cause::Expired => prop_assert!(model.qr == Qr::Expired && !model.under_way && !model.ours, "{}", told),
        _ => prop_assert!([Outcome::Refused, Outcome::Unresolved].contains(&outcome), "{}", told),
    }
    let parked = story.rig.state().parked.len();
    prop_assert!(parked > 0 || !outcome.is_parked(), "{}", told);
    if let Some(may_have) = data["mayHaveTakenEffect"].as_bool() {
        prop_assert!(may_have || !model.ours && !model.under_way, "{}", told);
        // A no is told of an ambiguous command only when the query before it said that the QR is open. Where there is no query,
        // it is told of one that came out of a retry, which may have a twin.
        let refused = outcome == Outcome::Refused && data["responseCode"] == "4037705";
        let came_back = data["provider"] == "bnc" && data["callsTotal"].as_u64() > Some(1);
        prop_assert!(!(refused && may_have) || model.qr == Qr::Open || came_back, "{}", told);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_command_ends_and_no_settled_outcome_contradicts_the_transaction(case in any_case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(case))?;
    }
}
