//! docker-compose.yml and Dockerfile, as far as they can be checked without a Docker engine.

use super::{HERE, read};
use std::{path::Path, process::Command};

fn lines_of<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.split(" #").next().unwrap().trim().strip_prefix(key))
}

/// What stands in quotes or behind a dash in a list of one line or of several.
fn items<'a>(text: &'a str, is_one: impl Fn(&str) -> bool + 'a) -> Vec<&'a str> {
    let lines = text.lines().map(|line| line.split(" #").next().unwrap());
    let words = lines.flat_map(|line| line.split(['[', ']', ',', '"', ' '])).filter(|word| is_one(word));
    words.collect()
}

#[test]
fn images_are_pinned() {
    let (compose, dockerfile) = (read("docker-compose.yml"), read("Dockerfile"));
    let ours = "qris-cancel-worker:local";
    let images: Vec<_> =
        lines_of(&compose, "image: ").filter(|image| *image != ours).chain(lines_of(&dockerfile, "FROM ")).collect();
    assert!(images.len() >= 7, "{images:?}");
    for image in images {
        let image = image.split(' ').next().unwrap();
        let version = image.split_once('@').map(|(_, digest)| digest).or(image.rsplit_once(':').map(|(_, tag)| tag));
        let version = version.unwrap_or_else(|| panic!("{image} has no version"));
        let is_release = version.trim_start_matches('v').split('-').next().unwrap().split('.').count() == 3;
        assert!(is_release || version.starts_with("sha256:"), "{image} may be another one tomorrow");
    }
    let rust = read("Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().to_owned();
    assert!(
        dockerfile.contains(&format!("FROM rust:{}.", rust.trim_matches('"'))),
        "built with another Rust than promised"
    );
}

#[test]
fn nothing_listens_beyond_this_machine_and_nothing_is_root() {
    let compose = read("docker-compose.yml");
    let published: Vec<_> = lines_of(&compose, "ports: ").collect();
    assert!(published.len() >= 4);
    for ports in published {
        for port in items(ports, |word| word.contains(':')) {
            assert!(port.starts_with("127.0.0.1:"), "{port}");
        }
    }
    assert!(!compose.contains("ports:\n"), "ports are told in one line, where this test sees them");
    assert!(
        lines_of(&compose, "network_mode: ").all(|mode| mode == "service:worker") && !compose.contains("privileged:")
    );
    assert!(read("Dockerfile").contains("\nUSER 65532:65532\n"));
}

#[test]
fn what_is_mounted_is_there() {
    let compose = read("docker-compose.yml");
    let mounts = items(&compose, |word| word.starts_with("./"));
    assert!(mounts.len() >= 6, "{mounts:?}");
    for mount in mounts {
        let (file, options) = mount.split_once(':').unwrap();
        assert!(Path::new(HERE).join(file).exists(), "{file} is not there");
        assert!(options.ends_with(":ro"), "{mount} can be written to");
    }
}

/// .dockerignore lets into the image what cargo needs, and nothing that could be a secret.
#[test]
fn the_image_is_built_of_what_cargo_needs() {
    let ignore = read(".dockerignore");
    let let_in: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"));
    let context = tempfile::tempdir().unwrap();
    for path in let_in {
        let target = context.path().join(path);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-r").arg(Path::new(HERE).join(path)).arg(&target).status().unwrap();
        assert!(copied.success(), "{path}");
    }
    let metadata = ["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(metadata).current_dir(context.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Cargo builds nothing while something that its manifest names is missing.
    let metadata = String::from_utf8(output.stdout).unwrap();
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    for target in ["bench", "test"].iter().flat_map(|kind| manifest[*kind].as_array().unwrap()) {
        let name = target["name"].as_str().unwrap();
        assert!(metadata.contains(&format!("\"name\":\"{name}\"")), "the build context lacks {name}");
    }
    // What the program is made of, beside its modules.
    assert!(!read("src/lib.rs").contains("include_str!(\"../"));
}

/// The stack's worker can read its settings.
#[test]
fn the_stacks_settings_are_good() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("worker.toml"), read("dashboards/stack/worker.toml")).unwrap();
    std::fs::copy(super::support::KEY, dir.path().join("key.pem")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_qris-cancel-worker"))
        .args(["check", "--config"])
        .arg(dir.path().join("worker.toml"))
        .env("AMQP_URL", "amqp://guest:guest@rabbitmq:5672/%2f")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let targets = read("dashboards/prometheus/prometheus.yml");
    for service in ["worker", "rabbitmq"] {
        assert!(
            targets.contains(&format!("[{service}:"))
                && read("docker-compose.yml").contains(&format!("\n  {service}:\n"))
        );
    }
}
