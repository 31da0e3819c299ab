//! What the pure steps of one command cost, each by itself: `cargo bench --bench steps`.

use criterion::{Criterion, criterion_group, criterion_main};
use qris_cancel_worker::{
    breaker::{Breaker, Health, News, Rules},
    command::{CancelCommand, Hints, Terms},
    event::{About, Event, Finish, Said, Subject},
    outcome::Cause,
    retry::{self, Later, Policy, Progress},
    settings::Settings,
    snap::{Operation, Reply, request::Partner, response::Answer},
    verdict::{self, Asked},
};
use std::{collections::BTreeMap, hint::black_box, path::Path, time::Duration};

const COMMAND: &[u8] = br#"{"jobId":"job-1","originalReferenceNo":"R000000000000000000001","originalPartnerReferenceNo":"P000000000000000000001","reason":"cancel reason","metadata":{"order":7}}"#;
const ANSWER: &[u8] = br#"{"responseCode":"2007700","responseMessage":"Successful","originalReferenceNo":"R000000000000000000001","originalPartnerReferenceNo":"P000000000000000000001","cancelTime":"2026-11-20T18:30:16","additionalInfo":{"type":"DYNAMIC"}}"#;

fn partner(mode: &str) -> std::sync::Arc<Partner> {
    let key = "tests/vectors/midtrans-public-sample-key.pem";
    let text = format!(
        "[amqp]\nurl = {{ env = \"AMQP_URL\" }}\n[accounts.shop]\nprofile = \"ifortepay\"\nbase_url = \"https://provider.example\"\n\
         token_base_url = \"https://provider.example\"\npartner_id = \"p\"\nclient_key = \"k\"\nclient_secret = {{ env = \"SECRET\" }}\n\
         signing_mode = \"{mode}\"\nprivate_key = {{ file = \"{key}\" }}\n"
    );
    let environment = [("AMQP_URL", "amqp://127.0.0.1"), ("SECRET", "secret")];
    let environment: BTreeMap<_, _> = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings = Settings::read("bench", &text, &environment, base).unwrap_or_else(|e| panic!("{e}"));
    settings.accounts[0].partner.clone()
}

fn steps(criterion: &mut Criterion) {
    let partner = partner("asymmetric");
    let symmetric = self::partner("symmetric");
    let terms = || Terms { profile: &partner.profile, defaults: &partner.merchant };
    let command = CancelCommand::read(COMMAND, Hints::default(), terms()).expect("a good command");
    let at = chrono::DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
    let body = partner.body(Operation::Cancel, &command);
    let token = "token".into();
    let reply = Reply { http_status: 200, body: ANSWER.to_vec(), retry_after: None, date: None };
    let asked = Asked { reference: Some("R000000000000000000001"), partner_reference: Some("P000000000000000000001") };
    let mut progress = Progress::new(at);
    progress.attempts = 1;

    criterion.bench_function("command: read", |bench| {
        bench.iter(|| CancelCommand::read(black_box(COMMAND), Hints::default(), terms()));
    });
    criterion.bench_function("request: body", |bench| {
        bench.iter(|| partner.body(Operation::Cancel, black_box(&command)));
    });
    criterion.bench_function("request: sign symmetric, headers", |bench| {
        bench.iter(|| symmetric.transaction(Operation::Cancel, body.clone(), "1", Some(&token), black_box(at)));
    });
    criterion.bench_function("request: sign asymmetric, headers", |bench| {
        bench.iter(|| partner.transaction(Operation::Cancel, body.clone(), "1", None, black_box(at)));
    });
    criterion.bench_function("answer: read, verdict", |bench| {
        bench.iter(|| {
            let answer = Answer::read(black_box(&reply.body));
            verdict::of_cancel(Ok((&reply, answer.as_ref())), asked, &partner.profile.codes)
        });
    });
    criterion.bench_function("event: made", |bench| {
        let said = Answer::read(&reply.body).as_ref().map(Said::from).unwrap_or_default();
        let finish = Finish { cause: Cause::Canceled, at, ambiguous: false, parked: false, tellings: 0, said };
        bench.iter(|| {
            let about = About {
                account: "shop",
                provider: Some("ifortepay"),
                subject: Subject::Command(&command),
                bytes: COMMAND,
                traceparent: None,
                tracestate: None,
            };
            Event::new(about, black_box(&progress), &finish)
        });
    });
    criterion.bench_function("retry: next", |bench| {
        bench.iter(|| retry::next(&Policy::default(), &mut progress.clone(), Later::Busy, None, black_box(0.5)));
    });
    criterion.bench_function("breaker: a visit", |bench| {
        let mut breaker = Breaker::new(Rules::default());
        let news = News { operation: Operation::Cancel, health: Health::Good, accepted: true, denied: None };
        bench.iter(|| breaker.hear(0, black_box(news), Duration::from_secs(1), 0.5));
    });
}

criterion_group!(benches, steps);
criterion_main!(benches);
