//! Every bank that is built in, and the one that docs/PROVIDERS.md adds as a file, through the real worker: each cancels a QR that
//! waits, and says of a paid one that it is paid.

mod support;

use qris_cancel_worker::{sandbox, snap::profile::BUILT_IN};
use serde_json::json;
use std::{collections::BTreeMap, fmt::Write, path::Path, time::Duration};
use support::*;

const PAGE: &str = include_str!("../docs/PROVIDERS.md");
const SAMPLE: &str = include_str!("../config.example.toml");

/// A block of the page that holds this.
fn block(language: &str, holds: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let mut blocks = PAGE.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains(holds)).unwrap_or_else(|| panic!("no {language} block holds {holds}"))
}

/// The accounts of the sample beyond ifortepay and bnc, which each place has.
fn other_banks() -> String {
    let text: Vec<_> = SAMPLE.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect();
    let begin = text.iter().position(|line| line.starts_with("# The other banks")).unwrap();
    text[begin..].join("\n")
}

/// Settings as they are printed, for this machine: the sandbox's address, our key, and the secret from a file.
fn at_home(printed: &str, provider: &str, secret: &Path) -> String {
    let mut account = "";
    let mut text = String::new();
    for line in printed.lines() {
        account = line.strip_prefix("[accounts.").map_or(account, |rest| rest.trim_end_matches(']'));
        let key = line.split(" = ").next().unwrap_or_default();
        match key {
            "base_url" => writeln!(text, "base_url = \"{provider}/{account}\""),
            "private_key" => writeln!(text, "private_key = {{ file = \"{KEY}\" }}"),
            "client_key" => writeln!(text, "client_key = \"client\""),
            "client_secret" => writeln!(text, "client_secret = {{ file = {secret:?} }}"),
            _ => writeln!(text, "{line}"),
        }
        .unwrap();
    }
    text
}

const ASPI: &str = r#"
[accounts.aspi]
profile = "aspi"
base_url = ""
client_key = ""
client_secret = ""
partner_id = "P"
channel_id = "00001"
merchant_id = "M"
private_key = ""
"#;

/// A place whose accounts are all of the banks, the page's own among them.
async fn place() -> Place {
    let files = std::env::temp_dir().join(format!("qris-providers-{}", std::process::id()));
    std::fs::create_dir_all(&files).unwrap();
    clean_up_after_us(&["rm", "-rf", files.to_str().unwrap()]);
    std::fs::write(files.join("contoh.toml"), block("toml", "title = \"Bank Contoh\"")).unwrap();
    std::fs::write(files.join("secret"), "rahasia").unwrap();
    let of_page =
        block("toml", "[accounts.contoh]").replace("./contoh.toml", files.join("contoh.toml").to_str().unwrap());
    let printed = format!("{}\n{ASPI}\n{of_page}", other_banks());
    let more = |provider: &str| at_home(&printed, provider, &files.join("secret"));
    Place::with_more(Broker::shared(), sandbox::Options::default(), more).await
}

#[tokio::test]
async fn every_bank_cancels_what_waits_and_tells_of_what_is_paid() {
    let place = place().await;
    let mut banks: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    banks.push("contoh");
    let settings = place.settings();
    let mut names = settings.account_names();
    banks.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, banks, "the sample and the page show an account for each");
    let _worker = place.worker().await;
    let mut check = place.command(&["check", "--connect"]);
    let checked = tokio::task::spawn_blocking(move || check.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    for bank in &banks {
        assert!(said.contains(&format!("ok {bank}: its keys are accepted")), "{bank}: {said}");
    }
    let client = place.client().await;
    let mut events = client.collect().await;
    for bank in &banks {
        let paid = json!({ "account": bank, "originalReferenceNo": "PAID", "state": "paid" });
        place.send("POST", "/_sandbox/transactions", &paid).await;
        for reference in ["WAITS", "PAID"] {
            assert!(client.publish(bank, &command(&format!("{bank}-{reference}"), reference)).await);
        }
    }
    let told = events.wait(2 * banks.len(), Duration::from_secs(30)).await;
    let told: BTreeMap<_, _> =
        told.iter().map(|(_, event)| (event["subject"].as_str().unwrap(), &event["data"])).collect();
    for bank in &banks {
        let of = |reference: &str| told[format!("{bank}-{reference}").as_str()];
        let (canceled, paid) = (of("WAITS"), of("PAID"));
        assert_eq!(
            (&canceled["outcome"], &canceled["cause"]),
            (&json!("canceled"), &json!("canceled")),
            "{canceled:#}"
        );
        assert_eq!((&canceled["provider"], &canceled["originalReferenceNo"]), (&json!(bank), &json!("WAITS")));
        let cancels = canceled["calls"].as_array().unwrap().iter().filter(|call| call["operation"] == "cancel").count();
        assert_eq!(cancels, 1, "{canceled:#}");
        assert_eq!(paid["outcome"], "paid", "{paid:#}");
        assert_eq!(place.transaction(bank, "WAITS").await["state"], "canceled", "{bank}");
        assert_eq!(place.transaction(bank, "PAID").await["state"], "paid", "{bank}");
    }
}

#[tokio::test]
async fn the_pages_bank_is_checked_and_signs_as_its_sample_does() {
    let place = place().await;
    let checked = place.command(&["check"]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.contains("Bank Contoh"), "{said}");
    for bank in ["Midtrans", "Winpay", "DOKU", "Ayolinx"] {
        assert!(said.contains(bank), "check says nothing of {bank}: {said}");
    }

    let printed = block("sh", "sign --account contoh");
    let (line, answer) = printed.split_once("\n# ").unwrap();
    let line = line.replace("qris-cancel-worker", env!("CARGO_BIN_EXE_qris-cancel-worker"));
    let signed = |line: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", line]).env("QRIS_CANCEL_CONFIG", &place.config).output().unwrap()
    };
    let same = signed(&line);
    let said = String::from_utf8_lossy(&same.stdout);
    assert!(same.status.success() && said.contains(answer.trim()), "{said}{}", String::from_utf8_lossy(&same.stderr));
    let other = signed(&line.replace("customer left", "customer  left"));
    assert_eq!(other.status.code(), Some(1), "a signature of another body is another one");
}
