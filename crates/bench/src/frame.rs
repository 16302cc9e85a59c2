//! The frames that a bare loop sends. Each is as long as the edge's own DATA_BATCH, and of a type
//! that clients may ignore, so that no client mistakes it for ticks of the edge.

use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{FRAME_OVERHEAD, IGNORABLE_FROM};
use tickstorm_protocol::message::encode_batch;
use tickstorm_timebase::{Epoch, Mode, Quality, Tick};

use super::orders::BurstPlan;

/// The frame type of the bare loop's frames.
pub(crate) const BARE: u8 = IGNORABLE_FROM | FrameType::DataBatch.byte();

/// The length of the checksum at a frame's end, in bytes.
const CHECKSUM_LEN: usize = 4;

/// Encodes the frames of a burst, in order. Each contains `sent_unix_us`, to be as long as the
/// edge's.
pub(crate) fn bare(burst: &BurstPlan, sent_unix_us: i64) -> Vec<Vec<u8>> {
    let per_frame = usize::try_from(burst.per_frame.max(1)).unwrap_or(usize::MAX);
    let ticks: Vec<Tick> = (0..burst.ticks)
        .map(|n| Tick {
            epoch: Epoch::from_ms(burst.epoch_ms(n)),
            quality: Quality::Normal,
        })
        .collect();
    let frames = ticks.chunks(per_frame);
    frames.map(|ticks| one(ticks, sent_unix_us)).collect()
}

fn one(ticks: &[Tick], sent_unix_us: i64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_OVERHEAD + 20 * ticks.len() + 20);
    encode_batch(Mode::Second, ticks, sent_unix_us, &mut frame);
    frame[3] = BARE;
    let covered = frame.len() - CHECKSUM_LEN;
    let checksum = crc32c::crc32c(&frame[..covered]);
    frame.truncate(covered);
    frame.extend_from_slice(&checksum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use tickstorm_protocol::frame::{Decoder, Rules};

    use super::*;

    #[test]
    fn a_bare_frame_is_valid_and_ignorable_and_as_long_as_the_edges() {
        let burst = BurstPlan {
            per_frame: 50,
            ticks: 120,
            ..BurstPlan::single(0, 1_770_091_506_000)
        };
        let frames = bare(&burst, 1_770_091_506_000_000);
        assert_eq!(frames.len(), 3);
        for bytes in &frames {
            let mut input = &bytes[..];
            let frame = Decoder::default().decode(Rules::CLIENT, &mut input);
            assert_eq!(frame.unwrap().unwrap().type_byte(), BARE);
        }
        let ticks: Vec<Tick> = (0..50)
            .map(|n| Tick {
                epoch: Epoch::from_ms(1_770_091_506_000 + n * 1_000),
                quality: Quality::Normal,
            })
            .collect();
        let mut own = Vec::new();
        encode_batch(Mode::Second, &ticks, 1_770_091_506_000_000, &mut own);
        assert_eq!(frames[0].len(), own.len());
    }
}
