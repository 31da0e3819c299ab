//! Broken settings files, one by one: what whoever wrote them is told. `tests/settings/NAME.toml` is the file, and
//! `tests/settings/snapshots/` holds every answer.

use proptest::{prelude::*, test_runner::RngSeed};
use qris_cancel_worker::settings::Settings;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const SAMPLE: &str = include_str!("../config.example.toml");
const BROKEN_PROFILE: &str = include_str!("settings/profiles/broken.toml");

/// A folder with the files that the settings name.
fn base() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    let keys = base.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let key = std::fs::read(Path::new(HERE).join("tests/vectors/midtrans-public-sample-key.pem")).unwrap();
    for name in ["key", "ifortepay", "bnc", "midtrans", "winpay", "doku", "ayolinx"].map(|name| format!("{name}.pem")) {
        std::fs::write(keys.join(name), &key).unwrap();
    }
    let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    let params = rcgen::CertificateParams::new(["settings.example".to_owned()]).unwrap();
    let own = rcgen::KeyPair::from_pem(std::str::from_utf8(&key).unwrap()).unwrap();
    let certificate = params.self_signed(&own).unwrap().pem();
    let others = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    for (name, text) in [
        ("certificate.pem", certificate),
        ("others.pem", others),
        ("damaged.pem", pem("CERTIFICATE")),
        ("public.pem", pem("PUBLIC KEY")),
        ("empty.pem", String::new()),
    ] {
        std::fs::write(keys.join(name), text).unwrap();
    }
    std::fs::write(base.path().join("broken-profile.toml"), BROKEN_PROFILE).unwrap();
    base
}

