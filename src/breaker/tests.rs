use super::*;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);

fn breaker() -> Breaker {
    Breaker::new(Rules::default())
}

/// A visit of now.
fn hear(breaker: &mut Breaker, news: News<'_>, now: Duration) {
    let era = breaker.era();
    breaker.hear(era, news, now, 1.0);
}

fn health(operation: Operation, health: Health) -> News<'static> {
    News { operation, health, accepted: false, denied: None }
}

fn call(breaker: &mut Breaker, told: Health, now: Duration) {
    hear(breaker, health(Operation::Cancel, told), now);
}

fn deny(breaker: &mut Breaker, command: &str, now: Duration) {
    hear(breaker, News { denied: Some(command), ..health(Operation::Cancel, Health::Untold) }, now);
}

fn accept(breaker: &mut Breaker, now: Duration) {
    hear(breaker, News { accepted: true, ..health(Operation::Cancel, Health::Good) }, now);
}

fn fail(breaker: &mut Breaker, times: u32, now: Duration) {
    for _ in 0..times {
        call(breaker, Health::Bad, now);
    }
}

#[test]
fn an_outage_trips_it_and_three_good_calls_close_it() {
    let mut breaker = breaker();
    fail(&mut breaker, 9, S);
    assert_eq!(breaker.state(S), State::Closed, "nine calls are too few");
    fail(&mut breaker, 1, S);
    assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Failing });
    // What was still running says nothing new, not even when the trial has begun.
    fail(&mut breaker, 50, S);
    call(&mut breaker, Health::Good, S);
    assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Failing });
    for _ in 0..3 {
        assert_eq!(breaker.state(2 * S), State::Trying { why: Why::Failing });
        call(&mut breaker, Health::Good, 2 * S);
    }
    assert_eq!(breaker.state(2 * S), State::Closed);
}

#[test]
fn each_failed_trial_doubles_the_rest_up_to_the_limit() {
    let mut breaker = breaker();
    let mut now = S;
    fail(&mut breaker, 10, now);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let State::Resting { until, .. } = breaker.state(now) else { panic!("does not rest") };
        assert_eq!(until - now, S * seconds);
        now = until;
        assert!(matches!(breaker.state(now), State::Trying { .. }));
        fail(&mut breaker, 1, now);
    }
}

#[test]
fn a_trial_is_judged_by_the_same_share_of_failures() {
    let mut breaker = breaker();
    fail(&mut breaker, 10, S);
    assert!(matches!(breaker.state(2 * S), State::Trying { .. }));
    for sign in [Health::Good, Health::Bad, Health::Good, Health::Bad] {
        call(&mut breaker, sign, 2 * S);
        assert!(matches!(breaker.state(2 * S), State::Trying { .. }), "half of the calls are no 80 percent");
    }
    call(&mut breaker, Health::Good, 2 * S);
    assert_eq!(breaker.state(2 * S), State::Closed);
}

#[test]
fn a_provider_that_fails_again_at_once_rests_longer_and_a_healthy_time_forgives() {
    let mut breaker = breaker();
    let rest = |breaker: &mut Breaker, now: Duration| {
        fail(breaker, 20, now);
        let State::Resting { until, .. } = breaker.state(now) else { panic!("does not rest") };
        assert!(matches!(breaker.state(until), State::Trying { .. }));
        (0..3).for_each(|_| call(breaker, Health::Good, until));
        assert_eq!(breaker.state(until), State::Closed);
        until - now
    };
    assert_eq!(rest(&mut breaker, S), S);
    assert_eq!(rest(&mut breaker, 10 * S), 2 * S);
    (0..20).for_each(|_| call(&mut breaker, Health::Good, 20 * S));
    assert_eq!(rest(&mut breaker, 30 * S), S);
}

#[test]
fn half_of_the_calls_failing_is_no_reason_to_rest() {
    let mut breaker = breaker();
    for at in 0..1000 {
        call(&mut breaker, if at % 2 == 0 { Health::Bad } else { Health::Good }, S);
    }
    assert_eq!(breaker.state(S), State::Closed);
}

