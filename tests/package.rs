//! The worker as a service: what it tells the service manager, its unit, and the Debian package that brings both.

mod support;

use qris_cancel_worker::sandbox;
use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use support::*;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_qris-cancel-worker");
const SOON: Duration = Duration::from_secs(30);

/// Reads what the service manager is told until that holds, and returns all of it.
fn told_until(manager: &UnixDatagram, holds: impl Fn(&str) -> bool) -> Vec<String> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < SOON * 2, "it is not said: {all:?}");
        let len = manager.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}, after {all:?}"));
        all.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
        if holds(all.last().unwrap()) {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_how_it_stands() {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let socket = place.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let relay = relay::Relay::start(place.url.split_once('@').unwrap().1.split('/').next().unwrap()).await;
    let (before, after) = place.url.split_once('@').unwrap();
    let url = format!("{before}@{}/{}", relay.address, after.split_once('/').unwrap().1);
    let mut command = place.command(&["run"]);
    command.env("AMQP_URL", url).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1500000");
    let child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut worker = Worker { child, log: place.config.clone() };

    let told = told_until(&manager, |line| line.contains("STATUS=consuming"));
    assert!(told[0].contains("READY=1"), "{told:?}");
    assert!(told[1..].iter().all(|line| line.contains("WATCHDOG=1")), "{told:?}");
    relay.set(relay::Way::Cut);
    told_until(&manager, |line| line.contains("STATUS=there is no connection to the broker"));
    relay.set(relay::Way::Pass);
    told_until(&manager, |line| line.contains("STATUS=consuming"));
    worker.signal("-TERM");
    told_until(&manager, |line| line.contains("STOPPING=1"));
    assert!(worker.child.wait().unwrap().success());
}

fn ran(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "{command:?}: {error}. These tests need systemd-analyze and dpkg-deb (packages systemd and dpkg); leave them out by \
             `cargo test --test package -- --skip the_unit --skip the_package`"
        )
    });
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{said}");
    format!("{out}{said}")
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_is_shut_in() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("qris-cancel-worker.service");
    let text = read(Path::new(HERE).join("packaging/qris-cancel-worker.service"));
    std::fs::write(&unit, text.replace("/usr/bin/qris-cancel-worker", PROGRAM)).unwrap();
    let said = ran(Command::new("systemd-analyze").arg("verify").arg(&unit));
    // Sixteen accounts at a bank that hangs take more than systemd gives unless told; a core dump would hold keys.
    assert!(text.contains("\nLimitNOFILE=65536\n") && text.contains("\nLimitCORE=0\n"), "{text}");
    // Other units of the machine may be faulty.
    assert!(!said.contains("qris-cancel-worker"), "{said}");
    let rated = ran(Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&unit));
    let rating =
        rated.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{rated}"));
    let rating: f64 = rating.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(rating < 2.0, "systemd calls 10 unsafe and 2 safe: {rated}");
}

#[test]
fn the_package_brings_program_unit_and_completions() {
    let dir = tempfile::tempdir().unwrap();
    let build = Command::new("scripts/package")
        .arg(PROGRAM)
        .current_dir(HERE)
        .env("CARGO_TARGET_DIR", dir.path())
        .envs([("DPKG_DEB_COMPRESSOR_TYPE", "gzip"), ("DPKG_DEB_COMPRESSOR_LEVEL", "1")])
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let package = PathBuf::from(String::from_utf8(build.stdout).unwrap().trim());
    let field = |name: &str| ran(Command::new("dpkg-deb").arg("-f").arg(&package).arg(name)).trim().to_owned();
    assert_eq!(field("Version"), format!("{}-1", env!("CARGO_PKG_VERSION")));
    assert!(field("Depends").contains("libc6 (>= 2."), "{}", field("Depends"));
    let root = dir.path().join("root");
    ran(Command::new("dpkg-deb").arg("-R").arg(&package).arg(&root));
    let version = ran(Command::new(root.join("usr/bin/qris-cancel-worker")).arg("--version"));
    assert_eq!(version.trim(), concat!("qris-cancel-worker ", env!("CARGO_PKG_VERSION")));
    for file in [
        "lib/systemd/system/qris-cancel-worker.service",
        "usr/lib/sysusers.d/qris-cancel-worker.conf",
        "usr/share/doc/qris-cancel-worker/config.example.toml",
        "usr/share/doc/qris-cancel-worker/docs/RUNBOOK.md",
        "usr/share/bash-completion/completions/qris-cancel-worker",
        "usr/share/zsh/vendor-completions/_qris-cancel-worker",
    ] {
        assert!(std::fs::metadata(root.join(file)).is_ok_and(|file| file.len() > 0), "{file}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        ran(Command::new("sh").arg("-n").arg(root.join("DEBIAN").join(script)));
    }
    let listed = ran(Command::new("dpkg-deb").arg("-c").arg(&package));
    let secrets = listed.lines().find(|line| line.ends_with("./etc/qris-cancel-worker/secrets/")).unwrap();
    assert!(secrets.starts_with("drwx------ root/root"), "{secrets}");
}
