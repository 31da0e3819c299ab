//! Real processes that Prometheus watches: a RabbitMQ with its plugins, two workers, and order services that publish.

use super::{
    prometheus::{Prometheus, free_port},
    support::*,
};
use lapin::{options::*, types::FieldTable};
use qris_cancel_worker::{amqp::topology::Names, sandbox};
use std::{process::Command, sync::Mutex, time::Duration};
use tokio::task::JoinHandle;

/// Those of tests/support, and one for each thing that can befall an account.
const ACCOUNTS: [&str; 5] = ["ifortepay", "bnc", "paced", "shut", "waiting"];
const SOON: Duration = Duration::from_secs(60);
/// A command that is parked, which the runbook's commands are about.
pub const PARKED_JOB: &str = "parked-typo";
const PREFIX: &str = "qris.cancel";

/// The processes go before the files that they write.
pub struct Stage {
    pub workers: Vec<Worker>,
    pub prometheus: Prometheus,
    pub client: Client,
    /// The good settings, and those of the second worker, which a test may spoil.
    pub places: [Place; 2],
    /// What the workers listen on.
    pub pages: [String; 2],
    load: JoinHandle<()>,
    pub broker: OwnBroker,
}

impl Stage {
    pub async fn set() -> Self {
        let broker = Broker::own_with_plugins("rabbitmq_prometheus,rabbitmq_management,rabbitmq_shovel");
        let pages = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
        let first = Place::with_more(&broker, sandbox::Options::default(), more_accounts).await;
        let places = [place(&first, &pages[0]), place(&first, &pages[1])];
        let client = places[0].client().await;
        // The queues are there with the first worker; the reply queue has to be before its first event.
        let declared =
            places[0].command(&["topology", "declare"]).stdout(std::process::Stdio::null()).status().unwrap();
        assert!(declared.success());
        bind_reader(&client).await;
        let workers: Vec<_> = places.iter().map(Place::worker_unready).collect();
        for worker in &workers {
            worker.wait_for_log("\"consuming\"", Duration::from_secs(60)).await;
        }
        let prometheus = Prometheus::start(&pages, &plugin(&broker)).await;
        let load = tokio::spawn(publish_on_and_on(places[0].client().await));
        Self { workers, prometheus, client, places, pages, load, broker }
    }

    pub fn plugin(&self) -> String {
        plugin(&self.broker)
    }