#[test]
fn five_different_commands_refused_in_a_row_pause_the_account() {
    let mut breaker = breaker();
    for _ in 0..100 {
        deny(&mut breaker, "one bad command", S);
    }
    ["b", "c", "d"].iter().for_each(|command| deny(&mut breaker, command, S));
    assert_eq!(breaker.state(S), State::Closed, "four commands");
    accept(&mut breaker, S);
    ["e", "f", "g", "h"].iter().for_each(|command| deny(&mut breaker, command, S));
    assert_eq!(breaker.state(S), State::Closed, "four since one was accepted");
    deny(&mut breaker, "i", S);
    assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Misconfigured });
    // A query that is answered proves nothing about cancels.
    assert_eq!(breaker.state(2 * S), State::Trying { why: Why::Misconfigured });
    (0..10).for_each(|_| call(&mut breaker, Health::Good, 2 * S));
    assert!(matches!(breaker.state(2 * S), State::Trying { why: Why::Misconfigured }));
    deny(&mut breaker, "e", 2 * S);
    assert_eq!(breaker.state(2 * S), State::Resting { until: 4 * S, why: Why::Misconfigured });
    assert!(matches!(breaker.state(4 * S), State::Trying { .. }));
    accept(&mut breaker, 4 * S);
    assert_eq!(breaker.state(4 * S), State::Closed);
}

#[test]
fn a_trial_after_an_outage_can_find_the_keys_refused() {
    let mut breaker = breaker();
    fail(&mut breaker, 10, S);
    assert!(matches!(breaker.state(2 * S), State::Trying { why: Why::Failing }));
    ["a", "b", "c", "d", "e"].iter().for_each(|command| deny(&mut breaker, command, 2 * S));
    assert!(matches!(breaker.state(2 * S), State::Resting { why: Why::Misconfigured, .. }));
}

#[test]
fn answered_queries_do_not_make_up_for_cancels_that_fail() {
    let mut breaker = breaker();
    let query = |breaker: &mut Breaker, now| hear(breaker, health(Operation::Query, Health::Good), now);
    for _ in 0..10 {
        assert_eq!(breaker.state(S), State::Closed);
        query(&mut breaker, S);
        fail(&mut breaker, 1, S);
    }
    assert!(matches!(breaker.state(S), State::Resting { .. }));
    assert!(matches!(breaker.state(2 * S), State::Trying { .. }));
    (0..10).for_each(|_| query(&mut breaker, 2 * S));
    assert_eq!(breaker.state(2 * S), State::Trying { why: Why::Failing });
    fail(&mut breaker, 1, 2 * S);
    assert!(matches!(breaker.state(2 * S), State::Resting { .. }));
}

#[test]
fn a_long_row_of_good_visits_ends_a_trial_that_no_command_can_prove() {
    let query = |breaker: &mut Breaker, told| hear(breaker, health(Operation::Query, told), 2 * S);
    let denied = |breaker: &mut Breaker| ["a", "b", "c", "d", "e"].iter().for_each(|command| deny(breaker, command, S));
    let failed = |breaker: &mut Breaker| fail(breaker, 10, S);
    for begin in [&denied as &dyn Fn(&mut Breaker), &failed] {
        let mut breaker = breaker();
        begin(&mut breaker);
        assert!(matches!(breaker.state(2 * S), State::Trying { .. }));
        // A fault now and then between them is none of the account.
        for _ in 0..4 {
            (0..4).for_each(|_| query(&mut breaker, Health::Good));
            query(&mut breaker, Health::Bad);
        }
        (0..3).for_each(|_| query(&mut breaker, Health::Good));
        assert!(matches!(breaker.state(2 * S), State::Trying { .. }), "19 good visits");
        query(&mut breaker, Health::Good);
        assert_eq!(breaker.state(2 * S), State::Closed);
    }
}

#[test]
fn queries_that_fail_are_a_reason_only_while_no_cancel_goes_well() {
    let fail_queries = |breaker: &mut Breaker, times: u32| {
        (0..times).for_each(|_| hear(breaker, health(Operation::Query, Health::Bad), S));
    };
    let mut cancels_work = breaker();
    for _ in 0..20 {
        fail_queries(&mut cancels_work, 9);
        call(&mut cancels_work, Health::Good, S);
    }
    assert_eq!(cancels_work.state(S), State::Closed);
    let mut nothing_works = breaker();
    fail_queries(&mut nothing_works, 20);
    assert!(matches!(nothing_works.state(S), State::Resting { .. }));
}

