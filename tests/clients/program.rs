//! A program in another language as a process, and the folder with what it needs.

use super::HERE;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

/// No line of a program takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// None says more before it ends.
const MAX_LINES: usize = 10_000;

/// Where `scripts/clients ensure` has put Python and Node's packages.
fn folder() -> PathBuf {
    let output = Command::new(format!("{HERE}/scripts/clients")).arg("dir").output().unwrap();
    let folder = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    assert!(folder.join("sdks.sum").exists(), "nothing is there to run the clients with: make test-clients fetches it");
    folder
}

/// A program of examples/ or tests/clients/, by the end of its name.
pub fn command(program: &str) -> Command {
    let path = Path::new(HERE).join(program);
    let mut command = match path.extension().unwrap().to_str().unwrap() {
        "py" => Command::new(folder().join("python/bin/python")),
        _ => Command::new("node"),
    };
    // Node looks for packages beside the program.
    if program.ends_with(".mjs") {
        let packages = folder().join(if program.starts_with("examples/") { "node" } else { "sdks" });
        let copy = packages.join(path.file_name().unwrap());
        std::fs::copy(&path, &copy).unwrap();
        command.arg(copy);
    } else {
        command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
    }
    command
}

pub struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    /// Starts it with this on its standard input.
    pub fn start(mut command: Command, input: &str) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
        // One that is killed takes no more of it.
        std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let (said, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Self { child, lines }
    }

    /// Waits until it has said so many more lines.
    pub fn wait_for_lines(&self, count: usize) -> Vec<String> {
        let line = || self.lines.recv_timeout(LIMIT).expect("it says more");
        (0..count).map(|_| line()).collect()
    }

    /// As a crash does, at whatever it is then.
    pub fn kill(mut self) {
        std::thread::sleep(Duration::from_micros(fastrand::u64(..20_000)));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends well: all that it has said.
    pub fn finish(mut self) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {said:?}"),
            }
            assert!(said.len() < MAX_LINES, "it does not end: {:?}", &said[..20]);
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said:?}");
        said
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// A line in, a line out.
pub fn ask(mut command: Command, argument: &str, lines: &[Value]) -> Vec<Value> {
    command.arg(argument);
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let said = Program::start(command, &input).finish();
    said.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}