fn environment(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let usual = [
        ("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"),
        ("BNC_CLIENT_KEY", "key"),
        ("MIDTRANS_CLIENT_KEY", "key"),
        ("MIDTRANS_CLIENT_SECRET", "TOPSECRET"),
        ("DOKU_SECRET_KEY", "TOPSECRET"),
        ("AYOLINX_CLIENT_KEY", "key"),
        ("AYOLINX_CLIENT_SECRET", "TOPSECRET"),
        ("SECRET", "TOPSECRET"),
        ("HEADERS", "api-key=TOPSECRET,x=1"),
        ("NO_HEADERS", "TOPSECRET and nothing else"),
        ("TWO_LINES", "TOPSECRET\nTOPSECRET"),
        ("EMPTY", ""),
    ];
    usual.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn told(text: &str, more: &[(&str, &str)], base: &Path) -> Option<String> {
    Settings::read("worker.toml", text, &environment(more), base).err().map(|error| error.to_string())
}

#[test]
fn every_mistake_of_a_broken_file_is_told_at_once() {
    let base = base();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("settings/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut names: Vec<_> = std::fs::read_dir(Path::new(HERE).join("tests/settings"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 40, "{names:?}");
    let mut several = 0;
    for name in names {
        let text = std::fs::read_to_string(Path::new(HERE).join(format!("tests/settings/{name}.toml"))).unwrap();
        let overrides: &[_] = match name.as_str() {
            "overrides" => &OVERRIDES,
            "overrides_of_a_misspelt_section" => &[
                ("QRIS_CANCEL__ACCOUNTS__BNC__MAX_IN_FLIGHT", "5"),
                ("QRIS_CANCEL__METRICS__PORT", "9000"),
                ("QRIS_CANCEL__METRICS__HOST", "localhost"),
            ],
            _ => &[],
        };
        let told = told(&text, overrides, base.path()).unwrap_or_else(|| panic!("{name} passed"));
        assert!(!told.contains("TOPSECRET"), "{name} shows a secret:\n{told}");
        assert!(!told.contains(base.path().to_str().unwrap()), "{name} shows a temporary path:\n{told}");
        let lines: Vec<_> = told.lines().collect();
        let unique: BTreeSet<_> = lines.iter().collect();
        assert_eq!(unique.len(), lines.len(), "{name} says something twice:\n{told}");
        several += usize::from(lines.len() >= 3);
        settings.bind(|| insta::assert_snapshot!(name, told));
    }
    assert!(several >= 15, "only {several} files have three mistakes or more");
}

/// A platform sets them for all that runs there.
#[test]
fn variables_for_traces_that_are_no_good_are_told_and_stop_nothing() {
    let base = base();
    let usual = "[amqp]\nurl = { env = \"AMQP_URL\" }\n[accounts.shop]\nprofile = \"ifortepay\"\nbase_url = \"https://bank.example\"\n\
                 partner_id = \"p\"\nprivate_key = { file = \"keys/key.pem\" }\n";
    let endpoint = "[traces]\nendpoint = \"http://collector.example/v1/traces\"\n";
    let of_both = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"];
    for (section, [address, headers], told) in [
        ("", ["collector:4318", "Bearer TOPSECRET"], &of_both[..]),
        ("", ["grpc://collector:4317", ""], &of_both[..1]),
        ("", ["https://me:TOPSECRET@collector.example", ""], &of_both[..1]),
        ("", ["http://collector.example", "key=TOPSECRET"], &of_both[..1]),
        (endpoint, ["", "key=TOPSECRET"], &of_both[1..]),
        (endpoint, ["", "TOPSECRET"], &of_both[1..]),
        ("", ["https://collector.example", "key=TOPSECRET"], &[]),
        ("[traces]\nendpoint = \"\"\n", ["collector:4318", "TOPSECRET"], &[]),
    ] {
        let environment = environment(&[(of_both[0], address), (of_both[1], headers)]);
        let settings = Settings::read("worker.toml", &format!("{usual}{section}"), &environment, base.path());
        let settings = settings.unwrap_or_else(|error| panic!("{address}: {error}"));
        let variables: BTreeSet<_> = settings.no_traces.iter().map(|no| no.split(' ').next().unwrap()).collect();
        assert_eq!(variables, told.iter().copied().collect(), "{address} {headers}");
        assert!(!settings.no_traces.join("").contains("TOPSECRET"), "{:?}", settings.no_traces);
        assert_eq!(settings.traces.is_some(), told.is_empty() && !section.contains("\"\""), "{address} {headers}");
    }
}

/// What goes with `overrides.toml`.
const OVERRIDES: [(&str, &str); 14] = [
    ("QRIS_CANCEL__RETRY__MAX_ATEMPTS", "5"),
    ("QRIS_CANCEL__RETRY__INITIAL_MS", "soon"),
    ("QRIS_CANCEL__WORKER__GRACE_MS", "3600000"),
    ("QRIS_CANCEL__AMQP__URL", "amqp://me:TOPSECRET@rabbit"),
    ("QRIS_CANCEL__AMQP__DECLARE", "yes"),
    ("QRIS_CANCEL__ACCOUNTS__BNC__ORIGN", "www.example.co.id"),
    ("QRIS_CANCEL__ACCOUNTS__BNC__STATE", "pausd"),
    ("QRIS_CANCEL__ACCOUNTS__BNC__PARTNER_ID", "1234"),
    ("QRIS_CANCEL__ACCOUNTS__BNK__MAX_IN_FLIGHT", "5"),
    ("QRIS_CANCEL__ACCOUNTS__OTHER__STATE", "paused"),
    ("QRIS_CANCEL__LOG", "debug"),
    ("QRIS_CANCEL__HTTP__LISTEN__PORT", "9000"),
    ("QRIS_CANCEL__", "5"),
    ("QRIS_CANCEL__MAX_IN_FLIGHT", "5"),
];

/// The sample with all that is commented out in it, and its files.
fn whole_sample() -> (String, tempfile::TempDir) {
    let base = base();
    for (from, to) in [
        ("certificate.pem", "bnc-ca.pem"),
        ("certificate.pem", "client-cert.pem"),
        ("key.pem", "client-key.pem"),
        ("certificate.pem", "broker-ca.pem"),
        ("certificate.pem", "broker-cert.pem"),
        ("key.pem", "broker-key.pem"),
    ] {
        std::fs::copy(base.path().join("keys").join(from), base.path().join("keys").join(to)).unwrap();
    }
    std::fs::write(base.path().join("keys/bnc-secret"), "secret").unwrap();
    std::fs::write(base.path().join("keys/collector-headers"), "api-key=secret").unwrap();
    let text = SAMPLE.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    (text, base)
}

fn is_key(line: &str) -> bool {
    !line.starts_with('#') && line.contains(" = ")
}

#[test]
fn the_sample_with_all_it_shows_is_good() {
    let (text, base) = whole_sample();
    let amqps = [("AMQP_URL", "amqps://guest:guest@127.0.0.1:5671/%2f")];
    assert_eq!(told(&text, &amqps, base.path()), None);
}

proptest! {
    // The same damage each time: by chance a secret could become a key, which is shown.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..ProptestConfig::default() })]

    /// However a file is damaged, reading ends, and no secret is shown.
    #[test]
    fn no_damage_is_too_much(
        start in 0..4_000_usize,
        length in 0..60_usize,
        by in "[\\[\\]{}\"'=:#,. \na-z0-9_$\\\\-]{0,12}",
        again in 0..4_000_usize,
    ) {
        let (text, base) = whole_sample();
        let text = text.replace("{ env = \"BNC_CLIENT_KEY\" }", "\"TOPSECRET\"").replace("{ file = \"keys/bnc-secret\" }", "\"TOPSECRET\"");
        let mut damaged: Vec<char> = text.chars().collect();
        for at in [start, again] {
            let at = at.min(damaged.len());
            damaged.splice(at..(at + length).min(damaged.len()), by.chars());
        }
        let told = told(&damaged.into_iter().collect::<String>(), &[], base.path()).unwrap_or_default();
        prop_assert!(!told.contains("TOPSECRET"), "{told}");
    }

    /// Whatever becomes of one key, reading ends, and a complaint is about that key or its section.
    #[test]
    fn any_key_removed_misspelt_or_of_another_type_is_told(
        which in 0..1_000_usize,
        how in 0..5_usize,
        at in 0..40_usize,
        letter in "[a-z_]",
        value in prop::sample::select(vec!["5", "-1", "1.5", "true", "\"\"", "\"x\"", "[1]", "{ a = 1 }", "1979-05-27", "zz", "\"", "[", "{", ""]),
    ) {
        let (text, base) = whole_sample();
        let amqps = [("AMQP_URL", "amqps://guest:guest@127.0.0.1:5671/%2f")];
        let keys: Vec<_> = text.lines().enumerate().filter(|(_, line)| is_key(line)).map(|(at, _)| at).collect();
        let changed = keys[which % keys.len()];
        let line = text.lines().nth(changed).unwrap();
        let (key, old) = line.split_once(" = ").unwrap();
        let at = at % key.len();
        let new = match how {
            0 => String::new(),
            1 => format!("{}{} = {old}", &key[..at], &key[at + 1..]),
            2 => format!("{}{letter}{} = {old}", &key[..at], &key[at..]),
            3 => format!("{}{letter}{} = {old}", &key[..at], &key[at + 1..]),
            _ => format!("{key} = {value}"),
        };
        let section = text.lines().take(changed).filter(|line| line.starts_with('[')).last().unwrap();
        let section = section.split(']').next().unwrap().trim_start_matches('[');
        let broken = text.lines().enumerate().map(|(at, line)| if at == changed { &new } else { line });
        let broken = broken.collect::<Vec<_>>().join("\n");
        let told = told(&broken, &amqps, base.path());
        let is_misspelt = (1..4).contains(&how) && new != line;
        prop_assert!(told.is_some() || !is_misspelt, "{line} -> {new} is taken as it stands");
        if let Some(told) = told {
            let place = format!("worker.toml:{}: ", changed + 1);
            let about = |line: &str| line.starts_with(&place) || line.contains(key) || line.contains(&format!(" {section}"));
            prop_assert!(told.lines().all(about), "{line} -> {new}:\n{told}");
        }
    }
}
