//! docker-compose.yml and Dockerfile, as far as they can be checked without a Docker engine; with one, the image is built.

use super::{
    HERE,
    prometheus::free_port,
    read, rules,
    support::{exchange, exchange_json, until},
};
use serde_json::{Map, Value};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const OURS: &str = "qris-cancel-worker:local";

fn schemas(arguments: &[&str]) -> String {
    let script = Command::new("scripts/schemas").args(arguments).current_dir(HERE).output().unwrap();
    let said = String::from_utf8([script.stdout, script.stderr].concat()).unwrap();
    assert!(script.status.success(), "scripts/schemas {arguments:?}:\n{said}");
    said
}

fn services() -> Map<String, Value> {
    let compose: Value = serde_json::from_str(&schemas(&["json", "docker-compose.yml"])).unwrap();
    compose["services"].as_object().unwrap().clone()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

/// The values of an instruction of the Dockerfile.
fn instructions<'a>(dockerfile: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    dockerfile.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '))
}

#[test]
fn the_compose_file_and_the_dashboards_are_what_their_schemas_say() {
    schemas(&["check"]);
}

#[test]
fn images_are_pinned() {
    let (services, dockerfile) = (services(), read("Dockerfile"));
    let images = services.values().map(|service| service["image"].as_str().unwrap()).filter(|image| *image != OURS);
    let images: Vec<_> = images.chain(instructions(&dockerfile, "FROM")).collect();
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
    let dockerfile = read("Dockerfile");
    let our_user = instructions(&dockerfile, "USER").last().expect("the image has a user");
    let mut published = 0;
    for (name, service) in services() {
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
            published += 1;
        }
        let network = service["network_mode"].as_str();
        assert!(network.is_none_or(|mode| mode == "service:loopback"), "{name} has the network {network:?}");
        assert!(service["privileged"].is_null() && service["cap_add"].is_null(), "{name}");
        // RabbitMQ's begins as root, makes its folder its own, and goes on as its own user.
        if name == "rabbitmq" {
            continue;
        }
        let user = service["user"].as_str().or((service["image"] == OURS).then_some(our_user));
        let user = user.unwrap_or_else(|| panic!("{name}: nobody knows as whom it runs"));
        assert!(user.split(':').next().unwrap().parse::<u32>().is_ok_and(|id| id > 0), "{name} runs as {user}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
    }
    assert!(published >= 6);
}

/// Two that build one image get in each other's way; and whoever shares a network has to find it again when another starts anew.
#[test]
fn one_service_builds_the_image_and_one_that_never_ends_owns_the_shared_network() {
    let services = services();
    let ours: Vec<_> = services.iter().filter(|(_, service)| service["image"] == OURS).collect();
    assert_eq!(ours.len(), 2);
    for (name, service) in ours {
        let builds = !service["build"].is_null();
        assert_eq!(builds, name == "worker", "{name}");
        assert!(builds || service["pull_policy"] == "never" && service["depends_on"]["worker"].is_object(), "{name}");
        assert_eq!(service["network_mode"], "service:loopback", "{name}");
        assert!(service["ports"].is_null(), "{name}: its network's owner publishes ports");
    }
    let owner = &services["loopback"];
    assert!(texts(&owner["networks"]["default"]["aliases"]).contains(&"worker"), "Prometheus knows it as worker");
    let command = texts(&owner["command"]);
    let mut child = Command::new("busybox").args(&command).stdout(Stdio::null()).spawn().or_else(|_| {
        // Where there is no busybox, the system's own.
        Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).spawn()
    });
    let child = child.as_mut().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "{command:?} ends");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_mounted_is_there() {
    let mut mounted = 0;
    for (name, service) in services() {
        for mount in texts(&service["volumes"]).into_iter().filter(|mount| mount.starts_with("./")) {
            let (file, options) = mount.split_once(':').unwrap();
            assert!(Path::new(HERE).join(file).exists(), "{name}: {file} is not there");
            assert!(options.ends_with(":ro"), "{name}: {mount} can be written to");
            mounted += 1;
        }
    }
    assert!(mounted >= 6);
}

