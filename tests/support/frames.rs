//! AMQP frames as they pass a relay: found, counted, held, renumbered.

use super::relay::Direction;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
};

/// How often each job's command was delivered again.
pub type Redeliveries = Arc<Mutex<BTreeMap<String, u64>>>;

/// A frame that publishes to this exchange.
pub fn publishes_to(exchange: String) -> impl Fn(Direction, &[u8]) -> bool {
    move |direction, frame| {
        direction == Direction::Out
            && is_method(frame, 60, 40)
            && frame.get(13).is_some_and(|length| frame.get(14..14 + usize::from(*length)) == Some(exchange.as_bytes()))
    }
}

/// A frame that acknowledges: the worker a command, or the broker a publish.
pub fn acknowledges(from: Direction) -> impl Fn(Direction, &[u8]) -> bool {
    move |direction, frame| direction == from && is_method(frame, 60, 80)
}

/// A frame with a part of a message that is delivered, with this in it.
pub fn delivers(text: &'static [u8]) -> impl Fn(Direction, &[u8]) -> bool {
    move |direction, frame| {
        direction == Direction::In && frame[0] == 3 && frame.windows(text.len()).any(|window| window == text)
    }
}

/// A frame that declares or binds something, and the frame's text.
pub fn declares(direction: Direction, frame: &[u8]) -> Option<String> {
    let methods = [(40, 10), (40, 30), (50, 10), (50, 20)];
    let declares =
        direction == Direction::Out && methods.iter().any(|(class, method)| is_method(frame, *class, *method));
    declares.then(|| String::from_utf8_lossy(&frame[11..]).into_owned())
}

/// The worker's answer to a broker that ends the connection.
pub fn notes_the_end(direction: Direction, frame: &[u8]) -> bool {
    direction == Direction::Out && is_method(frame, 10, 51)
}

/// How a broker ends a connection over a fault of its own: 541 INTERNAL_ERROR.
pub fn internal_error() -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 50];
    payload.extend(541_u16.to_be_bytes());
    payload.extend(b"\x0eINTERNAL_ERROR");
    payload.extend([0; 4]);
    let mut frame = vec![1, 0, 0];
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    frame
}

fn is_method(frame: &[u8], class: u8, method: u8) -> bool {
    frame.first() == Some(&1) && frame.get(7..11) == Some(&[0, class, 0, method])
}

/// Follows the frames of one direction of a connection.
pub struct Frames {
    direction: Direction,
    incomplete: Vec<u8>,
    /// Whether what is delivered now on a channel was delivered before.
    redelivers: BTreeMap<[u8; 2], bool>,
    redeliveries: Redeliveries,
}

impl Frames {
    pub fn new(direction: Direction, redeliveries: Redeliveries) -> Self {
        Self { direction, incomplete: Vec::new(), redelivers: BTreeMap::new(), redeliveries }
    }

    /// How many of the last bytes belong to a frame that is not there as a whole.
    pub fn incomplete(&self) -> usize {
        self.incomplete.len()
    }

    /// Follows the frames that these bytes complete: how many of the bytes come before one that is to be held.
    pub fn follow(&mut self, bytes: &[u8], is_held: impl Fn(&[u8]) -> bool) -> Option<usize> {
        let before = self.incomplete.len();
        let mut rest = std::mem::take(&mut self.incomplete);
        rest.extend_from_slice(bytes);
        let mut at = if rest.starts_with(b"AMQP") { 8.min(rest.len()) } else { 0 };
        let mut held_at = None;
        while let Some(head) = rest.get(at..at + 7) {
            let length = 8 + u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let Some(frame) = rest.get(at..at + length) else { break };
            if is_held(frame) {
                held_at = Some(at.saturating_sub(before));
                break;
            }
            self.count(frame);
            at += length;
        }
        rest.drain(..at);
        // No AMQP frame is so long: this is another protocol.
        if held_at.is_none() && rest.len() > 1 << 20 {
            rest.clear();
        }
        self.incomplete = rest;
        held_at
    }

    fn count(&mut self, frame: &[u8]) {
        if self.direction != Direction::In {
            return;
        }
        let channel = [frame[1], frame[2]];
        if is_method(frame, 60, 60) {
            // The consumer's tag, the delivery's number, and then it is said.
            let flag = frame.get(20 + usize::from(frame[11]));
            self.redelivers.insert(channel, flag == Some(&1));
        } else if frame[0] == 3 && self.redelivers.remove(&channel) == Some(true) {
            let body: Option<Value> = serde_json::from_slice(&frame[7..frame.len() - 1]).ok();
            if let Some(job) = body.as_ref().and_then(|body| body["jobId"].as_str()) {
                *self.redeliveries.lock().unwrap().entry(job.to_owned()).or_default() += 1;
            }
        }
    }
}

/// Makes a worker out of one that writes version `ours` of its headers one that writes version `theirs`, and reads both.
pub fn renumber(bytes: &mut [u8], direction: Direction, ours: i64, theirs: i64) {
    const NAME: &[u8] = b"\x0ex-qris-versionl";
    let (from, to) = if direction == Direction::Out { (ours, theirs) } else { (theirs, ours) };
    let names = bytes.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let values: Vec<Range<usize>> = names.map(|(at, _)| at + NAME.len()..at + NAME.len() + 8).collect();
    for range in values {
        if let Some(value) = bytes.get_mut(range).filter(|value| **value == from.to_be_bytes()) {
            value.copy_from_slice(&to.to_be_bytes());
        }
    }
}
