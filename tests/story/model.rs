//! Any provider against a tiny model of one transaction: whatever the provider, the broker and the customer do, a command
//! ends, and what is told of it does not contradict the transaction, or say a no that the provider did not say. The command may have
//! been published twice; other commands of the account are let in or not.

use crate::doubles::{Answer, COMMAND, Nack, Story, canceled, code, not_sent, start, status, timeout, with};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use proptest::prelude::*;
use qris_cancel_worker::{
    outcome::{Cause, Outcome},
    pipeline::Ending,
    retry::Later,
    snap::{Operation, SendError},
};
use std::{
    iter,
    sync::{Arc, Mutex, atomic::Ordering},
};

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
    /// We may query, and not cancel.
    NoRight,
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

#[derive(Debug, Clone)]
struct Model {
    qr: Qr,
    copies: [Copy; 2],
    expires: DateTime<Utc>,
    not_after: Option<DateTime<Utc>>,
}

/// What the provider knows of one copy of the command.
#[derive(Debug, Clone, Default)]
struct Copy {
    /// A cancel of it has arrived that may still be done.
    under_way: bool,
    /// A cancel of it was done.
    ours: bool,
    /// What became of its last cancel of this attempt.
    cancel: Option<Act>,
    /// Attempts in a row that ended with a denial of the cancel, each after another command had passed since the one before.
    denied: u32,
}

impl Copy {
    /// An attempt has ended.
    fn has_ended(&mut self, others_passed: bool) {
        self.denied = match self.cancel {
            Some(Act::NotLetIn | Act::Misconfigured | Act::NoRight) => self.denied + u32::from(others_passed),
            _ => 0,
        };
    }
}

impl Model {
    fn happens(&mut self, event: Event, now: DateTime<Utc>) {
        self.qr = match (event, self.qr) {
            (Event::Scanned, Qr::Open) => Qr::Paying,
            (Event::Paid, Qr::Open | Qr::Paying) => Qr::Paid,
            (Event::Refunded, Qr::Paid) => Qr::Refunded,
            (Event::Failed, Qr::Open | Qr::Paying) => Qr::Failed,
            (Event::CanceledBySomeoneElse, Qr::Open) => Qr::Canceled,
            (Event::Done, Qr::Open) if self.copies.iter().any(|copy| copy.under_way) => {
                self.copies.iter_mut().for_each(|copy| copy.ours |= copy.under_way);
                Qr::Canceled
            }
            (_, Qr::Open | Qr::Paying) if now >= self.expires => Qr::Expired,
            (_, unchanged) => unchanged,
        };
    }

