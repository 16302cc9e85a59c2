//! Interprets any bytes as the decoder's rules, a position to cut at, and a stream. However the
//! stream is cut, the decoder must return what a simple decoder returns that has the whole stream.

use tickstorm_protocol::frame::{Decoded, Decoder, FrameError, FrameType, Rules};

const LIMITS: [usize; 4] = [65_536, 4_096, 300, 16];

/// The result of decoding a stream.
#[derive(Debug, Default, PartialEq)]
struct Stream {
    /// The type and the payload of each frame; `None` for a frame that was skipped.
    frames: Vec<Option<(u8, Vec<u8>)>>,
    error: Option<FrameError>,
}

pub(crate) fn run(data: &[u8]) {
    let &[settings, cut, ref stream @ ..] = data else {
        return;
    };
    let limit = |index: u8| LIMITS[usize::from(index) % LIMITS.len()];
    let rules = Rules {
        payload_max: limit(settings >> 1),
        ignorable_payload_max: limit((settings >> 1).wrapping_add(settings >> 4)),
        skips_ignorable: settings & 8 == 8,
        unknown_types: settings & 1 == 1,
    };
    let expected = reference(rules, stream);
    assert_eq!(decode_chunks(rules, [stream]), expected, "in one piece");
    let (head, tail) = stream.split_at(usize::from(cut).min(stream.len()));
    assert_eq!(decode_chunks(rules, [head, tail]), expected, "cut at {cut}");
    let chunks = stream.chunks(1 + usize::from(cut));
    assert_eq!(
        decode_chunks(rules, chunks),
        expected,
        "in chunks of 1 + {cut}"
    );
    assert_eq!(
        decode_chunks(rules, stream.chunks(1)),
        expected,
        "byte by byte"
    );
    assert_eq!(decode_kept(rules, [stream]), expected, "through keep");
    assert_eq!(
        decode_kept(rules, [head, tail]),
        expected,
        "through keep, cut at {cut}"
    );
}

fn decode_chunks<'a>(rules: Rules, chunks: impl IntoIterator<Item = &'a [u8]>) -> Stream {
    let (mut decoder, mut decoded) = (Decoder::default(), Stream::default());
    for mut chunk in chunks {
        decode_all(&mut decoder, rules, &mut chunk, &mut decoded);
    }
    decoded
}

fn decode_kept<'a>(rules: Rules, chunks: impl IntoIterator<Item = &'a [u8]>) -> Stream {
    let (mut decoder, mut decoded) = (Decoder::default(), Stream::default());
    for chunk in chunks {
        decoder.keep(chunk);
        decode_all(&mut decoder, rules, &mut &[][..], &mut decoded);
    }
    decoded
}

fn decode_all(decoder: &mut Decoder, rules: Rules, input: &mut &[u8], decoded: &mut Stream) {
    while decoded.error.is_none() {
        match decoder.decode_or_skip(rules, input) {
            Ok(Some(Decoded::Frame(frame))) => {
                let payload = frame.payload().to_vec();
                decoded.frames.push(Some((frame.type_byte(), payload)));
            }
            Ok(Some(Decoded::Skipped)) => decoded.frames.push(None),
            Ok(None) => {
                assert!(input.is_empty(), "the decoder left input unused");
                assert_eq!(decoder.has_kept(), decoder.buffered() > 0);
                return;
            }
            Err(error) => decoded.error = Some(error),
        }
    }
}

/// Decodes a stream that has arrived as a whole.
fn reference(rules: Rules, mut stream: &[u8]) -> Stream {
    let mut decoded = Stream::default();
    loop {
        match reference_frame(rules, stream) {
            Ok(Some((kind, payload))) => {
                let is_skipped = rules.skips_ignorable && kind >= 0x80;
                let frame = (kind, payload.to_vec());
                decoded.frames.push((!is_skipped).then_some(frame));
                stream = &stream[12 + payload.len()..];
            }
            Ok(None) => return decoded,
            Err(error) => {
                decoded.error = Some(error);
                return decoded;
            }
        }
    }
}

/// Returns the type and the payload of the first frame, if it is complete.
fn reference_frame(rules: Rules, bytes: &[u8]) -> Result<Option<(u8, &[u8])>, FrameError> {
    let header = [0xF5, 0x7D, 1].iter().zip(bytes).enumerate();
    for (position, (expected, &found)) in header {
        match position {
            _ if found == *expected => {}
            2 => return Err(FrameError::UnsupportedVersion { found }),
            _ => return Err(FrameError::BadMagic { position, found }),
        }
    }
    let Some(&kind) = bytes.get(3) else {
        return Ok(None);
    };
    let is_known = kind >= 0x80 || FrameType::from_byte(kind).is_some();
    if !is_known && !rules.unknown_types {
        return Err(FrameError::UnknownType { found: kind });
    }
    let Some(len) = bytes.get(4..8) else {
        return Ok(None);
    };
    let claimed = u32::from_be_bytes(len.try_into().expect("four bytes"));
    let allowed = match kind {
        0x80.. => rules.ignorable_payload_max,
        _ => rules.payload_max,
    };
    let len = usize::try_from(claimed).expect("at least 32 bits");
    if len > allowed {
        return Err(FrameError::TooLarge { claimed, allowed });
    }
    let Some(found) = bytes.get(8 + len..12 + len) else {
        return Ok(None);
    };
    let found = u32::from_be_bytes(found.try_into().expect("four bytes"));
    let computed = crc32c::crc32c(&bytes[..8 + len]);
    if found != computed {
        return Err(FrameError::BadChecksum { found, computed });
    }
    Ok(Some((kind, &bytes[8..8 + len])))
}
