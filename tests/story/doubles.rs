//! In-memory doubles of what the story touches: the provider, the broker, clock and chance. They keep one journal, so that
//! the order of all effects is seen.

use chrono::{DateTime, TimeDelta, Utc};
use qris_cancel_worker::{
    breaker::{Health, News},
    event::{Event, Finish},
    message::{Carried, Message, Origin, Properties},
    pipeline::{Called, Ending, Gateway, NotConfirmed, Outbox, Pipeline, Sent, Strays, World},
    retry::{CallRecord, Later, Policy, Progress},
    snap::{
        Operation, Reply, SendError,
        profile::Profile,
        request::{Ids, MerchantDefaults, Partner, Route},
    },
    traces,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicI64},
    time::Duration,
};

pub const COMMAND: &str = r#"{"jobId":"job-1","originalReferenceNo":"R-1","originalPartnerReferenceNo":"P-1","reason":"salah input","metadata":{"price":1.10}}"#;

/// 18:30:15 in Jakarta.
pub fn start() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-20T11:30:15Z").unwrap().to_utc()
}

/// What the provider does with one call.
#[derive(Debug, Clone)]
pub struct Answer {
    result: Result<Reply, SendError>,
    token_call: bool,
    is_hearsay: bool,
    no_token_for: Option<Duration>,
}

impl Answer {
    pub fn error(error: SendError) -> Self {
        Self { result: Err(error), token_call: false, is_hearsay: false, no_token_for: None }
    }

    pub fn body(http_status: u16, body: impl Into<Vec<u8>>) -> Self {
        let reply = Reply { http_status, body: body.into(), retry_after: None, date: None };
        Self { result: Ok(reply), token_call: false, is_hearsay: false, no_token_for: None }
    }

    /// Asks for a pause.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        let asked = Some(Duration::from_secs(seconds));
        match &mut self.result {
            Ok(reply) => reply.retry_after = asked,
            Err(_) => self.no_token_for = asked,
        }
        self
    }

    /// A token had to be fetched first.
    pub fn after_a_token_call(self) -> Self {
        Self { token_call: true, ..self }
    }

    /// As another call's one failure to fetch a token tells it.
    pub fn hearsay(self) -> Self {
        Self { is_hearsay: true, ..self }
    }
}

