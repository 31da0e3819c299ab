//! What a message carries: from a delivery to a [`Message`], and from a [`Progress`] to headers.
//!
//! Headers that begin with `x-qris-` are ours, and are believed only on what comes through `due`, to which no client can publish, or
//! through the exchanges to the retry buckets and to parking, to which only workers and operators may. A republished copy keeps an allow-list of properties and nothing else: a copied `x-death` can
//! stick in a bucket for ever on RabbitMQ 3.10, a copied `user_id` closes the channel, a copied `CC` routes extra copies.

use super::topology::Names;
use crate::{
    event::{Finish, Said},
    message::{Carried, DeadLetter, Message, Origin, Properties, Scalar},
    outcome::Cause,
    retry::{History, Progress},
};
use chrono::{DateTime, SecondsFormat, Utc};
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable},
};
use serde::de::{DeserializeOwned, IgnoredAny};
use std::time::Duration;

/// The version that this worker writes and reads.
pub const VERSION: i64 = 1;
const OURS: &str = "x-qris-";
/// A message that is published persistent survives a restart of the broker.
const PERSISTENT: u8 = 2;
/// Taken as it stands, this `reply_to` makes the broker refuse a republished copy and close the channel.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A delivery as the pipeline sees it.
pub fn message(delivery: &mut Delivery, names: &Names, received_at: DateTime<Utc>) -> Message {
    let empty = FieldTable::default();
    let headers = delivery.properties.headers().as_ref().unwrap_or(&empty);
    let latest = latest_death(headers);
    // A stray of ours was dead-lettered on its way, which says where it was sent to. Only what carries no publisher's headers comes so.
    let missed = latest.filter(|_| delivery.exchange.as_str() == names.strays_ours_arrived());
    let missed = missed.and_then(|death| text(death, "exchange"));
    let exchange = missed.as_deref().unwrap_or(delivery.exchange.as_str());
    // Of one that died twice, only the latest death counts: what stands behind it may be a publisher's. Whose it is says its key then.
    let death = latest.filter(|_| exchange == names.strays() || exchange == names.strays_expired());
    let origin = if exchange == names.due() {
        Origin::Due
    } else if names.is_for_keeping(exchange) {
        Origin::PastItsQueue
    } else if let Some(death) = death {
        Origin::DeadLettered(dead_letter(death))
    } else {
        Origin::Published
    };
    // A copy that its publisher had made by `CC` has the key of another account: the queue that it came to says whose it is.
    let died_in = death.and_then(|death| text(death, "queue"));
    let died_in = died_in.and_then(|queue| names.account_of(&queue).map(str::to_owned));
    Message {
        routing_key: died_in.unwrap_or_else(|| delivery.routing_key.as_str().to_owned()),
        origin,
        redelivered: delivery.redelivered,
        delivery_count: if delivery.redelivered { deliveries(headers) } else { 0 },
        properties: properties(&delivery.properties, headers),
        carried: match origin {
            Origin::Due | Origin::PastItsQueue => carried(headers),
            _ => Carried::Nothing,
        },
        parked: if exchange == names.parked() { parked(headers) } else { None },
        received_at,
        trace: None,
        body: std::mem::take(&mut delivery.data),
    }
}

/// How often the broker has delivered a message before, which is delivered again; never more than it says itself.
///
/// A publisher can write both headers, and the broker passes on what it does not write itself. On a redelivery RabbitMQ before 4.3
/// always writes `x-delivery-count`, and 4.3 always writes `x-acquired-count`, beside which a publisher's `x-delivery-count` can
/// stand after a nack or a consumer timeout (seen on 3.10.8, 4.0.5, 4.3.6). So the smallest number that is there is never above the
/// broker's own. A publisher can make it smaller: then the delivery limit of the queue ends the command, by a count of the broker's
/// that is no header.
fn deliveries(headers: &FieldTable) -> u64 {
    let count = |name| match header(headers, name)? {
        Scalar::Integer(count) => Some(u64::try_from(count).unwrap_or_default()),
        _ => Some(0),
    };
    [count("x-delivery-count"), count("x-acquired-count")].into_iter().flatten().min().unwrap_or_default()
}

