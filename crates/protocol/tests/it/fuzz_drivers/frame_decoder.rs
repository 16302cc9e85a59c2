//! Any bytes, as the decoder's rules, a way of cutting and a stream: however the stream is cut, the decoder gives the same
//! frames and the same error, and the frames are what the stream began with.

use tickstorm_protocol::frame::{Decoder, FrameError, FrameType, Rules};

const LIMITS: [usize; 4] = [65_536, 4_096, 300, 16];

/// What a stream came to.
#[derive(Debug, Default, PartialEq)]
struct Taken {
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
    let whole = take(rules, [stream]);
    let (head, tail) = stream.split_at(usize::from(cut).min(stream.len()));
    assert_eq!(take(rules, [head, tail]), whole, "cut at {cut}");
    let chunks = stream.chunks(1 + usize::from(cut));
    assert_eq!(take(rules, chunks), whole, "in chunks of 1 + {cut}");
    assert_eq!(take(rules, stream.chunks(1)), whole, "byte by byte");
    assert_eq!(take_kept(rules, stream), whole, "kept");
    check(&whole, stream, rules);
}

fn take<'a>(rules: Rules, chunks: impl IntoIterator<Item = &'a [u8]>) -> Taken {
    let (mut decoder, mut taken) = (Decoder::default(), Taken::default());
    for mut chunk in chunks {
        take_all(&mut decoder, rules, &mut chunk, &mut taken);
    }
    taken
}

fn take_kept(rules: Rules, stream: &[u8]) -> Taken {
    let (mut decoder, mut taken) = (Decoder::default(), Taken::default());
    decoder.keep(stream);
    take_all(&mut decoder, rules, &mut &[][..], &mut taken);
    taken
}

fn take_all(decoder: &mut Decoder, rules: Rules, input: &mut &[u8], taken: &mut Taken) {
    while taken.error.is_none() {
        match decoder.decode(rules, input) {
            Ok(Some(frame)) => taken
                .frames
                .push((frame.type_byte(), frame.payload().to_vec())),
            Ok(None) => {
                assert!(input.is_empty(), "bytes were left over");
                return;
            }
            Err(error) => taken.error = Some(error),
        }
    }
}

fn check(taken: &Taken, stream: &[u8], rules: Rules) {
    let mut rest = stream;
    for (type_byte, payload) in &taken.frames {
        assert!(payload.len() <= rules.payload_max);
        let known = FrameType::from_byte(*type_byte).is_some();
        assert!(known || *type_byte >= 0x80 || rules.unknown_types);
        let (frame, after) = rest.split_at(payload.len() + 12);
        assert_eq!(frame[3], *type_byte);
        assert_eq!(frame[8..frame.len() - 4], payload[..]);
        rest = after;
    }
}
