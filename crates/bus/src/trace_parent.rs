//! [`TraceParent`]: the place in a trace that the sender of an announcement has, as the header
//! `traceparent` of W3C's Trace Context (level 1) tells it. The bus carries it beside the message
//! and gives it no meaning. A text that is not valid is as good as none.

use std::fmt;
use std::str::FromStr;

/// The name of the header.
pub(crate) const NAME: &str = "traceparent";

/// The length of the text of version 00.
const LEN: usize = 55;

/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// The place of a span in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    is_sampled: bool,
}

/// A text that is no `traceparent`, or ids that consist of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// Creates the place of the span `span_id` in the trace `trace_id`.
    ///
    /// # Errors
    /// Returns an error if an id consists of zeros, which stands for none.
    pub fn new(
        trace_id: [u8; 16],
        span_id: [u8; 8],
        is_sampled: bool,
    ) -> Result<Self, InvalidTraceParent> {
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(InvalidTraceParent);
        }
        Ok(Self {
            trace_id,
            span_id,
            is_sampled,
        })
    }

    /// Returns the id of the trace.
    #[must_use]
    pub const fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// Returns the id of the span.
    #[must_use]
    pub const fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Returns whether the span is recorded.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.is_sampled
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            u128::from_be_bytes(self.trace_id),
            u64::from_be_bytes(self.span_id),
            u8::from(self.is_sampled)
        )
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    /// Accepts what the recommendation says to accept: version 00 as it is, and of later versions
    /// the parts that version 00 has.
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let (known, later) = text.split_at_checked(LEN).ok_or(InvalidTraceParent)?;
        let mut parts = known.split('-');
        let mut part = || parts.next().ok_or(InvalidTraceParent);
        let [version] = bytes(part()?)?;
        let (trace_id, span_id) = (bytes(part()?)?, bytes(part()?)?);
        let [flags] = bytes(part()?)?;
        let has_more = parts.next().is_some();
        let is_known_version = match version {
            0 => later.is_empty(),
            0xff => false,
            _ => later.is_empty() || later.starts_with('-'),
        };
        if has_more || !is_known_version {
            return Err(InvalidTraceParent);
        }
        Self::new(trace_id, span_id, flags & SAMPLED != 0)
    }
}

/// Reads bytes from exactly as many pairs of hexadecimal digits, in lower case.
fn bytes<const N: usize>(digits: &str) -> Result<[u8; N], InvalidTraceParent> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return Err(InvalidTraceParent);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

fn digit(digit: u8) -> Result<u8, InvalidTraceParent> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(InvalidTraceParent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_recommendation_is_read_and_written() {
        let parent: TraceParent = EXAMPLE.parse().unwrap();
        assert_eq!(parent.to_string(), EXAMPLE);
        assert!(parent.is_sampled());
        assert_eq!(parent.trace_id()[..2], [0x0a, 0xf7]);
        assert_eq!(parent.span_id()[7], 0x31);
        let unsampled: TraceParent = EXAMPLE.replace("-01", "-00").parse().unwrap();
        assert!(!unsampled.is_sampled());
        // Other flags mean nothing in version 00.
        let flags: TraceParent = EXAMPLE.replace("-01", "-fe").parse().unwrap();
        assert_eq!(flags, unsampled);
    }

    #[test]
    fn a_later_version_may_have_more_parts() {
        for text in [
            EXAMPLE.replacen("00", "01", 1),
            EXAMPLE.replacen("00", "cc", 1) + "-what-the-future-brings",
            EXAMPLE.replacen("00", "fe", 1) + "-",
        ] {
            let parent: TraceParent = text.parse().unwrap();
            assert_eq!(parent.to_string(), EXAMPLE, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let zero_trace = EXAMPLE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_span = EXAMPLE.replace("b7ad6b7169203331", &"0".repeat(16));
        for text in [
            "",
            "00",
            &EXAMPLE[..54],
            &EXAMPLE.replacen("00", "ff", 1),
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replace("b7ad", "b7ag"),
            &EXAMPLE.replace("b7ad", "b7aé"),
            &EXAMPLE.replace("0af7", "+af7"),
            &format!("{EXAMPLE}-"),
            &format!("{EXAMPLE}-00"),
            &format!(" {EXAMPLE}"),
            &format!("{EXAMPLE} "),
            &(EXAMPLE.replacen("00", "01", 1) + "x"),
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c8031-9c-b7ad6b71692033-1-01",
            &zero_trace,
            &zero_span,
        ] {
            let read: Result<TraceParent, _> = text.parse();
            assert_eq!(read, Err(InvalidTraceParent), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id: [u8; 16], span_id: [u8; 8], is_sampled: bool) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let parent = TraceParent::new(trace_id, span_id, is_sampled).unwrap();
            let text = parent.to_string();
            prop_assert_eq!(text.len(), LEN);
            prop_assert_eq!(text.parse(), Ok(parent));
        }

        #[test]
        fn any_text_is_judged_without_a_panic(text in "\\PC{0,80}|[0-9a-f-]{50,60}") {
            if let Ok(parent) = text.parse::<TraceParent>() {
                prop_assert_eq!(parent.to_string()[2..54].to_owned(), text[2..54].to_owned());
            }
        }
    }
}