/// An answer with this response code, and the HTTP status that belongs to it.
pub fn code(code: &str) -> Answer {
    Answer::body(code[..3].parse().unwrap(), format!(r#"{{"responseCode":"{code}","responseMessage":"says {code}"}}"#))
}

/// A query's answer with this status.
pub fn status(status: &str) -> Answer {
    let paid = if status == "00" {
        r#","paidTime":"2026-11-20T18:29:59","amount":{"value":"10000.00","currency":"IDR"}"#
    } else {
        ""
    };
    Answer::body(
        200,
        format!(
            r#"{{"responseCode":"2005100","responseMessage":"Successful","originalReferenceNo":"R-1","latestTransactionStatus":"{status}"{paid}}}"#
        ),
    )
}

pub fn canceled() -> Answer {
    let text = r#"{"responseCode":"2007700","responseMessage":"Successful","originalReferenceNo":"R-1","cancelTime":"2026-11-20T18:30:16"}"#;
    Answer::body(200, text)
}

pub fn timeout() -> Answer {
    Answer::error(SendError::TimedOut(Duration::from_secs(30)))
}

pub fn not_sent() -> Answer {
    Answer::error(SendError::NotSent("connection refused".into()))
}

/// What the broker does not confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nack {
    Retry,
    Postpone,
    Park,
    Publish,
}

type Script = Box<dyn FnMut(Operation, DateTime<Utc>) -> Answer + Send>;

pub struct State {
    pub now: DateTime<Utc>,
    pub jitter: f64,
    /// How long a call takes.
    pub takes: Duration,
    random: u128,
    answers: VecDeque<Answer>,
    /// Answers when nothing is scripted.
    provider: Option<Script>,
    /// Effects in their order, a word or two each.
    pub journal: Vec<String>,
    /// Each call as it was sent.
    pub sent: Vec<(Operation, String, String)>,
    pub nacks: Vec<Nack>,
    /// Another command of the transaction is in hand.
    pub in_hand: bool,
    /// The names of the transaction that was taken in hand, and the last effect before it was let go.
    pub claimed: Vec<String>,
    pub claimed_again: bool,
    pub released_after: Option<String>,
    /// How often the account, not the command, was to blame.
    pub denials: u32,
    /// What each visit said of the provider.
    pub news: Vec<(Operation, Health)>,
    /// What waits in a retry bucket: what it carries, and for how long.
    pub waiting: Option<(Progress, Duration)>,
    pub events: Vec<Event>,
    pub parked: Vec<(Progress, Finish)>,
}

/// All doubles in one; clones share it.
#[derive(Clone)]
pub struct Rig(Arc<Mutex<State>>);

impl Rig {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            now: start(),
            jitter: 0.999_999_999,
            takes: Duration::from_millis(120),
            random: 0,
            answers: VecDeque::new(),
            provider: None,
            journal: Vec::new(),
            sent: Vec::new(),
            nacks: Vec::new(),
            in_hand: false,
            claimed: Vec::new(),
            claimed_again: false,
            released_after: None,
            denials: 0,
            news: Vec::new(),
            waiting: None,
            events: Vec::new(),
            parked: Vec::new(),
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn provider(&self, script: impl FnMut(Operation, DateTime<Utc>) -> Answer + Send + 'static) {
        self.state().provider = Some(Box::new(script));
    }

    fn effect(&self, what: String, nack: Nack) -> Result<(), NotConfirmed> {
        let mut state = self.state();
        let refused = state.nacks.contains(&nack);
        state.journal.push(if refused { format!("{what}: nack") } else { what });
        if refused { Err(NotConfirmed("nack".into())) } else { Ok(()) }
    }
}

/// A transaction in hand.
pub struct Held(Rig);

impl Drop for Held {
    fn drop(&mut self) {
        // A test that fails may have poisoned it; failing twice would hide why.
        if let Ok(mut state) = self.0.0.lock() {
            state.released_after = state.journal.last().cloned();
        }
    }
}

impl Gateway for Rig {
    async fn send(
        &self,
        operation: Operation,
        body: Vec<u8>,
        external_id: &str,
        _not_after: Option<DateTime<Utc>>,
    ) -> Sent {
        let mut state = self.state();
        let at = state.now;
        let answer = match state.answers.pop_front() {
            Some(answer) => answer,
            None => {
                let mut provider = state.provider.take().unwrap_or_else(|| panic!("an unexpected {operation:?}"));
                let answer = provider(operation, at);
                state.provider = Some(provider);
                answer
            }
        };
        let takes = state.takes;
        state.now += TimeDelta::from_std(takes).unwrap();
        state.journal.push(operation.name().to_owned());
        state.sent.push((operation, String::from_utf8(body).unwrap(), external_id.to_owned()));
        let token_call = answer.token_call.then(|| CallRecord {
            number: 0,
            operation: Operation::Token,
            at,
            external_id: None,
            body_sha256: "00".repeat(32),
            http_status: Some(200),
            response_code: Some("2007300".into()),
            error: None,
            duration_ms: 80,
        });
        let token = Some(SecretString::from(format!("token {}", state.sent.len())));
        Sent {
            token_call,
            is_hearsay: answer.is_hearsay,
            no_token_for: answer.no_token_for,
            no_token_at: None,
            token,
            at,
            duration: state.takes,
            result: answer.result,
            span: traces::Span::default(),
        }
    }

    async fn forget_token(&self, token: &SecretString) {
        self.state().journal.push(format!("forget {}", token.expose_secret()));
    }

    fn note_call(&self, _: &Called<'_>) {}

    fn note_visit(&self, _: &Held, news: News<'_>) {
        let mut state = self.state();
        state.denials += u32::from(news.denied.is_some());
        state.news.push((news.operation, news.health));
    }

    type Claim = Held;

    async fn claim(&self, names: Vec<String>, redelivered: bool) -> Option<Held> {
        let mut state = self.state();
        (state.claimed, state.claimed_again) = (names, redelivered);
        (!state.in_hand).then(|| Held(self.clone()))
    }
}

impl Outbox for Rig {
    async fn retry(&self, _: &Message, progress: &Progress, _: Later, delay: Duration) -> Result<(), NotConfirmed> {
        self.effect("retry".into(), Nack::Retry)?;
        self.state().waiting = Some((progress.clone(), delay));
        Ok(())
    }

    async fn postpone(&self, _: &Message, delay: Duration) -> Result<(), NotConfirmed> {
        self.effect(format!("postpone {delay:?}"), Nack::Postpone)
    }

    async fn park(&self, _: &Message, progress: &Progress, finish: &Finish) -> Result<(), NotConfirmed> {
        self.effect(format!("park {}", finish.cause.name()), Nack::Park)?;
        self.state().parked.push((progress.clone(), finish.clone()));
        Ok(())
    }

    async fn publish(&self, event: &Event, _: &Message) -> Result<(), NotConfirmed> {
        self.state().events.push(event.clone());
        self.effect(format!("publish {}", event.routing_key), Nack::Publish)
    }

    async fn reply(&self, _: &Event, _: &Message) {
        self.state().journal.push("reply".into());
    }
}

impl World for Rig {
    fn now(&self) -> DateTime<Utc> {
        self.state().now
    }

    fn jitter(&self) -> f64 {
        self.state().jitter
    }

    fn random(&self) -> u128 {
        let mut state = self.state();
        state.random += 1;
        state.random
    }
}

/// One account, one message, and the doubles around them.
pub struct Story {
    pub rig: Rig,
    pub pipeline: Pipeline<Rig, Rig, Rig>,
    pub message: Message,
}

impl Story {
    /// A command for iFortePay, or another built-in provider; one that publishes no query path has no query.
    pub fn at(profile: &str, command: &str) -> Self {
        let rig = Rig::new();
        let pipeline = Pipeline {
            account: "shop".into(),
            partner: Arc::new(partner(profile)),
            policy: Policy::default(),
            confirm_cancel: false,
            gateway: rig.clone(),
            outbox: rig.clone(),
            world: rig.clone(),
            accepted_at: Arc::new(AtomicI64::new(0)),
        };
        Self { message: message("shop", command, start()), pipeline, rig }
    }

    /// The account, to be changed before the first attempt.
    pub fn partner_mut(&mut self) -> &mut Partner {
        Arc::get_mut(&mut self.pipeline.partner).expect("nobody else has it")
    }

    pub fn new() -> Self {
        Self::at("ifortepay", COMMAND)
    }

    /// A command with more members.
    pub fn with(more: &str) -> Self {
        Self::at("ifortepay", &with(more))
    }

    pub fn redelivered(mut self) -> Self {
        (self.message.redelivered, self.message.delivery_count) = (true, 1);
        self
    }

    /// Hands the message to the pipeline, with the provider's answers for this attempt: each has to be fetched.
    pub async fn attempt(&self, answers: impl IntoIterator<Item = Answer>) -> Result<Ending, NotConfirmed> {
        self.rig.state().answers = answers.into_iter().collect();
        let ending = self.pipeline.handle(&self.message).await;
        assert_eq!(self.rig.state().answers.len(), 0, "answers nobody asked for");
        ending
    }

    /// What has happened since the last look.
    pub fn journal(&self) -> String {
        std::mem::take(&mut self.rig.state().journal).join(", ")
    }

    /// What waits, and for how long.
    pub fn waiting(&self) -> (Progress, Duration) {
        self.rig.state().waiting.clone().expect("nothing waits")
    }

    /// The delay that was chosen, in whole seconds.
    pub fn delay(&self) -> u64 {
        self.waiting().1.as_secs_f64().round() as u64
    }

    /// Lets the delay pass; the message comes back with what it carries.
    pub fn comes_back(&mut self) {
        let (progress, delay) = self.rig.state().waiting.take().expect("nothing waits");
        self.rig.state().now += TimeDelta::from_std(delay).unwrap();
        self.message.origin = Origin::Due;
        self.message.carried = Carried::Progress(Box::new(progress));
        (self.message.redelivered, self.message.delivery_count) = (false, 0);
    }

    /// The event that was published last, as a consumer reads it.
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.rig.state().events.last().expect("no event").body).unwrap()
    }

    /// Strays as they are right after the broker's objects were looked at.
    pub fn strays(&self, accounts: &[&str]) -> Strays<Rig, Rig> {
        let now = self.rig.state().now.timestamp();
        Strays {
            accounts: accounts.iter().map(|name| (*name).to_owned()).collect(),
            policy: Policy::default(),
            outbox: self.rig.clone(),
            world: self.rig.clone(),
            looked_at: AtomicI64::new(now),
        }
    }
}

/// What a built-in provider knows us by.
pub fn partner(profile: &str) -> Partner {
    let profile = Profile::find(profile, Path::new("")).unwrap();
    let route = |path: &str| Route { path: path.into(), signed_path: path.into() };
    let has_query = profile.query.as_ref().is_some_and(|query| query.path.is_some());
    Partner {
        mode: profile.signing.modes[0],
        base_url: "https://api.example".into(),
        token_base_url: "https://api.example".into(),
        cancel: route("/cancel"),
        query: has_query.then(|| route("/query")),
        ids: Ids::default(),
        merchant: MerchantDefaults { merchant_id: Some("M-1".into()), ..MerchantDefaults::default() },
        private_key: None,
        client_secret: None,
        profile,
    }
}

/// The usual command with more members.
pub fn with(more: &str) -> String {
    COMMAND.replacen('{', &format!("{{{more},"), 1)
}

pub fn message(routing_key: &str, body: &str, received_at: DateTime<Utc>) -> Message {
    Message {
        body: body.into(),
        routing_key: routing_key.into(),
        origin: Origin::Published,
        redelivered: false,
        delivery_count: 0,
        properties: Properties::default(),
        carried: Carried::Nothing,
        parked: None,
        received_at,
        trace: None,
    }
}
