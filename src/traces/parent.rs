//! A `traceparent` of W3C Trace Context, read. Pure.

/// The span that a message was published in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent<'a> {
    /// 32 digits.
    pub trace_id: &'a str,
    /// 16 digits.
    pub span_id: &'a str,
    /// Whoever published it records the trace.
    pub sampled: bool,
}

impl<'a> Parent<'a> {
    /// `None` for what the standard calls invalid: then a trace begins anew.
    pub fn read(traceparent: &'a str) -> Option<Self> {
        let mut fields = traceparent.split('-');
        let (version, trace_id) = (hex(fields.next()?, 2)?, hex(fields.next()?, 32)?);
        let (span_id, flags) = (hex(fields.next()?, 16)?, hex(fields.next()?, 2)?);
        // A later version may add fields.
        let too_many = version == "00" && fields.next().is_some();
        let is_none = |id: &str| id.bytes().all(|b| b == b'0');
        if version == "ff" || too_many || is_none(trace_id) || is_none(span_id) {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Some(Self { trace_id, span_id, sampled })
    }
}

/// So many digits, letters in lower case.
fn hex(text: &str, length: usize) -> Option<&str> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (text.len() == length && text.bytes().all(is_digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_good_one_is_read() {
        for (version, flags, sampled) in
            [("00", "01", true), ("00", "00", false), ("00", "ff", true), ("00", "02", false), ("cc", "01", true)]
        {
            let text = format!("{version}-{TRACE}-{SPAN}-{flags}");
            assert_eq!(Parent::read(&text), Some(Parent { trace_id: TRACE, span_id: SPAN, sampled }), "{text}");
        }
        assert!(Parent::read(&format!("cc-{TRACE}-{SPAN}-01-more")).is_some(), "of a later version");
    }

    #[test]
    fn a_bad_one_is_none() {
        let (no_trace, no_span, loud) = ("0".repeat(32), "0".repeat(16), TRACE.to_uppercase());
        for text in [
            String::new(),
            "-".into(),
            "0".repeat(55),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{no_trace}-{SPAN}-01"),
            format!("00-{TRACE}-{no_span}-01"),
            format!("00-{loud}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!(" 00-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(Parent::read(&text), None, "{text}");
        }
    }
}