#[test]
fn an_account_rests_when_the_provider_goes_however_few_commands_there_are_and_however_well_it_went() {
    let mut breaker = breaker();
    (0..30).for_each(|_| call(&mut breaker, Health::Good, S));
    // Five commands are cut off, and then only asked about.
    fail(&mut breaker, 5, S);
    for _ in 0..10 {
        assert_eq!(breaker.state(S), State::Closed);
        hear(&mut breaker, health(Operation::Query, Health::Bad), S);
    }
    assert!(matches!(breaker.state(S), State::Resting { why: Why::Failing, .. }));
}

#[test]
fn a_trial_does_not_fail_by_queries_once_a_cancel_has_gone_well() {
    let mut breaker = breaker();
    fail(&mut breaker, 10, S);
    assert!(matches!(breaker.state(2 * S), State::Trying { .. }));
    for _ in 0..3 {
        call(&mut breaker, Health::Good, 2 * S);
        hear(&mut breaker, health(Operation::Query, Health::Bad), 2 * S);
    }
    assert_eq!(breaker.state(2 * S), State::Closed);
}

#[test]
fn what_began_before_a_rest_says_nothing_of_the_trial() {
    let mut breaker = breaker();
    let before = breaker.era();
    fail(&mut breaker, 10, S);
    let trying = State::Trying { why: Why::Failing };
    assert_eq!(breaker.state(2 * S), trying);
    for told in [Health::Bad, Health::Good, Health::Good, Health::Good] {
        breaker.hear(before, health(Operation::Cancel, told), 2 * S, 1.0);
        assert_eq!(breaker.state(2 * S), trying);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Call(Operation, Health),
    Denied(u8),
    Accepted,
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop::sample::select(vec![Operation::Cancel, Operation::Query]);
    let health = prop::sample::select(vec![Health::Good, Health::Bad, Health::Untold]);
    prop_oneof![
        4 => (operation, health).prop_map(|(operation, health)| Step::Call(operation, health)),
        2 => (0u8..8).prop_map(Step::Denied),
        1 => Just(Step::Accepted),
        1 => (0u64..100_000).prop_map(Step::Time),
    ]
}

proptest! {
    #[test]
    fn it_never_rests_without_reason_nor_for_ever(steps in prop::collection::vec(step(), 0..400), jitter in 0.0f64..1.0) {
        let rules = Rules::default();
        let mut breaker = Breaker::new(rules);
        let mut now = Duration::ZERO;
        let mut denied_since_accepted = std::collections::BTreeSet::new();
        for step in steps {
            let before = breaker.state(now);
            match &step {
                Step::Call(operation, told) => breaker.hear(breaker.era(), health(*operation, *told), now, jitter),
                Step::Denied(command) => {
                    denied_since_accepted.insert(*command);
                    let command = command.to_string();
                    let news = News { denied: Some(&command), ..health(Operation::Cancel, Health::Untold) };
                    breaker.hear(breaker.era(), news, now, jitter);
                }
                Step::Accepted => {
                    denied_since_accepted.clear();
                    let news = News { accepted: true, ..health(Operation::Cancel, Health::Good) };
                    breaker.hear(breaker.era(), news, now, jitter);
                }
                Step::Time(ms) => now += Duration::from_millis(*ms),
            }
            let after = breaker.state(now);
            if let State::Resting { until, why } = after {
                prop_assert!(until > now && until - now <= rules.max);
                if before != after {
                    let reason = match why {
                        Why::Failing => matches!(step, Step::Call(_, Health::Bad)),
                        Why::Misconfigured => matches!(step, Step::Denied(_) | Step::Call(_, Health::Bad)),
                    };
                    prop_assert!(reason, "{step:?}: {before:?} -> {after:?}");
                    if before == State::Closed && why == Why::Misconfigured {
                        prop_assert!(denied_since_accepted.len() >= DENIALS);
                    }
                }
            }
            // A rest ends by time alone.
            if matches!(before, State::Resting { .. }) && !matches!(after, State::Resting { .. }) {
                prop_assert!(matches!(step, Step::Time(_)));
            }
        }
    }
}
