//! Interprets any bytes as the decoder's rules, a position to cut at, and a stream. However the
//! stream is cut, the decoder must return the same frames and the same error, and the frames must
//! match the start of the stream.

use tickstorm_protocol::frame::{Decoder, FrameError, FrameType, Rules};

const LIMITS: [usize; 4] = [65_536, 4_096, 300, 16];

/// The result of decoding a stream.
#[derive(Debug, Default, PartialEq)]
struct Decoded {
    frames: Vec<(u8, Vec<u8>)>,
    error: Option<FrameError>,
}

pub(crate) fn run(data: &[u8]) {
    let &[settings, cut, ref stream @ ..] = data else {
        return;
    };
    let rules = Rules {
        payload_max: LIMITS[usize::from(settings >> 1) % LIMITS.len()],
        unknown_types: settings & 1 == 1,
    };
    let whole = decode_chunks(rules, [stream]);
    let (head, tail) = stream.split_at(usize::from(cut).min(stream.len()));
    assert_eq!(decode_chunks(rules, [head, tail]), whole, "cut at {cut}");
    let chunks = stream.chunks(1 + usize::from(cut));
    assert_eq!(
        decode_chunks(rules, chunks),
        whole,
        "in chunks of 1 + {cut}"
    );
    assert_eq!(
        decode_chunks(rules, stream.chunks(1)),
        whole,
        "byte by byte"
    );
    assert_eq!(decode_kept(rules, stream), whole, "through keep");
    check(&whole, stream, rules);
}

fn decode_chunks<'a>(rules: Rules, chunks: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let (mut decoder, mut decoded) = (Decoder::default(), Decoded::default());
    for mut chunk in chunks {
        decode_all(&mut decoder, rules, &mut chunk, &mut decoded);
    }
    decoded
}

fn decode_kept(rules: Rules, stream: &[u8]) -> Decoded {
    let (mut decoder, mut decoded) = (Decoder::default(), Decoded::default());
    decoder.keep(stream);
    decode_all(&mut decoder, rules, &mut &[][..], &mut decoded);
    decoded
}

fn decode_all(decoder: &mut Decoder, rules: Rules, input: &mut &[u8], decoded: &mut Decoded) {
    while decoded.error.is_none() {
        match decoder.decode(rules, input) {
            Ok(Some(frame)) => decoded
                .frames
                .push((frame.type_byte(), frame.payload().to_vec())),
            Ok(None) => {
                assert!(input.is_empty(), "the decoder left input unused");
                return;
            }
            Err(error) => decoded.error = Some(error),
        }
    }
}

fn check(decoded: &Decoded, stream: &[u8], rules: Rules) {
    let mut rest = stream;
    for (type_byte, payload) in &decoded.frames {
        assert!(payload.len() <= rules.payload_max);
        let known = FrameType::from_byte(*type_byte).is_some();
        assert!(known || *type_byte >= 0x80 || rules.unknown_types);
        let (frame, after) = rest.split_at(payload.len() + 12);
        assert_eq!(frame[3], *type_byte);
        assert_eq!(frame[8..frame.len() - 4], payload[..]);
        rest = after;
    }
}
