//! Tests that memory follows the bytes that arrived, with an allocator that counts the allocations
//! of each thread, and hence of each test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tickstorm_protocol::frame::{Decoder, FrameType, Rules};
use tickstorm_protocol::message::{Heartbeat, encode_batch};
use tickstorm_protocol::session::server::{Greeting, ServerSession, Step};
use tickstorm_timebase::{Epoch, Mode, Mono, Quality, Tick};

use crate::forge;
use crate::fuzz_drivers::server_session::limits;

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

thread_local! {
    static REQUESTS: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn count(size: usize, freed: usize) {
    REQUESTS.set(REQUESTS.get() + 1);
    LARGEST.set(LARGEST.get().max(size));
    LIVE.set(LIVE.get() + signed(size) - signed(freed));
}

/// A layout never has more than `isize::MAX` bytes.
fn signed(size: usize) -> isize {
    isize::try_from(size).unwrap_or(isize::MAX)
}

#[expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]
mod counting {
    use super::{Counting, GlobalAlloc, LIVE, Layout, System, count, signed};

    // SAFETY: every call is passed on unchanged to the system's allocator; counting touches no
    // memory except thread-local cells that need neither allocation nor destruction.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout.size(), 0);
            // SAFETY: the caller keeps `alloc`'s contract.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            LIVE.set(LIVE.get() - signed(layout.size()));
            // SAFETY: the caller keeps `dealloc`'s contract.
            unsafe { System.dealloc(memory, layout) }
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            count(size, layout.size());
            // SAFETY: the caller keeps `realloc`'s contract.
            unsafe { System.realloc(memory, layout, size) }
        }
    }
}

/// Runs `action`, and returns its result, its number of allocations, the size in bytes of the
/// largest one, and by how many bytes the memory in use has grown afterwards.
fn measure<T>(action: impl FnOnce() -> T) -> (T, usize, usize, isize) {
    REQUESTS.set(0);
    LARGEST.set(0);
    LIVE.set(0);
    let result = action();
    (result, REQUESTS.get(), LARGEST.get(), LIVE.get())
}

/// The memory of a frame that is being skipped.
const SKIPPING: usize = 40;

fn authenticated() -> ServerSession {
    let limits = limits(0);
    let mut session = ServerSession::new(Mono::ZERO);
    let auth = forge::frame(1, &[]);
    let step = session.step(&limits, &mut auth.as_slice(), Mono::ZERO);
    assert!(matches!(step, Step::Auth(_)), "{step:?}");
    session.accept(&limits, &Greeting::default(), Mono::ZERO, &mut Vec::new());
    session
}

#[test]
fn a_frame_that_is_complete_in_the_input_is_decoded_without_allocating() {
    let limits = limits(1);
    let mut session = authenticated();
    let heartbeat = forge::message(FrameType::Heartbeat, &Heartbeat { client_time_us: 7 });
    let subscribe = forge::frame(2, &[]);
    let ignorable = forge::frame(0x80, &[0; 60_000]);
    let stream = [subscribe, ignorable, heartbeat].concat();
    let mut input = stream.as_slice();
    let ((), requests, ..) = measure(|| {
        let step = session.step(&limits, &mut input, Mono::ZERO);
        assert!(matches!(step, Step::Subscribe(_)));
        let step = session.step(&limits, &mut input, Mono::ZERO);
        assert!(matches!(step, Step::Heartbeat { client_time_us: 7 }));
        let step = session.step(&limits, &mut input, Mono::ZERO);
        assert!(matches!(step, Step::NeedsInput));
    });
    assert_eq!(requests, 0);
}

#[test]
fn a_claimed_length_costs_nothing_before_its_bytes_arrive() {
    let limits = limits(0);
    for (mut session, kind, claimed, cost) in [
        (ServerSession::new(Mono::ZERO), 1, 4_096, 8),
        (authenticated(), 2, 4_096, 8),
        (authenticated(), 0x80, 65_536, SKIPPING),
    ] {
        let header = forge::header(kind, claimed);
        let (step, _, largest, live) =
            measure(|| session.step(&limits, &mut header.as_slice(), Mono::ZERO));
        assert_eq!(step, Step::NeedsInput);
        let live = live.unsigned_abs();
        assert_eq!((largest, live), (cost, cost), "{claimed} bytes claimed");
        assert_eq!(session.buffered(), cost);
    }
}

