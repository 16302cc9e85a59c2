//! The headers of a message, in the form of NATS: a line with the version, then lines with a name
//! and a value each, then an empty line. The bus sends one header, `traceparent`, and reads no
//! other. Whatever other headers hold, they cost a message nothing.

use crate::trace_parent::{self, TraceParent};

/// The maximum size of the headers of an accepted message, in bytes: ten times as much as this
/// version sends, since a server or a bridge between servers may add its own.
pub(crate) const HEADER_BYTES_MAX: usize = 1_024;

const VERSION: &str = "NATS/1.0";

/// Encodes the headers of an announcement.
pub(crate) fn encode(trace: &TraceParent) -> String {
    format!("{VERSION}\r\n{}: {trace}\r\n\r\n", trace_parent::NAME)
}

/// Returns the place in a trace that the headers of a message tell, if they tell exactly one and it
/// is valid.
pub(crate) fn trace_parent(headers: &[u8]) -> Option<TraceParent> {
    let mut lines = std::str::from_utf8(headers).ok()?.split("\r\n");
    if !lines.next()?.starts_with(VERSION) {
        return None;
    }
    let values = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(trace_parent::NAME)
            .then(|| value.trim_matches([' ', '\t']))
    });
    let mut values = values.fuse();
    match (values.next(), values.next()) {
        (Some(value), None) => value.parse().ok(),
        (_, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parent() -> TraceParent {
        PARENT.parse().unwrap()
    }

    #[test]
    fn one_valid_traceparent_is_read_among_other_headers() {
        for headers in [
            encode(&parent()),
            format!("NATS/1.0\r\ntraceparent:{PARENT}\r\n\r\n"),
            format!("NATS/1.0\r\nTraceParent: \t{PARENT} \r\n\r\n"),
            format!("NATS/1.0\r\nA: b\r\n:\r\nno colon\r\ntraceparent: {PARENT}\r\nC:\r\n\r\n"),
            format!("NATS/1.0 200 OK\r\ntraceparent: {PARENT}\r\n\r\n"),
            // The last lines are missing.
            format!("NATS/1.0\r\ntraceparent: {PARENT}"),
        ] {
            assert_eq!(
                trace_parent(headers.as_bytes()),
                Some(parent()),
                "{headers}"
            );
        }
    }

    #[test]
    fn anything_else_counts_as_no_traceparent() {
        let long = PARENT.repeat(10);
        for headers in [
            "".to_owned(),
            "NATS/1.0\r\n\r\n".to_owned(),
            format!("traceparent: {PARENT}\r\n\r\n"),
            format!("NATS/2.0\r\ntraceparent: {PARENT}\r\n\r\n"),
            format!("NATS/1.0\ntraceparent: {PARENT}\n\n"),
            format!("NATS/1.0\r\ntraceparents: {PARENT}\r\n\r\n"),
            format!("NATS/1.0\r\ntraceparent : {PARENT}\r\n\r\n"),
            format!("NATS/1.0\r\ntraceparent: {PARENT}\r\ntraceparent: {PARENT}\r\n\r\n"),
            format!("NATS/1.0\r\ntraceparent: {PARENT}\r\nTRACEPARENT:\r\n\r\n"),
            format!("NATS/1.0\r\ntraceparent: {long}\r\n\r\n"),
            "NATS/1.0\r\ntraceparent:\r\n\r\n".to_owned(),
            "NATS/1.0\r\ntraceparent: \0\r\n\r\n".to_owned(),
        ] {
            assert_eq!(trace_parent(headers.as_bytes()), None, "{headers:?}");
        }
        let mut not_utf8 = encode(&parent()).into_bytes();
        not_utf8[10] = 0xff;
        assert_eq!(trace_parent(&not_utf8), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = trace_parent(&bytes);
        }

        #[test]
        fn a_changed_byte_leads_to_another_traceparent_or_to_none(at: usize, byte: u8) {
            let mut headers = encode(&parent()).into_bytes();
            let at = at % headers.len();
            headers[at] = byte;
            if let Some(read) = trace_parent(&headers) {
                let again = encode(&read);
                prop_assert_eq!(trace_parent(again.as_bytes()), Some(read));
            }
        }
    }
}
