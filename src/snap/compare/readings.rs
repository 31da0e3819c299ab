//! The bytes that a written signature can stand for.

use super::Mistake;
use crate::snap::profile::Encoding;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};

/// One way to read a signature.
pub struct Reading {
    pub bytes: Vec<u8>,
    /// Unless it is written as the profile says.
    pub mistake: Option<Mistake>,
}

/// Every way that works, the right one first.
pub fn read(text: &str, right: Encoding) -> Vec<Reading> {
    let hex = |text: &str| hex::decode(text).ok();
    let base64 = |text: &str| STANDARD.decode(text).ok();
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    let unbroken: String = text.split_whitespace().collect();
    let to_base64 = Some("signature = \"base64\" in the profile's [signing]");
    let to_hex = Some("signature = \"hex\" in the profile's [signing]");
    let plain = |encoding, name, mend| match encoding == right {
        true => None,
        false => Some(Mistake { name, mend }),
    };
    let other = |name| Some(Mistake { name, mend: None });
    let ways = [
        (hex(text).filter(|_| lower), plain(Encoding::Hex, "a signature in hexadecimal instead of base64", to_hex)),
        (base64(text), plain(Encoding::Base64, "a signature in base64 instead of hexadecimal", to_base64)),
        (hex(text).filter(|_| !lower), other("a signature in upper-case hexadecimal")),
        (STANDARD_NO_PAD.decode(text).ok(), other("base64 without its = at the end")),
        (
            URL_SAFE.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok(),
            other("URL-safe base64 (- and _ for + and /)"),
        ),
        (percent_decoded(text).and_then(|text| base64(&text)), other("URL-encoded base64 (%2B, %2F, %3D)")),
        (base64(&text.replace(' ', "+")), other("base64 whose + became spaces, as URL decoding does")),
        (base64(&unbroken), other("base64 broken into lines")),
        (
            base64(text).and_then(|bytes| hex(std::str::from_utf8(&bytes).ok()?)),
            other("base64 of the hexadecimal text instead of the bytes"),
        ),
    ];
    let mut readings: Vec<Reading> = Vec::new();
    for (bytes, mistake) in ways {
        let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { continue };
        if readings.iter().all(|known| known.bytes != bytes) {
            readings.push(Reading { bytes, mistake });
        }
    }
    readings.sort_by_key(|reading| reading.mistake.is_some());
    readings
}

/// `None` if nothing in it is encoded.
fn percent_decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut decoded = pieces.next()?.to_owned();
    let mut any = false;
    for piece in pieces {
        let byte = u8::from_str_radix(piece.get(..2)?, 16).ok().filter(u8::is_ascii)?;
        decoded.push(char::from(byte));
        decoded.push_str(&piece[2..]);
        any = true;
    }
    any.then_some(decoded)
}
