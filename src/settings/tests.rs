use super::*;

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/midtrans-public-sample-key.pem");

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let usual = [
        ("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"),
        ("IPV6_URL", "amqps://guest:hunter2@[2001:db8::5]:5671"),
        ("SECRET", "hunter2"),
    ];
    usual.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(text: &str, overrides: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::read("worker.toml", text, &environment(overrides), Path::new("."))
}

fn good() -> String {
    format!(
        r#"
[amqp]
url = {{ env = "AMQP_URL" }}

[accounts.ifortepay]
profile = "ifortepay"
base_url = "https://api-stage.ifortepay.id/"
partner_id = "IFP2024067944"
private_key = {{ file = "{KEY}" }}
"#
    )
}

#[test]
fn good_settings_are_filled_with_defaults() {
    let settings = read(&good(), &[]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(settings.amqp.prefix, "qris.cancel");
    assert_eq!(settings.results_log.unwrap().max_bytes, 5_000_000_000);
    let account = &settings.accounts[0];
    assert_eq!(account.policy, Policy::default());
    assert_eq!(account.max_in_flight, 64);
    assert_eq!(account.partner.base_url, "https://api-stage.ifortepay.id");
    assert_eq!(account.partner.cancel.path, "/v1.0/qr/qr-mpm-cancel");
    assert_eq!(account.partner.cancel.signed_path, "/v1.0/qr/qr-mpm-cancel");
    assert_eq!(account.partner.ids.channel_id.as_deref(), Some("QR004"));
}

#[test]
fn the_sample_file_is_complete_and_good() {
    let sample = include_str!("../../config.example.toml");
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("keys")).unwrap();
    for name in ["ifortepay.pem", "bnc.pem"] {
        std::fs::copy(KEY, base.path().join("keys").join(name)).unwrap();
    }
    let environment = environment(&[("BNC_CLIENT_KEY", "key")]);
    let settings =
        Settings::read("config.example.toml", sample, &environment, base.path()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(settings.account_names(), ["bnc", "ifortepay"]);
    // What is commented out in it is good as well, and every key that there is stands in it.
    let uncommented: String =
        sample.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let table: toml::Table = toml::from_str(&uncommented).unwrap_or_else(|e| panic!("{e}"));
    let keys = |section: &str| table[section].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys("amqp"),
        ["confirm_timeout_ms", "connect_timeout_ms", "declare", "prefix", "reply_to_allow", "tls", "url"]
    );
    assert_eq!(keys("retry").len(), 7);
    let account = &table["accounts"]["bnc"].as_table().unwrap();
    let mentioned: usize = account.len();
    assert_eq!(
        mentioned,
        31,
        "a key of an account is missing in the sample, or new: {:?}",
        account.keys().collect::<Vec<_>>()
    );
    let accounts = table["accounts"].as_table().unwrap();
    for (bank, _) in crate::snap::profile::BUILT_IN.iter().filter(|(name, _)| *name != "aspi") {
        assert_eq!(accounts[*bank]["profile"].as_str(), Some(*bank), "the sample shows no account at {bank}");
    }
}

#[test]
fn the_environment_overrides_any_key() {
    let overrides = [
        ("QRIS_CANCEL__RETRY__MAX_ATTEMPTS", "5"),
        ("QRIS_CANCEL__AMQP__PREFIX", "team.cancel"),
        ("QRIS_CANCEL__ACCOUNTS__IFORTEPAY__MAX_IN_FLIGHT", "7"),
        // Texts all the same.
        ("QRIS_CANCEL__ACCOUNTS__IFORTEPAY__MIN_TLS", "1.2"),
        ("QRIS_CANCEL__ACCOUNTS__IFORTEPAY__CLIENT_KEY", "1234567890"),
        ("QRIS_CANCEL__ACCOUNTS__IFORTEPAY__RETRY__INITIAL_MS", "250"),
        ("QRIS_CANCEL__RESULTS_LOG__ENABLED", "false"),
    ];
    let settings = read(&good(), &overrides).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(settings.amqp.prefix, "team.cancel");
    assert!(settings.results_log.is_none());
    let account = &settings.accounts[0];
    assert_eq!((account.max_in_flight, account.policy.max_attempts), (7, 5));
    assert_eq!(account.policy.initial, Duration::from_millis(250));

    let error = read(&good(), &[("QRIS_CANCEL__RETRY__MAX_ATEMPTS", "5")]).err().unwrap().to_string();
    assert!(
        error.contains("QRIS_CANCEL__RETRY__MAX_ATEMPTS") && error.contains("did you mean max_attempts"),
        "{error}"
    );
}