#[test]
fn a_length_beyond_the_limit_costs_nothing_at_all() {
    let limits = limits(0);
    let mut session = ServerSession::new(Mono::ZERO);
    let header = forge::header(1, u32::MAX);
    let (step, requests, ..) =
        measure(|| session.step(&limits, &mut header.as_slice(), Mono::ZERO));
    assert!(matches!(step, Step::Close(_)), "{step:?}");
    assert_eq!(requests, 0);
}

#[test]
fn kept_bytes_never_exceed_twice_what_arrived_nor_the_frame() {
    for piece in [1, 7, 1_000, 4_100] {
        let bytes = forge::frame(0x80, &[0; 4_096]);
        let mut decoder = Decoder::default();
        let ((), _, largest, live) = measure(|| {
            let mut arrived = 0;
            for mut input in bytes[..bytes.len() - 1].chunks(piece) {
                arrived += input.len();
                let frame = decoder.decode(Rules::BEFORE_AUTH, &mut input);
                assert_eq!(frame, Ok(None));
                let live = LIVE.get().unsigned_abs();
                assert!(
                    live <= 2 * arrived,
                    "{live} bytes are allocated, but only {arrived} have arrived"
                );
            }
        });
        assert!(
            largest <= bytes.len(),
            "{largest} bytes in pieces of {piece}"
        );
        assert!(live.unsigned_abs() <= bytes.len());
    }
}

#[test]
fn the_memory_of_a_split_frame_is_freed_with_the_frame() {
    let limits = limits(0);
    let mut session = authenticated();
    // A field that HEARTBEAT does not have, of 4,093 bytes.
    let padding = [&[0x7A, 0xFD, 0x1F][..], &[7; 4_093]].concat();
    let bytes = forge::frame(3, &padding);
    let (step, _, largest, live) = measure(|| {
        let (mut head, mut tail) = bytes.split_at(3_000);
        session.step(&limits, &mut head, Mono::ZERO);
        assert!(session.has_kept());
        assert!(session.buffered() >= 3_000);
        session.step(&limits, &mut tail, Mono::ZERO)
    });
    assert_eq!(step, Step::Heartbeat { client_time_us: 0 });
    assert!(!session.has_kept());
    assert_eq!((live, session.buffered()), (0, 0));
    assert!(largest <= bytes.len(), "{largest}");
}

#[test]
fn of_a_frame_that_is_skipped_nothing_is_kept() {
    let limits = limits(0);
    let bytes = forge::frame(0xFF, &[7; 65_536]);
    for piece in [1, 1_000, 65_000] {
        let mut session = authenticated();
        let ((), _, largest, live) = measure(|| {
            for mut input in bytes.chunks(piece) {
                let step = session.step(&limits, &mut input, Mono::ZERO);
                assert_eq!(step, Step::NeedsInput);
                assert!(session.buffered() <= SKIPPING);
            }
        });
        assert!(largest <= SKIPPING, "{largest} bytes in pieces of {piece}");
        assert_eq!((live, session.buffered()), (0, 0));
    }
}

#[test]
fn a_session_that_its_driver_closes_keeps_nothing() {
    let limits = limits(0);
    for bytes in [forge::header(2, 4_096), forge::header(0x80, 65_536)] {
        let mut session = authenticated();
        let ((), .., live) = measure(|| {
            session.step(&limits, &mut bytes.as_slice(), Mono::ZERO);
            session.close();
        });
        assert_eq!((live, session.buffered()), (0, 0));
    }
}

#[test]
fn a_string_that_claims_more_than_its_payload_costs_nothing() {
    let limits = limits(0);
    let mut session = ServerSession::new(Mono::ZERO);
    // A username with a claimed length of 4 GiB minus one byte.
    let auth = forge::frame(1, &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, b'x']);
    let (step, _, largest, _) = measure(|| session.step(&limits, &mut auth.as_slice(), Mono::ZERO));
    assert!(matches!(step, Step::Close(_)), "{step:?}");
    assert!(largest < 256, "{largest}");
}

#[test]
fn a_batch_is_encoded_into_a_reused_buffer_without_allocating() {
    let tick = |second: i64| Tick {
        epoch: Epoch::from_ms(1_800_000_000_000 + second * 1_000),
        quality: Quality::Replay,
    };
    let ticks: Vec<Tick> = (0..1_000).map(tick).collect();
    let mut out = Vec::new();
    encode_batch(Mode::Minute, &ticks, i64::MAX, &mut out);
    out.clear();
    let ((), requests, ..) = measure(|| encode_batch(Mode::Minute, &ticks, i64::MAX, &mut out));
    assert_eq!(requests, 0);
}
