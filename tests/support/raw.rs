//! Just enough AMQP 0-9-1, byte by byte, to publish what no client library would.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// A `message_id`, whatever its bytes are: property flags and list.
pub fn message_id(bytes: &[u8]) -> (u16, Vec<u8>) {
    (1 << 7, short(bytes))
}

/// More levels than an honest publisher nests, and far fewer than any library's stack holds.
pub const HARMLESS_LEVELS: usize = 100;

/// A header that is a list in a list in a list, so deep.
pub fn nested_header(levels: usize) -> (u16, Vec<u8>) {
    let mut value = Vec::new();
    for _ in 0..levels {
        let inner = long(&value);
        value = vec![b'A'];
        value.extend(inner);
    }
    let mut table = short(b"x");
    table.extend(value);
    (1 << 13, long(&table))
}

/// Publishes a message with these properties.
pub fn publish(url: &str, exchange: &str, routing_key: &str, properties: (u16, Vec<u8>), body: &[u8]) {
    let authority = url.split('@').nth(1).unwrap().split('/').next().unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    read_frame(&mut stream);
    let mut start_ok = vec![0, 0, 0, 0];
    start_ok.extend(short(b"PLAIN"));
    start_ok.extend(long(b"\0guest\0guest"));
    start_ok.extend(short(b"en_US"));
    method(&mut stream, 0, 10, 11, &start_ok);
    read_frame(&mut stream);
    method(&mut stream, 0, 10, 31, &[7, 255, 0, 2, 0, 0, 0, 0]);
    let mut open = short(b"/");
    open.extend([0, 0]);
    method(&mut stream, 0, 10, 40, &open);
    read_frame(&mut stream);
    method(&mut stream, 1, 20, 10, &[0]);
    read_frame(&mut stream);
    method(&mut stream, 1, 85, 10, &[0]);
    read_frame(&mut stream);
    let mut publish = vec![0, 0];
    publish.extend(short(exchange.as_bytes()));
    publish.extend(short(routing_key.as_bytes()));
    publish.push(0);
    method(&mut stream, 1, 60, 40, &publish);
    // Content header: class, weight, size, property flags, properties.
    let mut header = vec![0, 60, 0, 0];
    header.extend((body.len() as u64).to_be_bytes());
    header.extend(properties.0.to_be_bytes());
    header.extend(properties.1);
    frame(&mut stream, 2, 1, &header);
    frame(&mut stream, 3, 1, body);
    let (kind, confirm) = read_frame(&mut stream);
    assert_eq!((kind, &confirm[..4]), (1, &[0, 60, 0, 80][..]), "the broker confirms it");
}

fn method(stream: &mut TcpStream, channel: u16, class: u16, id: u16, arguments: &[u8]) {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend(id.to_be_bytes());
    payload.extend(arguments);
    frame(stream, 1, channel, &payload);
}

fn frame(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.push(0xce);
    stream.write_all(&bytes).unwrap();
}

fn read_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 7];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
    let mut payload = vec![0; length + 1];
    stream.read_exact(&mut payload).unwrap();
    payload.pop();
    (head[0], payload)
}

fn short(text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![text.len() as u8];
    bytes.extend(text);
    bytes
}

fn long(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text);
    bytes
}