/// What .dockerignore lets into the image, copied to an empty folder.
fn context() -> tempfile::TempDir {
    let ignore = read(".dockerignore");
    assert!(ignore.lines().any(|line| line == "*"));
    let context = tempfile::tempdir().unwrap();
    for path in ignore.lines().filter_map(|line| line.strip_prefix('!')) {
        let target = context.path().join(path);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-r").arg(Path::new(HERE).join(path)).arg(&target).status().unwrap();
        assert!(copied.success(), "{path}");
    }
    context
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true if path.ends_with("tests") => {}
            true => sources(&path, found),
            false => found.extend(path.extension().is_some_and(|end| end == "rs").then_some(path)),
        }
    }
}

/// .dockerignore lets into the image what cargo needs, and nothing that could be a secret.
#[test]
fn the_image_is_built_of_what_cargo_needs() {
    let context = context();
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
    // What the program is made of, beside its modules; their tests are not in it.
    let (mut files, mut included) = (vec![], 0);
    sources(&context.path().join("src"), &mut files);
    for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for macro_name in ["include_str!(", "include_bytes!("] {
            for rest in code.split(macro_name).skip(1) {
                let path = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                let path = path.unwrap_or_else(|| panic!("{}: which file?", file.display()));
                let path = file.parent().unwrap().join(path);
                assert!(path.exists(), "the build context lacks {}", path.display());
                included += 1;
            }
        }
    }
    assert!(included > 0, "the profiles are included");
}

/// The whole way.
#[test]
#[ignore = "needs a Docker engine: `make test-image`"]
fn the_image_is_built_and_runs() {
    let run = |arguments: &[&str]| {
        let output = Command::new("docker").args(arguments).current_dir(HERE).output();
        let output =
            output.unwrap_or_else(|error| panic!("docker {arguments:?}: {error}; this test needs a Docker engine"));
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["build", "-t", OURS, "."]);
    let version = run(&["run", "--rm", "--read-only", "--network", "none", OURS, "--version"]);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
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
    let (targets, services) = (read("dashboards/prometheus/prometheus.yml"), services());
    for service in ["worker", "rabbitmq"] {
        assert!(targets.contains(&format!("[{service}:")) && services.contains_key(service));
    }
}

/// With somebody else's broker, of which it has no figures, the demo's Prometheus does not cry for them.
#[tokio::test]
async fn the_demo_has_the_alerts_that_it_can_have() {
    let all: BTreeSet<_> = rules::alerts().into_iter().map(|alert| alert.name).collect();
    for (broker, without) in [("", vec!["QrisCancelBrokerUnseen"]), ("127.0.0.1:1", vec![])] {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port().to_string());
        let mut prometheus = Command::new("scripts/prometheus")
            .args(["run", dir.path().to_str().unwrap(), &port, "127.0.0.1:1", broker])
            .current_dir(HERE)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (address, rules) = (format!("127.0.0.1:{port}"), "/api/v1/rules?type=alert");
        until("the demo's Prometheus has its rules", Duration::from_secs(30), || {
            Box::pin(async {
                let listens = tokio::net::TcpStream::connect(&address).await.is_ok();
                listens && exchange(&address, "GET", rules, "").await.contains("QrisCancelWorkerDown")
            })
        })
        .await;
        let answer = exchange_json(&format!("http://{address}"), rules).await;
        let groups = answer["data"]["groups"].as_array().unwrap().iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
        let there: BTreeSet<_> = rules.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect();
        let missing: Vec<_> = all.difference(&there).collect();
        prometheus.kill().unwrap();
        prometheus.wait().unwrap();
        assert_eq!(missing, without.iter().collect::<Vec<_>>(), "with {broker:?}");
    }
}