/// The latest dead-lettering, which the broker lists first. Of the queue and the reason a publisher can forge neither; all else in it,
/// if it sends an entry of that queue and reason itself.
fn latest_death(headers: &FieldTable) -> Option<&FieldTable> {
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(latest) = deaths.as_slice().first()? else { return None };
    Some(latest)
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    match header(table, name)? {
        Scalar::Text(text) => Some(text),
        _ => None,
    }
}

fn dead_letter(death: &FieldTable) -> DeadLetter {
    match text(death, "reason").as_deref() {
        Some("expired") => DeadLetter::Expired,
        _ => DeadLetter::Other,
    }
}

fn properties(own: &BasicProperties, headers: &FieldTable) -> Properties {
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    // W3C Trace Context: a traceparent has 55 characters, a tracestate at most 512 that have to be passed on.
    let trace = |name, limit| match header(headers, name) {
        Some(Scalar::Text(text)) if text.len() <= limit && text.bytes().all(|b| (b' '..=b'~').contains(&b)) => {
            Some(text)
        }
        _ => None,
    };
    Properties {
        message_id: text(own.message_id()),
        correlation_id: text(own.correlation_id()),
        reply_to: text(own.reply_to()),
        content_type: text(own.content_type()),
        content_encoding: text(own.content_encoding()),
        kind: text(own.kind()),
        app_id: text(own.app_id()),
        timestamp: *own.timestamp(),
        traceparent: trace("traceparent", 55),
        tracestate: trace("tracestate", 512),
    }
}

/// The properties of a republished copy: those of the allow-list, and persistent.
pub fn copied(properties: &Properties, ours: Vec<(String, Scalar)>) -> BasicProperties {
    let mut headers = FieldTable::default();
    let trace = [("traceparent", &properties.traceparent), ("tracestate", &properties.tracestate)];
    for (name, value) in trace {
        if let Some(value) = value {
            headers.insert(name.into(), AMQPValue::LongString(value.as_str().into()));
        }
    }
    for (name, value) in ours {
        let value = match value {
            Scalar::Bool(value) => AMQPValue::Boolean(value),
            Scalar::Integer(value) => AMQPValue::LongLongInt(value),
            Scalar::Text(value) => AMQPValue::LongString(value.into()),
        };
        headers.insert(name.into(), value);
    }
    let mut copy = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    let reply_to = properties.reply_to.as_ref().filter(|reply_to| *reply_to != DIRECT_REPLY_TO);
    for (value, set) in [
        (&properties.message_id, BasicProperties::with_message_id as fn(_, _) -> _),
        (&properties.correlation_id, BasicProperties::with_correlation_id),
        (&reply_to.cloned(), BasicProperties::with_reply_to),
        (&properties.content_type, BasicProperties::with_content_type),
        (&properties.content_encoding, BasicProperties::with_content_encoding),
        (&properties.kind, BasicProperties::with_type),
        (&properties.app_id, BasicProperties::with_app_id),
    ] {
        if let Some(value) = value {
            copy = set(copy, value.as_str().into());
        }
    }
    match properties.timestamp {
        Some(timestamp) => copy.with_timestamp(timestamp),
        None => copy,
    }
}

/// The properties of a stray that moves to another queue: those of the allow-list, and what says where it came from. What it carries is
/// kept only where it is ours. Its expiration is left out: a worker tells more of it than that it expired.
pub fn of_stray(delivery: &Delivery, names: &Names) -> BasicProperties {
    let empty = FieldTable::default();
    let headers = delivery.properties.headers().as_ref().unwrap_or(&empty);
    let is_ours = delivery.exchange.as_str() == names.strays_ours_arrived();
    let ours = if is_ours { ours(headers) } else { vec![] };
    let copy = copied(&properties(&delivery.properties, headers), ours);
    let died = is_ours || delivery.exchange.as_str() == names.strays();
    let Some(death) = latest_death(headers).filter(|_| died) else { return copy };
    let mut note = FieldTable::default();
    for name in ["queue", "reason", "exchange"] {
        if let Some(value) = text(death, name) {
            note.insert(name.into(), AMQPValue::LongString(value.into()));
        }
    }
    let mut headers = copy.headers().clone().unwrap_or_default();
    headers.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(note)].into()));
    copy.with_headers(headers)
}