    /// Types a command of the runbook.
    pub fn type_in(&self, command: &str, account: &str) {
        let tools = self.places[0].dir.path();
        let worker = tools.join("qris-cancel-worker");
        if !worker.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_qris-cancel-worker"), worker).unwrap();
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");
            let ctl = format!("#!/bin/sh\nexec {script} ctl {} \"$@\"\n", self.broker.dir().display());
            std::fs::write(tools.join("rabbitmqctl"), ctl).unwrap();
            assert!(Command::new("chmod").arg("+x").arg(tools.join("rabbitmqctl")).status().unwrap().success());
            // An answer that says no is none that the runbook means.
            std::fs::write(tools.join(".curlrc"), "fail\n").unwrap();
        }
        // It would go on until Ctrl-C.
        let is_watch = command.starts_with("qris-cancel-worker watch");
        let command = if is_watch { format!("timeout -s INT 3 {command}") } else { command.to_owned() };
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", &format!("PATH={}:$PATH\n{command}", tools.display())])
            .env("CURL_HOME", tools)
            .env("QRIS_CANCEL_CONFIG", &self.places[0].config)
            .env("AMQP_URL", &self.places[0].url)
            .env("WORKER", format!("http://{}", self.pages[0]))
            .env("RABBITMQ", format!("http://guest:guest@127.0.0.1:{}", self.broker.port("MANAGEMENT_PORT")))
            .env("PID", self.workers[0].child.id().to_string())
            .env("ACCOUNT", account)
            .env("JOB", PARKED_JOB);
        // On a busy machine a check can take longer than a provider is given: then it is typed again.
        for left in (0..3).rev() {
            // The providers answer in this process.
            let output = tokio::task::block_in_place(|| shell.output()).unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            let may_say_nothing = is_watch || command.starts_with("kill") || command.contains("-X DELETE");
            let is_good = output.status.success() || is_watch && output.status.code() == Some(124);
            if is_good && (may_say_nothing || !said.is_empty()) {
                return;
            }
            assert!(left > 0, "{command}: {}\n{said}", output.status);
        }
    }

    /// A queue as an account leaves it that was taken out of the settings, and a command in it.
    pub async fn leave_an_account_behind(&self, account: &str) {
        let queue = self.client.names.commands_of(account);
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), text("quorum"));
        self.client.channel.queue_declare(queue.as_str().into(), durable, quorum).await.unwrap();
        for exchange in [self.client.names.commands(), self.client.names.due()] {
            let options = QueueBindOptions::default();
            let bound = self.client.channel.queue_bind(
                queue.as_str().into(),
                exchange.into(),
                account.into(),
                options,
                FieldTable::default(),
            );
            bound.await.unwrap();
        }
        assert!(self.client.publish(account, &command("left-behind", "LEFT")).await);
    }

    /// Publishes a command a second, as the stack of containers does.
    pub fn start_the_stacks_load(&self) -> std::process::Child {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboards/stack/load.sh");
        let management = format!("http://guest:guest@127.0.0.1:{}", self.broker.port("MANAGEMENT_PORT"));
        Command::new("sh").arg(script).env("RABBITMQ", management).spawn().unwrap()
    }

    /// What the runbook's commands deal with: parked commands, an account that was left behind, an event that nobody has read.
    pub async fn leave_something_to_do(&self) {
        self.leave_an_account_behind("left").await;
        let mut typo = command(PARKED_JOB, "R-typo");
        typo["reasn"] = "x".into();
        assert!(self.client.publish("ifortepay", &typo).await);
        let mut late = command("parked-late", "R-late");
        late["notAfter"] = "2026-01-01T00:00:00+07:00".into();
        assert!(self.client.publish("ifortepay", &late).await);
        assert!(self.client.publish_raw("", &self.client.names.unrouted(), b"{}", persistent()).await);
        let parked = self.client.names.parked();
        until("two commands are parked", SOON, || Box::pin(async { self.client.depth(&parked).await == 2 })).await;
    }

    /// What the runbook's commands have done: the event was moved, one of the parked commands is gone, and what was left behind lies
    /// where it was.
    pub async fn has_been_done(&self) {
        let names = &self.client.names;
        for (queue, left) in [(names.commands_of("left"), 1), (names.unrouted(), 0), (names.parked(), 1)] {
            until(&format!("{left} messages are in {queue}"), SOON, || {
                let queue = &queue;
                Box::pin(async move { self.client.depth(queue).await == left })
            })
            .await;
        }
        let options = QueueDeleteOptions::default();
        self.client.channel.queue_delete(names.commands_of("left").into(), options).await.unwrap();
    }

    pub async fn bind_reader_again(&self) {
        bind(&self.client, "orders.results").await;
        // Whoever they were for has seen to it otherwise.
        let options = QueuePurgeOptions::default();
        self.client.channel.queue_purge(self.client.names.unrouted().into(), options).await.unwrap();
    }

    /// The provider is well again, the second worker's settings are good, and nothing is left of the accounts that are gone.
    pub async fn mend(&mut self, gone: &[&str]) {
        for account in ["ifortepay", "shut"] {
            let none = serde_json::json!({ "faults": null, "account": account });
            self.places[0].send("PUT", "/_sandbox/faults", &none).await;
        }
        let good = read(&self.places[0].config).replace(&self.pages[0], &self.pages[1]);
        self.restart_second(|_| good).await;
        for account in gone {
            let options = QueueDeleteOptions::default();
            self.client.channel.queue_delete(self.client.names.commands_of(account).into(), options).await.unwrap();
        }
    }

    pub async fn unbind_reader(&self) {
        let names = &self.client.names;
        let (queue, exchange) = ("orders.results".into(), names.results().into());
        self.client.channel.queue_unbind(queue, exchange, "#".into(), FieldTable::default()).await.unwrap();
    }

    /// A consumer's queue that refuses every event. With room for some, RabbitMQ lets one slip in now and then.
    pub async fn bind_a_queue_that_refuses(&self) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), lapin::types::AMQPValue::LongInt(0));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        self.client.channel.queue_declare("orders.full".into(), durable, arguments).await.unwrap();
        bind(&self.client, "orders.full").await;
    }

    pub async fn delete_the_queue_that_refuses(&self) {
        self.client.channel.queue_delete("orders.full".into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// Starts the second worker anew, with its settings changed; it need not work yet.
    pub async fn restart_second(&mut self, change: impl FnOnce(String) -> String) {
        self.workers[1].kill();
        let text = change(read(&self.places[1].config));
        std::fs::write(&self.places[1].config, text).unwrap();
        self.workers[1] = self.places[1].worker_unready();
        self.workers[1].wait_for_log("metrics and status are served", Duration::from_secs(60)).await;
    }

    /// Waits until the retry buckets are empty: an event that was refused is published again after minutes, and counts then.
    pub async fn until_no_retry_waits(&self) {
        let buckets: Vec<_> =
            (0..15).map(|k| self.client.names.bucket_for(Duration::from_millis(250 << k)).0).collect();
        until("no retry waits", Duration::from_secs(360), || {
            let (client, buckets) = (&self.client, &buckets);
            Box::pin(async move {
                for bucket in buckets {
                    if client.depth(bucket).await > 0 {
                        return false;
                    }
                }
                true
            })
        })
        .await;
    }

    /// Messages that no worker can read, strays that a consumer keeps in its hands, a bucket that dead-letters nowhere, and commands
    /// of a version that nobody has. The strays stay until the consumer is dropped.
    pub async fn let_messages_stand_still(&self) -> (Client, lapin::Consumer) {
        let (client, names) = (&self.client, &self.client.names);
        assert!(client.publish_raw(&names.unreadable(), "waiting", b"{}", persistent()).await);

        let holding = self.places[0].client().await;
        let (strays, options) = (names.strays(), BasicConsumeOptions::default());
        let consuming = holding.channel.basic_consume(strays.into(), "".into(), options, FieldTable::default());
        let consumer = consuming.await.unwrap();
        for n in 0..20 {
            assert!(client.publish("nobody", &command(&format!("held-{n}"), "R")).await);
        }

        let (bucket, _) = names.bucket_for(Duration::from_secs(2));
        client.channel.queue_delete(bucket.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        client
            .channel
            .queue_declare(bucket.as_str().into(), durable, headers(&[("x-queue-type", text("quorum"))]))
            .await
            .unwrap();
        let (queue, exchange) = (bucket.as_str().into(), bucket.as_str().into());
        let bound =
            client.channel.queue_bind(queue, exchange, "".into(), QueueBindOptions::default(), FieldTable::default());
        bound.await.unwrap();
        for _ in 0..40 {
            assert!(client.publish_raw(&bucket, "waiting", b"{}", persistent()).await);
        }

        // Each comes again after half a minute to a minute: so many that one comes all the time.
        let (bucket, _) = names.bucket_for(Duration::from_millis(250));
        let version = headers(&[("x-qris-version", lapin::types::AMQPValue::LongLongInt(99))]);
        for n in 0..200 {
            let foreign = persistent().with_headers(version.clone()).with_expiration("250".into());
            assert!(client.publish_raw(&bucket, "waiting", format!("{{\"n\":{n}}}").as_bytes(), foreign).await);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        (holding, consumer)
    }

    pub fn stop_load(&self) {
        self.load.abort();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.load.abort();
    }
}

fn plugin(broker: &Broker) -> String {
    format!("127.0.0.1:{}", broker.port("PROMETHEUS_PORT"))
}

fn more_accounts(provider: &str) -> String {
    let account = |name: &str, more: &str| {
        format!(
            "[accounts.{name}]\nprofile = \"ifortepay\"\nbase_url = \"{provider}/{name}\"\npartner_id = \"IFP2024067944\"\n\
             private_key = {{ file = \"{KEY}\" }}\ntimeout_ms = 2_000\nconnect_timeout_ms = 1_000\nbreaker = {{ initial_ms = 250, max_ms = 1_000 }}\n{more}\n"
        )
    };
    account("paced", "max_requests_per_second = 50.0")
        + &account("shut", "state = \"active\"")
        + &account("waiting", "")
}

/// One with the usual prefix, which the rules know, whose worker serves its pages there.
fn place(like: &Place, page: &str) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("worker.toml");
    let text = read(&like.config).replace(&like.prefix, PREFIX).replace("127.0.0.1:0", page);
    // Longer than an answer takes that comes byte by byte: it is late, and yet good.
    let text = text.replace("\ntimeout_ms = 2_000", "\ntimeout_ms = 20_000");
    std::fs::write(&config, text).unwrap();
    let (url, provider) = (like.url.clone(), like.provider.clone());
    let (names, inside, broker, workers) = (Names::new(PREFIX), Vec::new(), like.broker.clone(), Mutex::default());
    Place { dir, url, names, prefix: PREFIX.into(), config, provider, inside, broker, workers }
}

/// An order service's queue for results, with somebody who reads it.
async fn bind_reader(client: &Client) {
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    client.channel.queue_declare("orders.results".into(), durable, FieldTable::default()).await.unwrap();
    bind(client, "orders.results").await;
}

async fn bind(client: &Client, queue: &str) {
    let (results, options) = (client.names.results(), QueueBindOptions::default());
    client.channel.queue_bind(queue.into(), results.into(), "#".into(), options, FieldTable::default()).await.unwrap();
}

/// Some ten commands a second, over all accounts, as long as the broker lets it.
async fn publish_on_and_on(client: Client) {
    for (n, account) in ACCOUNTS.iter().cycle().enumerate() {
        let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap();
        let properties = persistent().with_timestamp(now);
        let command = command(&format!("load-{n}"), &format!("LOAD{n}")).to_string();
        client.publish_raw(&client.names.commands(), account, command.as_bytes(), properties).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A provider that is down, and whose clock is wrong by years.
pub async fn provider_of_another_time() -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 16_384];
                // Whatever it asks.
                let _asked = stream.read(&mut request).await?;
                let answer = "HTTP/1.1 503 Service Unavailable\r\ndate: Wed, 01 Jan 2020 00:00:00 GMT\r\n\
                              content-length: 0\r\nconnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).await
            });
        }
    });
    format!("http://{address}")
}
