//! Which keys there are, and which one somebody may have meant.

use super::raw::{
    Raw, RawAccount, RawAmqp, RawAmqpTls, RawBreaker, RawHttp, RawLog, RawResultsLog, RawRetry, RawTraces, RawWorker,
};
use serde::de::DeserializeOwned;

/// Stands for an account's name in [`sections`].
pub const ANY: &str = "NAME";

/// Every section with its keys; "" is the file itself.
pub fn sections() -> Vec<(&'static str, Vec<String>)> {
    vec![
        ("", keys::<Raw>()),
        ("amqp", keys::<RawAmqp>()),
        ("amqp.tls", keys::<RawAmqpTls>()),
        ("results_log", keys::<RawResultsLog>()),
        ("http", keys::<RawHttp>()),
        ("log", keys::<RawLog>()),
        ("traces", keys::<RawTraces>()),
        ("worker", keys::<RawWorker>()),
        ("retry", keys::<RawRetry>()),
        ("accounts.NAME", keys::<RawAccount>()),
        ("accounts.NAME.retry", keys::<RawRetry>()),
        ("accounts.NAME.breaker", keys::<RawBreaker>()),
    ]
}

/// The keys of a section, as serde lists them when it meets another.
fn keys<T: DeserializeOwned>() -> Vec<String> {
    toml::from_str::<T>("'?' = 0").err().map(|error| expected(error.message())).unwrap_or_default()
}

/// The names in serde's "expected one of `a`, `b`".
pub fn expected(message: &str) -> Vec<String> {
    let names = message.rsplit_once(", expected ").map_or("", |(_, names)| names);
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Lower case, without what people separate words with: `maxInFlight` is `max_in_flight`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// How many letters differ, where that is few enough for a slip of the pen.
fn slip(name: &str, other: &str) -> Option<usize> {
    let (name, other) = (plain(name), plain(other));
    let distance = strsim::damerau_levenshtein(&name, &other);
    let longest = name.chars().count().max(other.chars().count());
    (distance * 3 <= longest && distance < longest).then_some(distance)
}

/// The candidate that differs least from the name.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slips = candidates.into_iter().filter_map(|other| Some((slip(name, other)?, other)));
    slips.min_by_key(|(distance, _)| *distance).map(|(_, other)| other)
}

/// The candidate that is the same but for case and the like, or one letter.
pub fn same<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest(name, candidates.into_iter().filter(|other| slip(name, other).is_some_and(|distance| distance <= 1)))
}

/// The candidate of which the name is a part in whole words, or the other way round: `secret` of `client_secret`, `grace` of
/// `grace_ms`, `proxy_url` of `proxy`.
pub fn part_of<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    let is_part =
        |other: &&str| format!("_{other}").ends_with(&format!("_{name}")) || other.starts_with(&format!("{name}_"));
    let is_whole = |other: &&str| other.len() > 4 && name.starts_with(&format!("{other}_"));
    let all: Vec<_> = candidates.into_iter().filter(|other| is_part(other) || is_whole(other)).collect();
    let shortest = all.iter().min_by_key(|other| other.len())?;
    // `url` is base_url rather than token_base_url; `key` could be several.
    all.iter().all(|other| other.ends_with(*shortest)).then_some(*shortest)
}

/// Whether there is a key of this name, in any section.
pub fn is_key(name: &str) -> bool {
    sections().iter().any(|(_, keys)| keys.iter().any(|key| key == name))
}

/// Whether a name for a key can have been meant in the key's unit: `timeoutMs` for `timeout_ms`, but not `timeout_s`.
pub fn is_same_unit(name: &str, key: &str) -> bool {
    plain(name) == plain(key) || unit(name) == unit(key)
}

const UNITS: [(&str, &str); 4] = [("ms", "milliseconds"), ("s", "seconds"), ("h", "hours"), ("bytes", "bytes")];

/// The unit of a key that names one at its end.
pub fn unit(key: &str) -> Option<&'static str> {
    let (_, end) = key.rsplit_once('_')?;
    UNITS.iter().find(|(short, _)| *short == end).map(|(_, long)| *long)
}
