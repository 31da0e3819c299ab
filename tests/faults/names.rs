//! Names that cannot be resolved for a while. The worker has files for them of its own, in a mount namespace.

use super::*;
use std::{path::Path, process::Command};

const TOPIC: &str = "network";
/// A name to which plain HTTP is allowed; the worker's own file says where it is.
const NAME: &str = "localhost";

/// The files by which a worker resolves names.
struct Resolver<'a>(&'a Path);

impl Resolver<'_> {
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn knows(&self, known: bool) {
        self.write("hosts", if known { "127.0.0.1 localhost\n" } else { "" });
    }

    /// What a worker is started by to use them: in a user namespace of its own, or as root without one.
    ///
    /// # Panics
    /// Where that right is missing.
    fn inside(&self) -> Vec<String> {
        self.write("nsswitch.conf", "hosts: files dns\n");
        // Nobody answers there, as when the network to the name server is down.
        self.write("resolv.conf", "nameserver 127.255.255.254\noptions timeout:1 attempts:1\n");
        self.knows(true);
        let mounts: String = ["hosts", "nsswitch.conf", "resolv.conf"]
            .map(|name| format!("mount --bind {} /etc/{name} && ", self.0.join(name).display()))
            .concat();
        let mut refused = Vec::new();
        let inside = [["-r", "-m"], ["-m", "--"]].into_iter().find_map(|rights| {
            let mut line: Vec<_> = ["unshare"].into_iter().chain(rights).map(str::to_owned).collect();
            line.extend(["sh".into(), "-c".into(), format!("{mounts}exec \"$0\" \"$@\"")]);
            match Command::new(&line[0]).args(&line[1..]).arg("true").output() {
                Ok(tried) if tried.status.success() => return Some(line),
                Ok(tried) => refused.push(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
                Err(error) => refused.push(error.to_string()),
            }
            None
        });
        inside.unwrap_or_else(|| {
            panic!(
                "this test needs a mount namespace, as in `unshare -r -m true`: allow user namespaces, run it as root, or leave it out \
                 by `cargo test --test faults -- --skip names::` ({refused:?})"
            )
        })
    }
}

async fn a_name_is_gone(fault: &str, rename: impl FnOnce(&mut Rig), cut: impl Fn(&Rig), is_of_provider: bool) {
    let mut rig = Rig::with(Broker::shared(), calm(), "", resting_as_usual).await;
    rename(&mut rig);
    let folder = rig.place.dir.path().to_owned();
    let resolver = Resolver(&folder);
    rig.place.inside = resolver.inside();
    let worker = rig.worker().await;
    rig.pause().await;
    let unknown = worker.metric(UNKNOWN).await;
    resolver.knows(false);
    cut(&rig);
    rig.start_trickle("nameless");
    rig.lasts(s(4), minutes(10)).await;
    assert_eq!(told_of(&rig, "nameless"), 0, "the name is not known");
    assert_eq!(worker.metric(UNKNOWN).await, unknown, "nothing was sent, and that is known");
    resolver.knows(true);
    let recovered = if is_of_provider { rig.back_at_the_next_trial(None).await } else { rig.back().await };
    let account = rig.end(TOPIC, fault, Some(recovered)).await;
    assert_eq!(account.outcomes.keys().collect::<Vec<_>>(), ["canceled"], "{account}");
    assert_eq!(account.unrecorded, 0, "{account}");
}

/// How many commands of one trickle have been told of.
fn told_of(rig: &Rig, trickle: &str) -> usize {
    let book = rig.ledger.book();
    book.events.iter().filter(|event| event["data"]["jobId"].as_str().unwrap().starts_with(trickle)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_providers_name_is_gone_for_a_while() {
    let rename = |rig: &mut Rig| {
        for relay in [&rig.ifortepay, &rig.bnc] {
            let (address, port) = (relay.address.to_string(), relay.address.port());
            rig.change(|settings| settings.replace(&address, &format!("{NAME}:{port}")));
        }
    };
    let cut = |rig: &Rig| [&rig.ifortepay, &rig.bnc].into_iter().for_each(Relay::cut);
    a_name_is_gone("Provider: its name cannot be resolved (DNS gone)", rename, cut, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_name_is_gone_for_a_while() {
    let rename = |rig: &mut Rig| rig.place.url = rig.place.url.replace("@127.0.0.1:", &format!("@{NAME}:"));
    a_name_is_gone("Broker: its name cannot be resolved (DNS gone)", rename, |rig| rig.to_broker.cut(), false).await;
}