/// Headers for what a command carries.
pub fn of_progress(progress: &Progress) -> Vec<(String, Scalar)> {
    let json = |value: serde_json::Result<String>| Scalar::Text(value.expect("texts and numbers are JSON"));
    let time = |time: DateTime<Utc>| Scalar::Text(time.to_rfc3339_opts(SecondsFormat::Millis, true));
    let ms = |duration: Duration| Scalar::Integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
    let mut headers = vec![
        ("version", Scalar::Integer(VERSION)),
        ("attempts", Scalar::Integer(progress.attempts.into())),
        ("waited-ms", ms(progress.waited)),
        ("ambiguous", Scalar::Bool(progress.ambiguous)),
        ("query-first", Scalar::Bool(progress.query_first)),
        ("first-seen", time(progress.first_seen)),
        ("replay", Scalar::Integer(progress.replay.into())),
        ("history", json(serde_json::to_string(&progress.history))),
    ];
    if progress.doubts > 0 {
        headers.push(("doubts", Scalar::Integer(progress.doubts.into())));
    }
    headers.extend(progress.doubted_at.map(|at| ("doubted-at", time(at))));
    if progress.perhaps_sent {
        headers.push(("perhaps-sent", Scalar::Bool(true)));
    }
    if progress.denied_in_a_row > 0 {
        headers.push(("denied-in-a-row", Scalar::Integer(progress.denied_in_a_row.into())));
    }
    if !progress.cut_off.is_zero() {
        headers.push(("cut-off-ms", ms(progress.cut_off)));
    }
    headers.extend(progress.not_after.map(|at| ("not-after", time(at))));
    if progress.conflict {
        headers.push(("conflict", Scalar::Bool(true)));
    }
    headers.extend(progress.finish.as_ref().map(|finish| ("finish", json(serde_json::to_string(finish)))));
    headers.into_iter().map(|(name, value)| (format!("{OURS}{name}"), value)).collect()
}

/// Headers of a parked copy: what it carried, and why a person has to look.
pub fn of_parked(account: &str, progress: &Progress, finish: &Finish) -> Vec<(String, Scalar)> {
    let mut headers = of_progress(&Progress { finish: None, ..progress.clone() });
    let text = |text: &str| Scalar::Text(text.to_owned());
    for (name, value) in [
        ("account", text(account)),
        ("outcome", text(finish.cause.outcome().name())),
        ("cause", text(finish.cause.name())),
        ("parked-at", text(&finish.at.to_rfc3339_opts(SecondsFormat::Millis, true))),
        ("may-have-taken-effect", Scalar::Bool(finish.ambiguous)),
    ] {
        headers.push((format!("{OURS}{name}"), value));
    }
    headers
}

/// Why a parked copy was parked, which its headers say; none where nobody wrote them.
fn parked(headers: &FieldTable) -> Option<Finish> {
    let text = |name: &str| match header(headers, &format!("{OURS}{name}")) {
        Some(Scalar::Text(text)) => Some(text),
        _ => None,
    };
    let cause = text("cause")?;
    Some(Finish {
        cause: *Cause::ALL.iter().find(|known| known.name() == cause)?,
        at: DateTime::parse_from_rfc3339(&text("parked-at")?).ok()?.to_utc(),
        ambiguous: header(headers, "x-qris-may-have-taken-effect")? == Scalar::Bool(true),
        parked: true,
        tellings: 0,
        said: Said::default(),
    })
}

fn carried(headers: &FieldTable) -> Carried {
    match header(headers, "x-qris-version") {
        Some(Scalar::Integer(VERSION)) => match progress(headers) {
            Some(progress) => Carried::Progress(Box::new(progress)),
            None if has_words_of_another_version(headers) => foreign(VERSION, headers),
            None => Carried::Damaged,
        },
        Some(Scalar::Integer(version)) => foreign(version, headers),
        _ => Carried::Damaged,
    }
}

fn foreign(version: i64, headers: &FieldTable) -> Carried {
    Carried::Foreign { version, headers: ours(headers) }
}

fn ours(headers: &FieldTable) -> Vec<(String, Scalar)> {
    let ours = headers.inner().keys().filter(|name| name.as_str().starts_with(OURS));
    ours.filter_map(|name| Some((name.as_str().to_owned(), header(headers, name.as_str())?))).collect()
}

/// Whether what is kept as JSON is whole and unknown all the same: a cause or an operation that a later version has added.
fn has_words_of_another_version(headers: &FieldTable) -> bool {
    fn is_unknown<T: DeserializeOwned>(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok() && serde_json::from_str::<T>(text).is_err()
    }
    let is = |name, is_unknown: fn(&str) -> bool| match header(headers, name) {
        Some(Scalar::Text(text)) => is_unknown(&text),
        _ => false,
    };
    is("x-qris-finish", is_unknown::<Finish>) || is("x-qris-history", is_unknown::<History>)
}