/// Settings with one mistake each: what is replaced by what, and what the error must hold.
#[test]
fn each_mistake_is_named_with_its_place() {
    let key_line = format!("private_key = {{ file = \"{KEY}\" }}");
    let table: &[(&str, &str, &[&str])] = &[
        ("[amqp]", "[amqq]", &["amqq"]),
        (
            "url = { env = \"AMQP_URL\" }",
            "url = \"amqp://guest:hunter2@localhost\"",
            &["worker.toml:3", "does not stand in the settings"],
        ),
        ("[amqp]", "[amqp]\nreply_to_allow = [\"qris.cancel.parked\"]", &["amqp.reply_to_allow", "not match our own"]),
        ("[amqp]", "[amqp]\nreply_to_allow = [\"orders.*\", \"qris.*\"]", &["amqp.reply_to_allow", "qris.*"]),
        ("{ env = \"AMQP_URL\" }", "{ env = \"NOPE\" }", &["worker.toml:3", "amqp.url", "NOPE is not set"]),
        ("{ env = \"AMQP_URL\" }", "{ env = \"SECRET\" }", &["amqp.url", "no AMQP address"]),
        ("{ env = \"AMQP_URL\" }", "{ env = \"IPV6_URL\" }", &["amqp.url", "IPv6", "give the broker a name"]),
        ("profile = \"ifortepay\"", "profile = \"ifortpay\"", &["worker.toml:6", "no built-in profile", "bnc"]),
        ("profile = \"ifortepay\"", "profile = \"./no.toml\"", &["accounts.ifortepay.profile", "cannot be read"]),
        ("https://api-stage.ifortepay.id/", "http://api-stage.ifortepay.id", &["worker.toml:7", "must be https"]),
        ("https://api-stage.ifortepay.id/", "api-stage.ifortepay.id", &["base_url"]),
        ("https://api-stage.ifortepay.id/", "https://user:pw@x.id", &["must not hold a user"]),
        ("partner_id = \"IFP2024067944\"", "", &["accounts.ifortepay.partner_id", "is missing", "X-PARTNER-ID"]),
        ("partner_id", "partnerid", &["worker.toml:8", "partnerid"]),
        (&key_line, "", &["accounts.ifortepay.private_key", "is missing"]),
        (&key_line, "private_key = { file = \"/nope.pem\" }", &["worker.toml:9", "/nope.pem cannot be read"]),
        (&key_line, "private_key = { env = \"SECRET\" }", &["worker.toml:9", "SECRET", "no RSA private key"]),
        ("[accounts.ifortepay]", "[accounts.IFP]", &["accounts.IFP", "lower-case"]),
        ("partner_id", "max_in_flight = 0\npartner_id", &["max_in_flight", "at least 1"]),
        ("partner_id", "timeout_ms = 100\npartner_id", &["timeout_ms", "longer than"]),
        ("partner_id", "signing_mode = \"symmetric\"\npartner_id", &["token_base_url", "client_secret", "client_key"]),
        ("partner_id", "cancel_path = \"v1/cancel\"\npartner_id", &["cancel_path", "must start with /"]),
        (
            &key_line,
            &format!("{key_line}\n[accounts.ifortepay.retry]\ninitial_ms = 5"),
            &["worker.toml:11", "retry.initial_ms", "250"],
        ),
        ("profile = \"ifortepay\"", "profile = \"bnc\"", &["cancel_path", "does not publish", "origin", "client_key"]),
    ];
    for (what, by, expected) in table {
        let text = good().replacen(what, by, 1);
        assert_ne!(text, good(), "{what} is not in the good settings");
        let error = read(&text, &[]).err().unwrap_or_else(|| panic!("{what} -> {by} passed")).to_string();
        for part in *expected {
            assert!(error.contains(part), "{what} -> {by}: {part:?} is not in:\n{error}");
        }
        assert!(!error.contains("hunter2"), "shows a secret: {error}");
    }
}

#[test]
fn a_profile_can_be_a_file_beside_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("mine.toml"),
        include_str!("../snap/profiles/aspi.toml").replace("\"aspi\"", "\"mine\""),
    )
    .unwrap();
    let text = good().replace(
        "profile = \"ifortepay\"",
        "profile = \"./mine.toml\"\nclient_key = \"k\"\nchannel_id = \"1\"\nclient_secret = { env = \"SECRET\" }",
    );
    let settings =
        Settings::read("worker.toml", &text, &environment(&[]), dir.path()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(settings.accounts[0].partner.profile.name, "mine");
}