    fn cancel(&mut self, copy: usize) -> Answer {
        match self.qr {
            Qr::Open => {
                (self.qr, self.copies[copy].ours) = (Qr::Canceled, true);
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

    fn done(&mut self, copy: usize, operation: Operation) -> Answer {
        if operation == Operation::Cancel { self.cancel(copy) } else { self.query() }
    }

    fn answer(&mut self, copy: usize, act: Act, operation: Operation, now: DateTime<Utc>) -> Answer {
        let cancels = operation == Operation::Cancel;
        if cancels {
            self.copies[copy].cancel = Some(act);
        }
        assert!(!cancels || self.not_after.is_none_or(|limit| now <= limit), "a cancel was sent too late");
        let coded = |case: &str| code(&case.replace("..", operation.service()));
        match act {
            Act::Honest => self.done(copy, operation),
            Act::ReplyLost => {
                self.done(copy, operation);
                timeout()
            }
            Act::Nonsense => {
                self.done(copy, operation);
                Answer::body(200, "<html>")
            }
            Act::DoneWithError => {
                self.done(copy, operation);
                coded("500..01")
            }
            Act::Late | Act::Pending if cancels => {
                self.copies[copy].under_way = true;
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
            Act::Verify | Act::NotFoundYet => self.done(copy, operation),
            Act::NotLetIn => coded("401..00"),
            Act::Token => coded("401..01"),
            Act::NoRight if !cancels => self.query(),
            Act::Misconfigured | Act::NoRight => coded("404..16"),
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
        NoRight,
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
    for_ever: Vec<Act>,
    max_attempts: u32,
    /// What the broker does not confirm at the first deliveries.
    nacks: Vec<Vec<Nack>>,
    /// Before each delivery, again and again: whether another command of the account is let in.
    others_pass: Vec<bool>,
    /// The command was published twice: which copy is delivered next, again and again.
    turns: Option<Vec<usize>>,
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
        Act::Refused,
        Act::NotLetIn,
        Act::Token,
        Act::Misconfigured,
        // More often, as a false refusal takes several of them, and few enough.
        Act::NoRight,
        Act::NoRight,
        Act::NoRight,
        Act::NoRight,
        Act::NoRight,
    ]);
    let broker = (
        prop::collection::vec(prop::collection::vec(nack, 0..3), 0..6),
        prop::collection::vec(any::<bool>(), 1..4),
        prop::option::weighted(0.3, prop::collection::vec(0usize..2, 1..6)),
    );
    (
        (prop::sample::select(vec!["ifortepay", "ifortepay", "bnc"]), any::<bool>(), any::<bool>()),
        (-600i64..7200, any::<bool>(), prop::option::weighted(0.3, 0i64..600)),
        prop::collection::vec((any_act(), any_event()), 0..14),
        (prop::collection::vec(for_ever, 1..4), prop::sample::select(vec![1u32, 4, 6, 20])),
        broker,
    )
        .prop_map(|(account, times, acts, (for_ever, max_attempts), (nacks, others_pass, turns))| {
            let ((profile, confirm_cancel, redelivered), (expires_in, says_expiry, not_after)) = (account, times);
            Case {
                profile,
                confirm_cancel,
                redelivered,
                expires_in,
                says_expiry,
                not_after,
                acts,
                for_ever,
                max_attempts,
                nacks,
                others_pass,
                turns,
            }
        })
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
    let copies = [Copy::default(), Copy::default()];
    let model = Arc::new(Mutex::new(Model { qr: Qr::Open, copies, expires, not_after }));
    let for_ever = case.for_ever.clone().into_iter().cycle().map(|act| (act, Event::Nothing));
    let acts = Arc::new(Mutex::new(case.acts.clone().into_iter().chain(for_ever)));
    let mut stories = [Story::at(case.profile, &command), Story::at(case.profile, &command)];
    for (copy, story) in stories.iter_mut().enumerate() {
        story.pipeline.confirm_cancel = case.confirm_cancel;
        story.pipeline.policy.max_attempts = case.max_attempts;
        let (acts, model) = (acts.clone(), model.clone());
        story.rig.provider(move |operation, now| {
            let (act, event) = acts.lock().unwrap().next().expect("they go on for ever");
            let mut model = model.lock().unwrap();
            model.happens(event, now);
            model.answer(copy, act, operation, now)
        });
    }
    stories[1].pipeline.accepted_at = stories[0].pipeline.accepted_at.clone();
    stories[0].message.redelivered = case.redelivered;

    let turns: Vec<usize> = case.turns.clone().unwrap_or(vec![0]);
    let mut turns = turns.into_iter().chain(iter::repeat_n(0, 100)).chain(iter::repeat_n(1, 100)).cycle();
    let mut ended = [false, case.turns.is_none()];
    // How all stood when it was decided how a copy ends, where its event was not confirmed then.
    let mut decided = [None, None];
    // When an attempt of each copy last ended.
    let mut before = [start(); 2];
    let mut nacks = case.nacks.clone().into_iter();
    for delivery in 0.. {
        prop_assert!(delivery < 300, "no end");
        if ended == [true; 2] {
            return Ok(());
        }
        let copy = turns.find(|copy| !ended[*copy]).expect("they go on for ever");
        // There is one clock.
        let now = stories.each_ref().map(|story| story.rig.state().now).into_iter().max().unwrap();
        let story = &mut stories[copy];
        story.rig.state().now = now;
        // That the provider lets nobody in ends at last.
        if case.others_pass[delivery % case.others_pass.len()] || delivery > 60 {
            story.pipeline.accepted_at.fetch_max(now.timestamp_millis(), Ordering::Relaxed);
        }
        let others_passed = story.pipeline.accepted_at.load(Ordering::Relaxed) > before[copy].timestamp_millis();
        story.rig.state().nacks = nacks.next().unwrap_or_default();
        let told = story.rig.state().events.len();
        model.lock().unwrap().copies[copy].cancel = None;
        let ending = story.pipeline.handle(&story.message).await;
        before[copy] = story.rig.state().now;
        if ending != Ok(Ending::Scheduled(Later::Interrupted)) {
            model.lock().unwrap().copies[copy].has_ended(others_passed);
        }
        match ending {
            Ok(Ending::Scheduled(_)) => {
                if story.waiting().0.finish.is_some() && decided[copy].is_none() {
                    decided[copy] = Some(model.lock().unwrap().clone());
                }
                story.comes_back();
            }
            Ok(Ending::Postponed | Ending::Rerouted) => prop_assert!(false, "it is of this version, and no stray"),
            // Not acknowledged: the broker delivers it again, as it was.
            Err(_) => {
                (story.message.redelivered, story.message.delivery_count) = (true, story.message.delivery_count + 1)
            }
            Ok(Ending::Finished(cause)) => {
                prop_assert_eq!(story.rig.state().events.len(), told + 1);
                ended[copy] = true;
                let then = decided[copy].take().unwrap_or_else(|| model.lock().unwrap().clone());
                check(story, &case, cause, &then, copy)?;
            }
        }
    }
    unreachable!("the loop has no end")
}

fn check(story: &Story, case: &Case, cause: Cause, model: &Model, copy: usize) -> Result<(), TestCaseError> {
    let event = story.event();
    let data = &event["data"];
    let told = format!("{cause:?} was told of copy {copy} of {model:?}: {event:#}");
    prop_assert!(data["attempts"].as_u64().unwrap() <= case.max_attempts.into(), "{}", told);
    let outcome = cause.outcome();
    prop_assert_eq!(data["outcome"].as_str(), Some(outcome.name()));
    let Copy { under_way, ours, cancel, denied } = model.copies[copy].clone();
    match cause {
        Cause::Canceled => prop_assert!(model.qr == Qr::Canceled, "{}", told),
        Cause::AlreadyCanceled => prop_assert!(model.qr == Qr::Canceled && !ours, "{}", told),
        Cause::Paid => prop_assert!(model.qr == Qr::Paid, "{}", told),
        Cause::Failed => prop_assert!(model.qr == Qr::Failed, "{}", told),
        Cause::Refunded => prop_assert!(model.qr == Qr::Refunded, "{}", told),
        Cause::Expired => prop_assert!(model.qr == Qr::Expired && !under_way && !ours, "{}", told),
        // The provider has said that the request is faulty, or no, and then that the QR is open: so no other copy has cancelled it.
        Cause::ResponseCode if cancel == Some(Act::Malformed) => {}
        Cause::ResponseCode => prop_assert!(cancel == Some(Act::Refused) && model.qr == Qr::Open, "{}", told),
        Cause::NotAuthorized => prop_assert!(denied >= 5 && model.qr == Qr::Open, "{}", told),
        _ => prop_assert!(outcome == Outcome::Unresolved, "{}", told),
    }
    let parked = story.rig.state().parked.len();
    prop_assert!(parked > 0 || !outcome.is_parked(), "{}", told);
    if let Some(may_have) = data["mayHaveTakenEffect"].as_bool() {
        prop_assert!(may_have || !ours && !under_way, "{}", told);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_command_ends_and_no_settled_outcome_contradicts_the_transaction(case in any_case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(case))?;
    }
}