fn progress(headers: &FieldTable) -> Option<Progress> {
    let value = |name: &str| header(headers, &format!("{OURS}{name}"));
    let integer = |name| match value(name) {
        Some(Scalar::Integer(number)) => u64::try_from(number).ok(),
        _ => None,
    };
    let text = |name| match value(name) {
        Some(Scalar::Text(text)) => Some(text),
        _ => None,
    };
    let flag = |name| value(name) == Some(Scalar::Bool(true));
    let time = |text: String| Some(DateTime::parse_from_rfc3339(&text).ok()?.to_utc());
    let history: History = serde_json::from_str(&text("history")?).ok()?;
    let finish = match text("finish") {
        Some(finish) => Some(serde_json::from_str(&finish).ok()?),
        None => None,
    };
    let not_after = match text("not-after") {
        Some(limit) => Some(time(limit)?),
        None => None,
    };
    // Flags whose absence would claim something must be there.
    value("ambiguous")?;
    value("query-first")?;
    Some(Progress {
        attempts: u32::try_from(integer("attempts")?).ok()?,
        doubts: u32::try_from(integer("doubts").unwrap_or_default()).ok()?,
        doubted_at: text("doubted-at").and_then(time),
        perhaps_sent: flag("perhaps-sent"),
        denied_in_a_row: u32::try_from(integer("denied-in-a-row").unwrap_or_default()).ok()?,
        waited: Duration::from_millis(integer("waited-ms")?),
        cut_off: Duration::from_millis(integer("cut-off-ms").unwrap_or_default()),
        ambiguous: flag("ambiguous"),
        query_first: flag("query-first"),
        conflict: flag("conflict"),
        first_seen: time(text("first-seen")?)?,
        replay: u32::try_from(integer("replay")?).ok()?,
        not_after,
        history,
        finish,
    })
}

