//! Each message has its own confirm, however many are published at once: a refusal that is taken for a confirm loses a command.

mod support;

use chrono::Utc;
use lapin::{Connection, ConnectionProperties};
use qris_cancel_worker::{
    amqp::outbox::AmqpOutbox,
    event::{Event, Finish, Said},
    message::Message,
    outcome::Cause,
    pipeline::Outbox,
    retry::Progress,
    shutdown::Stop,
    worker::Worker,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use support::*;
use tokio_util::sync::CancellationToken;

const AT_ONCE: usize = 64;
const EACH: usize = 100;

/// Publishes an event, which nothing refuses, or a parked copy, which is mostly refused. True if it was confirmed.
async fn publish(outbox: &AmqpOutbox, message: &Message, is_event: bool) -> bool {
    if is_event {
        let (id, body) = (uuid::Uuid::nil(), message.body.clone());
        let event = Event { id, routing_key: "bnc.canceled".into(), job_id: None, cause: Cause::Canceled, body };
        return outbox.publish(&event, message).await.is_ok();
    }
    let now = Utc::now();
    let (cause, said) = (Cause::AttemptsExhausted, Said::default());
    let finish = Finish { cause, at: now, ambiguous: true, parked: false, tellings: 0, said };
    outbox.park(message, &Progress::new(now), &finish).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refusal_is_told_to_the_message_that_was_refused() {
    let broker = Broker::shared();
    let place = Place::at(broker, "http://127.0.0.1:1", "");
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let connection = Connection::connect(&place.url, ConnectionProperties::default()).await.unwrap();
    let mut settings = place.settings();
    settings.amqp.confirm_timeout = Duration::from_secs(60);
    let worker = Arc::new(Worker::new(settings, Stop::default()).unwrap());
    let outbox = AmqpOutbox::open(Arc::new(connection), place.names.clone(), worker, CancellationToken::new());
    let outbox = Arc::new(outbox.await.unwrap());
    let parked = place.names.parked();
    let full = r#"{"max-length":1,"overflow":"reject-publish"}"#;
    broker.ctl(&["set_policy", &parked, &format!("^{parked}$"), full, "--apply-to", "queues"]);
    let mut confirmed = BTreeSet::new();
    for number in 0.. {
        let body = format!("before-{number}");
        if !publish(&outbox, &message("bnc", body.as_bytes()), false).await {
            break;
        }
        confirmed.insert(body);
        assert!(number < 1_000, "the queue refuses nothing");
    }

    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|task| {
            let outbox = outbox.clone();
            tokio::spawn(async move {
                let (mut taken, mut refused) = (Vec::new(), Vec::new());
                for number in 0..EACH {
                    let (body, is_event) = (format!("{task}-{number}"), (task + number).is_multiple_of(2));
                    let is_taken = publish(&outbox, &message("bnc", body.as_bytes()), is_event).await;
                    match is_event {
                        true => refused.extend((!is_taken).then_some(body)),
                        false => taken.extend(is_taken.then_some(body)),
                    }
                }
                (taken, refused)
            })
        })
        .collect();
    let mut refused = Vec::new();
    for task in tasks {
        let of_one = task.await.unwrap();
        confirmed.extend(of_one.0);
        refused.extend(of_one.1);
    }
    broker.ctl(&["clear_policy", &parked]);
    let client = place.client().await;
    let there = client.drain(&parked).await;
    let there: BTreeSet<_> = there.iter().map(|copy| String::from_utf8(copy.data.clone()).unwrap()).collect();
    let lost: Vec<_> = confirmed.difference(&there).collect();
    assert!(lost.is_empty(), "confirmed, and not there: {lost:?}");
    assert!(refused.is_empty(), "nothing refuses an event, and these are said to have been refused: {refused:?}");
}