/// A header's value, if it is a scalar.
fn header(headers: &FieldTable, name: &str) -> Option<Scalar> {
    Some(match headers.inner().get(name)? {
        AMQPValue::Boolean(value) => Scalar::Bool(*value),
        AMQPValue::ShortShortInt(value) => Scalar::Integer((*value).into()),
        AMQPValue::ShortShortUInt(value) => Scalar::Integer((*value).into()),
        AMQPValue::ShortInt(value) => Scalar::Integer((*value).into()),
        AMQPValue::ShortUInt(value) => Scalar::Integer((*value).into()),
        AMQPValue::LongInt(value) => Scalar::Integer((*value).into()),
        AMQPValue::LongUInt(value) => Scalar::Integer((*value).into()),
        AMQPValue::LongLongInt(value) => Scalar::Integer(*value),
        AMQPValue::LongString(value) => Scalar::Text(String::from_utf8(value.as_bytes().to_vec()).ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{retry::CallRecord, snap::Operation};
    use proptest::prelude::*;

    fn call(number: u32) -> CallRecord {
        CallRecord {
            number,
            operation: Operation::Cancel,
            at: DateTime::UNIX_EPOCH,
            external_id: Some("1".repeat(36)),
            body_sha256: "a".repeat(64),
            http_status: Some(504),
            response_code: Some("5047700".into()),
            error: Some("interrupted".into()),
            duration_ms: 20_000,
        }
    }

    fn full(message: &str) -> Progress {
        let said = Said {
            response_message: Some(message.chars().take(256).collect()),
            response_code: Some("2007700".into()),
            ..Said::default()
        };
        let mut progress = Progress {
            attempts: 7,
            doubts: 2,
            doubted_at: Some(DateTime::UNIX_EPOCH),
            denied_in_a_row: 4,
            perhaps_sent: true,
            waited: Duration::from_millis(1234),
            cut_off: Duration::from_secs(300),
            ambiguous: true,
            query_first: true,
            conflict: true,
            replay: 1,
            not_after: Some(DateTime::UNIX_EPOCH),
            finish: Some(Finish {
                cause: Cause::Paid,
                at: DateTime::UNIX_EPOCH,
                ambiguous: false,
                parked: true,
                tellings: 3,
                said,
            }),
            ..Progress::new(DateTime::UNIX_EPOCH)
        };
        for number in 1..40 {
            progress.history.push(call(number));
        }
        progress
    }

    fn table(headers: Vec<(String, Scalar)>) -> FieldTable {
        copied(&Properties::default(), headers).headers().clone().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_carried_comes_back(message in ".*") {
            let progress = full(&message);
            let headers = table(of_progress(&progress));
            match carried(&headers) {
                Carried::Progress(back) => prop_assert_eq!(*back, progress),
                other => prop_assert!(false, "{:?}", other),
            }
            // Beyond one frame (128 KiB) the broker closes the connection; half of 64 KiB is ours.
            let size: usize = headers.inner().iter().map(|(name, value)| name.as_str().len() + format!("{value:?}").len()).sum();
            prop_assert!(size < 32 * 1024, "{}", size);
        }
    }

    #[test]
    fn no_count_of_deliveries_is_above_what_the_broker_writes() {
        let count = |headers: &[(&str, Scalar)]| {
            deliveries(&table(headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()))
        };
        let (delivered, acquired) = ("x-delivery-count", "x-acquired-count");
        let number = Scalar::Integer;
        for (headers, expected) in [
            (vec![], 0),
            // RabbitMQ before 4.3 writes the one, 4.3 after a nack the other.
            (vec![(delivered, number(50))], 50),
            (vec![(acquired, number(50))], 50),
            // 4.3 counts fewer deliveries than it has acquired.
            (vec![(delivered, number(2)), (acquired, number(4))], 2),
            // The publisher's beside the broker's, on 4.3 and before.
            (vec![(delivered, number(100)), (acquired, number(1))], 1),
            (vec![(delivered, number(1)), (acquired, number(100))], 1),
            (vec![(delivered, Scalar::Text("100".into())), (acquired, number(3))], 0),
            (vec![(delivered, number(-1)), (acquired, number(3))], 0),
        ] {
            assert_eq!(count(&headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn another_version_is_kept_as_it_is() {
        let ours = vec![
            ("x-qris-version".to_owned(), Scalar::Integer(2)),
            ("x-qris-new".to_owned(), Scalar::Text("x".into())),
        ];
        match carried(&table(ours.clone())) {
            Carried::Foreign { version: 2, mut headers } => {
                headers.sort_by_key(|(name, _)| std::cmp::Reverse(name.clone()));
                assert_eq!(headers, ours);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_later_version_has_decided_waits_for_it_and_what_is_cut_off_is_damaged() {
        let with = |name: &str, from: &str, to: &str| {
            let mut headers = of_progress(&full("x"));
            let (_, Scalar::Text(text)) = headers.iter_mut().find(|(own, _)| own == name).unwrap() else {
                panic!("{name}")
            };
            assert!(text.contains(from), "{text}");
            *text = text.replacen(from, to, 1);
            carried(&table(headers))
        };
        for (name, from) in [("x-qris-finish", "\"paid\""), ("x-qris-history", "\"cancel\"")] {
            let later = with(name, from, "\"unheard_of\"");
            assert!(
                matches!(&later, Carried::Foreign { version: VERSION, headers } if headers.len() > 10),
                "{later:?}"
            );
            assert!(matches!(with(name, from, "\"unheard"), Carried::Damaged), "{name}");
        }
    }

    #[test]
    fn a_lost_header_is_noticed() {
        for (lost, _) in of_progress(&full("x")) {
            let optional = [
                "doubts",
                "doubted-at",
                "denied-in-a-row",
                "perhaps-sent",
                "cut-off-ms",
                "not-after",
                "conflict",
                "finish",
            ];
            if optional.iter().any(|name| lost.ends_with(name)) {
                continue;
            }
            let headers = of_progress(&full("x")).into_iter().filter(|(name, _)| *name != lost).collect();
            assert!(matches!(carried(&table(headers)), Carried::Damaged), "{lost}");
        }
    }

    #[test]
    fn a_literal_direct_reply_to_is_not_copied() {
        let copy =
            |reply_to: &str| copied(&Properties { reply_to: Some(reply_to.into()), ..Properties::default() }, vec![]);
        assert_eq!(copy(DIRECT_REPLY_TO).reply_to(), &None);
        assert!(copy("amq.rabbitmq.reply-to.g1h2").reply_to().is_some());
    }
}
