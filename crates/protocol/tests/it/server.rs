//! Tests of the edge's side: each error of the protocol's table is reported at its byte, and each
//! frame is accepted only when it may arrive, and in time.

use std::time::Duration;

use proptest::prelude::*;
use tickstorm_protocol::EarlierSchema;
use tickstorm_protocol::code::{CloseReason, ErrorCode};
use tickstorm_protocol::frame::{FrameError, FrameType};
use tickstorm_protocol::message::{Ack, Auth, ErrorMsg, Heartbeat, Subscribe};
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::server::{self, Greeting, Limits, ServerSession, Step};
use tickstorm_timebase::{Epoch, Mode, Mono};

use crate::forge;
use crate::fuzz_drivers::server_session::limits as usual_limits;

const START: Mono = Mono::from_nanos(1_000_000_000_000);

/// A session, driven by an edge that accepts every password.
struct SessionPeer {
    limits: Limits,
    session: ServerSession,
    now: Mono,
    out: Vec<u8>,
}

impl SessionPeer {
    fn unauthenticated() -> Self {
        Self {
            limits: usual_limits(0),
            session: ServerSession::new(START),
            now: START,
            out: Vec::new(),
        }
    }

    fn authenticated() -> Self {
        let mut peer = Self::unauthenticated();
        assert!(matches!(peer.send(&auth())[..], [Step::Auth(_)]));
        peer.accept();
        peer.session.caught_up();
        peer
    }

    fn accept(&mut self) {
        self.session
            .accept(&self.limits, &Greeting::default(), self.now, &mut self.out);
    }

    /// Returns all steps that these bytes lead to, which are all that have arrived.
    fn send(&mut self, bytes: &[u8]) -> Vec<Step> {
        let steps = self.send_first(bytes);
        self.session.caught_up();
        steps
    }

    /// Returns all steps that these bytes lead to, after which more have arrived already.
    fn send_first(&mut self, mut bytes: &[u8]) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let step = self.session.step(&self.limits, &mut bytes, self.now);
            if step == Step::NeedsInput {
                self.session.keep(bytes);
                return steps;
            }
            steps.push(step);
        }
    }

    /// Returns after how many of these bytes the session closes, and why.
    fn closes_at(&mut self, bytes: &[u8]) -> Option<(usize, CloseReason)> {
        bytes.iter().enumerate().find_map(|(at, byte)| {
            let steps = self.send(&[*byte]);
            steps.iter().find_map(|step| match step {
                Step::Close(reason) => Some((at + 1, *reason)),
                Step::NeedsInput | Step::Auth(_) | Step::Subscribe(_) | Step::Heartbeat { .. } => {
                    None
                }
            })
        })
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }

    fn deadline(&self) -> Mono {
        self.session.deadline(&self.limits)
    }

    fn check(&self, now: Mono) -> Option<CloseReason> {
        self.session.check_deadline(&self.limits, now)
    }
}

fn auth() -> Vec<u8> {
    forge::message(FrameType::Auth, &Auth::default())
}

fn subscribe(mode: i32) -> Vec<u8> {
    let subscribe = Subscribe {
        mode,
        ..Subscribe::default()
    };
    forge::message(FrameType::Subscribe, &subscribe)
}

fn heartbeat(client_time_us: i64) -> Vec<u8> {
    forge::message(FrameType::Heartbeat, &Heartbeat { client_time_us })
}

fn with_byte(mut bytes: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    bytes[at] = to;
    bytes
}

fn second() -> Step {
    Step::Subscribe(Request {
        mode: Mode::Second,
        ahead: false,
        resume_after: None,
    })
}

const SECOND: Duration = Duration::from_secs(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

/// A payload that is not valid protobuf: the tag of field 1, and nothing after it.
const NOT_PROTOBUF: &[u8] = &[0x0A];

#[test]
fn an_invalid_frame_gets_its_code_at_the_byte_that_decides_it() {
    let too_long = |kind, limit: u32| [forge::header(kind, limit + 1), vec![0; 9]].concat();
    for (mut peer, ignorable_max) in [
        (SessionPeer::unauthenticated(), 4_096),
        (SessionPeer::authenticated(), 65_536),
    ] {
        let mut case = |bytes: Vec<u8>, at: usize, code: ErrorCode| {
            let mut fresh = SessionPeer::unauthenticated();
            if peer.session.is_authenticated() {
                fresh = SessionPeer::authenticated();
            }
            std::mem::swap(&mut peer, &mut fresh);
            let (found_at, reason) = peer.closes_at(&bytes).expect("the session closes");
            assert_eq!(
                (found_at, reason.error_code()),
                (at, Some(code)),
                "{bytes:02X?}"
            );
            std::mem::swap(&mut peer, &mut fresh);
        };
        case(b"GET / HTTP/1.1".to_vec(), 1, ErrorCode::BadMagic);
        case(with_byte(auth(), 1, 0x7E), 2, ErrorCode::BadMagic);
        case(with_byte(auth(), 2, 0), 3, ErrorCode::UnsupportedVersion);
        case(with_byte(auth(), 2, 2), 3, ErrorCode::UnsupportedVersion);
        case(with_byte(auth(), 3, 0), 4, ErrorCode::UnknownType);
        case(with_byte(auth(), 3, 0x7F), 4, ErrorCode::UnknownType);
        case(too_long(2, 4_096), 8, ErrorCode::MessageTooLarge);
        case(too_long(2, u32::MAX - 1), 8, ErrorCode::MessageTooLarge);
        case(too_long(0x80, ignorable_max), 8, ErrorCode::MessageTooLarge);
        case(too_long(0xFF, u32::MAX - 1), 8, ErrorCode::MessageTooLarge);
        case(with_byte(auth(), 8, 1), 12, ErrorCode::BadChecksum);
        case(with_byte(auth(), 11, 1), 12, ErrorCode::BadChecksum);
        // The earlier check wins: a corrupted checksum is reported whatever the payload is.
        let corrupted = with_byte(forge::frame(1, NOT_PROTOBUF), 12, 1);
        case(corrupted, 13, ErrorCode::BadChecksum);
    }
}

#[test]
fn a_payload_of_the_right_length_and_checksum_may_still_be_no_message() {
    let bad_utf8 = [0x0A, 2, 0xC3, 0x28];
    let endless_string = [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F];
    let deep: Vec<u8> = [0x3B].repeat(4_000);
    for payload in [NOT_PROTOBUF, &bad_utf8, &endless_string, &deep] {
        let bytes = forge::frame(1, payload);
        let reason = CloseReason::MalformedPayload {
            frame_type: FrameType::Auth,
        };
        assert_eq!(
            SessionPeer::unauthenticated().closes_at(&bytes),
            Some((bytes.len(), reason))
        );
    }
    for frame_type in [FrameType::Subscribe, FrameType::Heartbeat] {
        for payload in [NOT_PROTOBUF, &deep] {
            let bytes = forge::frame(frame_type.byte(), payload);
            let reason = CloseReason::MalformedPayload { frame_type };
            assert_eq!(
                SessionPeer::authenticated().closes_at(&bytes),
                Some((bytes.len(), reason))
            );
        }
    }
}

#[test]
fn any_valid_first_frame_but_auth_is_auth_required_whatever_its_payload() {
    for found in [2, 3, 4, 5, 6, 7, 0x80, 0xFF] {
        let bytes = forge::frame(found, NOT_PROTOBUF);
        let reason = CloseReason::AuthRequired { found };
        assert_eq!(
            SessionPeer::unauthenticated().closes_at(&bytes),
            Some((bytes.len(), reason))
        );
    }
}

#[test]
fn a_second_auth_is_refused_well_formed_or_not_if_its_checksum_holds() {
    for payload in [&[][..], NOT_PROTOBUF] {
        let bytes = forge::frame(1, payload);
        let reason = CloseReason::AlreadyAuthenticated;
        assert_eq!(
            SessionPeer::authenticated().closes_at(&bytes),
            Some((bytes.len(), reason))
        );
        let corrupted = with_byte(bytes.clone(), bytes.len() - 1, 0);
        let (at, reason) = SessionPeer::authenticated().closes_at(&corrupted).unwrap();
        assert_eq!(at, bytes.len());
        assert_eq!(reason.error_code(), Some(ErrorCode::BadChecksum));
    }
}

#[test]
fn types_that_only_an_edge_sends_are_unexpected_whatever_their_payload() {
    for frame_type in [
        FrameType::DataBatch,
        FrameType::Error,
        FrameType::Ack,
        FrameType::Pong,
    ] {
        let bytes = forge::frame(frame_type.byte(), NOT_PROTOBUF);
        let reason = CloseReason::UnexpectedMessage { frame_type };
        assert_eq!(
            SessionPeer::authenticated().closes_at(&bytes),
            Some((bytes.len(), reason))
        );
    }
}

#[test]
fn an_unknown_mode_is_an_invalid_subscription() {
    for found in [3, -1, i32::MAX] {
        let steps = SessionPeer::authenticated().send(&subscribe(found));
        let reason = CloseReason::UnknownMode { found };
        assert_eq!(steps, [Step::Close(reason)]);
        assert_eq!(reason.error_code(), Some(ErrorCode::InvalidSubscription));
    }
}

/// Each field of the earlier Go server's SUBSCRIBE, in each wire type, even when its
/// value is empty.
#[test]
fn a_subscribe_in_the_schema_of_the_earlier_server_is_refused_and_says_so() {
    const VALUES: [(u8, &[u8]); 5] = [
        (0, &[0]),
        (0, &[0x80, 0x80, 1]),
        (1, &[0; 8]),
        (2, b"\x07EUR/USD"),
        (5, &[0; 4]),
    ];
    let group = |field: u8| vec![field << 3 | 3, field << 3 | 4];
    for (field, sign) in [
        (2, EarlierSchema::Symbols),
        (3, EarlierSchema::StartTime),
        (4, EarlierSchema::Metadata),
    ] {
        let of_type = |(wire, value): (u8, &[u8])| [&[field << 3 | wire], value].concat();
        let fields = VALUES.map(of_type).into_iter();
        for field in fields.chain([vec![field << 3 | 2, 0], group(field)]) {
            for before in [
                &[][..],
                b"\x08\x01",
                b"\x28\x80\x01\x30\x01",
                b"\x4a\x02\x12\x00",
            ] {
                let payload = [before, &field, b"\x08\x00"].concat();
                let bytes = forge::frame(FrameType::Subscribe.byte(), &payload);
                let steps = SessionPeer::authenticated().send(&bytes);
                let reason = CloseReason::EarlierSchema(sign);
                assert_eq!(steps, [Step::Close(reason)], "{payload:02x?}");
                assert_eq!(reason.error_code(), Some(ErrorCode::InvalidSubscription));
            }
        }
    }
    let steps = SessionPeer::authenticated().send(&subscribe(2));
    let reason = CloseReason::EarlierSchema(EarlierSchema::MinuteMode);
    assert_eq!(steps, [Step::Close(reason)]);
    assert_eq!(reason.error_code(), Some(ErrorCode::InvalidSubscription));
}

/// A later minor may add any of them.
#[test]
fn other_unknown_fields_of_a_subscribe_are_ignored() {
    for payload in [
        // Fields 7 to 10, of each wire type.
        &b"\x38\x02"[..],
        b"\x41\0\0\0\0\0\0\0\0",
        b"\x4a\x04\x12\x02\x18\x20",
        b"\x55\x12\x18\x20\0",
        // Field 7 is a group that contains fields 2, 3, 4 and another group.
        b"\x3b\x10\x01\x18\x01\x22\x00\x4b\x10\x01\x4c\x3c",
        // Fields 18, 258 and 536,870,911, whose numbers contain a 2.
        b"\x90\x01\x01",
        b"\x90\x10\x01",
        b"\xf8\xff\xff\xff\x0f\x01",
    ] {
        let bytes = forge::frame(FrameType::Subscribe.byte(), payload);
        assert_eq!(
            SessionPeer::authenticated().send(&bytes),
            [second()],
            "{payload:02x?}"
        );
    }
}

#[test]
fn frames_in_one_segment_are_all_served() {
    let mut peer = SessionPeer::unauthenticated();
    let segment = [auth(), subscribe(1), heartbeat(7), subscribe(0)].concat();
    assert_eq!(peer.send(&segment), [Step::Auth(Auth::default().into())]);
    assert!(peer.session.has_kept());
    assert!(!peer.session.is_authenticated());
    peer.accept();
    let minute = Step::Subscribe(Request {
        mode: Mode::Minute,
        ahead: false,
        resume_after: None,
    });
    let steps = peer.send(&[]);
    assert_eq!(
        steps,
        [minute, Step::Heartbeat { client_time_us: 7 }, second()]
    );
    assert!(!peer.session.has_kept());
}

#[test]
fn no_input_is_used_while_auth_is_being_decided() {
    let mut peer = SessionPeer::unauthenticated();
    let segment = [auth(), b"rubbish".to_vec()].concat();
    let mut input = segment.as_slice();
    let step = peer.session.step(&peer.limits, &mut input, peer.now);
    assert!(matches!(step, Step::Auth(_)), "{step:?}");
    for _ in 0..2 {
        let step = peer.session.step(&peer.limits, &mut input, peer.now);
        assert_eq!((step, input), (Step::NeedsInput, &b"rubbish"[..]));
    }
    peer.accept();
    let step = peer.session.step(&peer.limits, &mut input, peer.now);
    let error = FrameError::BadMagic {
        position: 0,
        found: b'r',
    };
    assert_eq!(step, Step::Close(error.into()));
}

#[test]
fn a_closed_session_ignores_input_and_has_no_deadline() {
    let mut peer = SessionPeer::unauthenticated();
    peer.session.keep(&[subscribe(0), auth()].concat());
    let steps = peer.send(&[]);
    assert_eq!(steps, [Step::Close(CloseReason::AuthRequired { found: 2 })]);
    assert_eq!(peer.send(&auth()), []);
    assert!(!peer.session.has_kept());
    assert_eq!(peer.deadline(), Mono::NEVER);
}

#[test]
fn an_empty_subscribe_means_second() {
    assert_eq!(
        SessionPeer::authenticated().send(&forge::frame(2, &[])),
        [second()]
    );
}

#[test]
fn a_resume_point_and_ahead_are_passed_on() {
    for epoch_ms in [0, -5, 1_800_000_000_001] {
        let wanted = Subscribe {
            mode: 1,
            resume_after_epoch_ms: Some(epoch_ms),
            ahead: true,
        };
        let steps =
            SessionPeer::authenticated().send(&forge::message(FrameType::Subscribe, &wanted));
        let request = Request {
            mode: Mode::Minute,
            ahead: true,
            resume_after: Some(Epoch::from_ms(epoch_ms)),
        };
        assert_eq!(steps, [Step::Subscribe(request)]);
    }
}

#[test]
fn a_session_is_subscribed_once_its_subscribe_is_acknowledged() {
    let mut peer = SessionPeer::authenticated();
    peer.out.clear();
    peer.send(&[subscribe(0), subscribe(1)].concat());
    assert!(!peer.session.is_subscribed());
    for start in [3_000, 60_000] {
        let start = Epoch::from_ms(start);
        peer.session.subscribed(&peer.limits, start, &mut peer.out);
    }
    assert!(peer.session.is_subscribed());
    let ack = |start_epoch_ms| Ack {
        acked_type: 2,
        heartbeat_interval_ms: 15_000,
        heartbeat_timeout_ms: 20_000,
        edge_id: "edge-0".to_owned(),
        start_epoch_ms,
        protocol_minor: 1,
        ..Ack::default()
    };
    let expected = [ack(3_000), ack(60_000)].map(|ack| forge::message(FrameType::Ack, &ack));
    assert_eq!(peer.out, expected.concat());
}

#[test]
fn ignorable_types_are_skipped_but_must_be_valid() {
    let mut peer = SessionPeer::authenticated();
    let stream = [
        forge::frame(0x80, NOT_PROTOBUF),
        forge::frame(0xFF, &[]),
        heartbeat(1),
    ]
    .concat();
    assert_eq!(peer.send(&stream), [Step::Heartbeat { client_time_us: 1 }]);
    let corrupted = with_byte(forge::frame(0x80, b"abc"), 9, 0);
    let (at, reason) = peer.closes_at(&corrupted).unwrap();
    assert_eq!(at, corrupted.len());
    assert_eq!(reason.error_code(), Some(ErrorCode::BadChecksum));
}

/// Returns the reason of a client that exceeds `limits`.
/// Returns the types of the frames that the session reports.
fn observed(peer: &mut SessionPeer, mut bytes: &[u8]) -> Vec<Option<FrameType>> {
    let mut types = Vec::new();
    loop {
        let (limits, now) = (&peer.limits, peer.now);
        let session = &mut peer.session;
        let step = session.step_observed(limits, &mut bytes, now, |found| types.push(found));
        if matches!(step, Step::NeedsInput | Step::Close(_)) {
            return types;
        }
    }
}

#[test]
fn each_valid_frame_is_reported_once_with_its_type_or_as_skipped() {
    let mut peer = SessionPeer::unauthenticated();
    assert_eq!(observed(&mut peer, &auth()), [Some(FrameType::Auth)]);
    peer.accept();
    let frames = [
        heartbeat(1),
        forge::frame(0x80, b"abc"),
        subscribe(0),
        forge::frame(0x04, &[]),
    ];
    let expected = [
        Some(FrameType::Heartbeat),
        None,
        Some(FrameType::Subscribe),
        Some(FrameType::DataBatch),
    ];
    let mut types = Vec::new();
    for byte in frames.concat() {
        types.extend(observed(&mut peer, &[byte]));
    }
    assert_eq!(types, expected);
    let mut peer = SessionPeer::authenticated();
    assert_eq!(observed(&mut peer, &frames.concat()), expected);
    let mut peer = SessionPeer::authenticated();
    assert_eq!(observed(&mut peer, &with_byte(heartbeat(1), 9, 0)), []);
}

fn rate_limited(limits: &Limits) -> CloseReason {
    CloseReason::RateLimited {
        per_second: limits.frame_rate,
        burst: limits.frame_burst(),
    }
}

#[test]
fn a_heartbeat_timeout_worth_of_frames_is_accepted_at_once_and_then_the_rate() {
    for (frame, cost) in [
        (heartbeat(1), 1),
        (forge::frame(0x80, &[]), 1),
        (subscribe(0), 10),
    ] {
        let mut peer = SessionPeer::authenticated();
        assert_eq!(peer.limits.frame_burst(), 200);
        for _ in 0..200 / cost {
            assert!(!peer.session.has_kept());
            assert_eq!(peer.closes_at(&frame), None);
        }
        for _ in 0..50 {
            peer.pass(Duration::from_millis(100) * cost);
            assert_eq!(peer.closes_at(&frame), None);
        }
        let reason = rate_limited(&peer.limits);
        assert_eq!(peer.closes_at(&frame), Some((frame.len(), reason)));
    }
}

#[test]
fn a_quiet_period_earns_no_more_than_the_burst() {
    let mut peer = SessionPeer::authenticated();
    peer.pass(600 * SECOND);
    let burst = heartbeat(1).repeat(200);
    assert_eq!(peer.send(&burst).len(), 200);
    let reason = rate_limited(&peer.limits);
    assert_eq!(peer.send(&heartbeat(1)), [Step::Close(reason)]);
}

/// Sends `frames` heartbeats and returns how many of them were answered.
fn accepted(peer: &mut SessionPeer, frames: usize) -> usize {
    let steps = peer.send_first(&heartbeat(1).repeat(frames));
    let is_beat = |step: &&Step| matches!(step, Step::Heartbeat { .. });
    steps.iter().filter(is_beat).count()
}

#[test]
fn what_arrived_while_the_edge_stalled_for_may_use_what_was_earned_meanwhile() {
    for (used, stalled_s, expected) in [(0, 30, 500), (200, 30, 300), (150, 600, 6_050)] {
        let mut peer = SessionPeer::authenticated();
        peer.send(&heartbeat(1).repeat(used));
        peer.session.stalled_for(stalled_s * SECOND);
        assert_eq!(accepted(&mut peer, expected), expected);
        assert_eq!(accepted(&mut peer, 1), 0, "{used} {stalled_s}");
    }
}

#[test]
fn stalls_in_a_row_add_up_until_all_input_has_been_read() {
    let mut peer = SessionPeer::authenticated();
    peer.send(&heartbeat(1).repeat(200));
    peer.session.stalled_for(10 * SECOND);
    assert_eq!(accepted(&mut peer, 60), 60);
    peer.session.stalled_for(5 * SECOND);
    peer.pass(SECOND);
    assert_eq!(accepted(&mut peer, 100), 100);
    peer.session.caught_up();
    assert_eq!(accepted(&mut peer, 1), 0);
}

#[test]
fn once_all_input_has_been_read_no_more_than_a_burst_is_left() {
    let mut peer = SessionPeer::authenticated();
    peer.session.stalled_for(600 * SECOND);
    assert_eq!(accepted(&mut peer, 1), 1);
    peer.session.caught_up();
    assert_eq!(accepted(&mut peer, 201), 200);
}

#[test]
fn what_arrived_while_nothing_was_read_may_use_what_was_earned_meanwhile() {
    let mut paused = SessionPeer::authenticated();
    paused.session.pause(paused.now);
    paused.pass(30 * SECOND);
    paused.session.resume(paused.now);
    let mut deciding = SessionPeer::unauthenticated();
    deciding.send(&auth());
    deciding.pass(30 * SECOND);
    deciding.accept();
    for peer in [&mut paused, &mut deciding] {
        assert_eq!(accepted(peer, 501), 500);
    }
}

#[test]
fn a_burst_is_at_least_twenty_frames_and_at_most_30_s_worth() {
    for (frame_rate, timeout_ms, burst) in [
        (1, 200, 20),
        (1, 20_000, 20),
        (1, 25_000, 25),
        (3, 20_000, 60),
        (7, 20_000, 140),
        (10, 200, 20),
        (10, 20_000, 200),
        (10, 7_200_000, 300),
        (10_000, 200, 2_000),
        (10_000, 7_200_000, 300_000),
    ] {
        let mut peer = SessionPeer::authenticated();
        peer.limits.frame_rate = frame_rate;
        peer.limits.heartbeat_timeout = Duration::from_millis(timeout_ms);
        assert_eq!(peer.limits.frame_burst(), burst, "{:?}", peer.limits);
        let steps = peer.send(&heartbeat(1).repeat(burst as usize + 2));
        assert_eq!(steps.len(), burst as usize + 1, "the last step closes");
        let reason = rate_limited(&peer.limits);
        assert_eq!(steps.last(), Some(&Step::Close(reason)));
    }
}

#[test]
fn the_frames_with_which_a_client_starts_fit_even_the_lowest_rate() {
    let mut peer = SessionPeer::authenticated();
    peer.limits.frame_rate = 1;
    peer.limits.heartbeat_timeout = Duration::from_millis(200);
    assert_eq!(peer.send(&subscribe(0)), [second()]);
    for n in 0..8 {
        let client_time_us = n;
        assert_eq!(
            peer.send(&heartbeat(n)),
            [Step::Heartbeat { client_time_us }]
        );
    }
}

proptest! {
    #[test]
    fn never_more_than_the_rate_and_one_burst_are_accepted(
        frame_rate in 1_u32..=200,
        timeout_ms in 200_u64..=60_000,
        frames in prop::collection::vec((any::<bool>(), 0_u64..3_000), 1..200),
    ) {
        let mut peer = SessionPeer::authenticated();
        peer.limits.frame_rate = frame_rate;
        peer.limits.heartbeat_timeout = Duration::from_millis(timeout_ms);
        let burst = u128::from(peer.limits.frame_burst());
        let start = peer.now;
        let mut accepted = 0;
        for (is_subscribe, pause_ms) in frames {
            peer.pass(Duration::from_millis(pause_ms));
            let (frame, cost) = if is_subscribe { (subscribe(0), 10) } else { (heartbeat(1), 1) };
            let steps = peer.send(&frame);
            let earned = peer.now.since(start).as_nanos() * u128::from(frame_rate) / 1_000_000_000;
            if let [Step::Close(reason)] = steps[..] {
                prop_assert_eq!(reason, rate_limited(&peer.limits));
                prop_assert!(accepted + cost > burst, "{} of {} were used", accepted, burst);
                return Ok(());
            }
            accepted += cost;
            // Both the burst and what was earned are rounded down.
            prop_assert!(accepted <= burst + earned + 2, "{} of {} + {}", accepted, burst, earned);
        }
    }
}

#[test]
fn an_invalid_frame_is_reported_as_invalid_even_beyond_the_rate() {
    let mut peer = SessionPeer::authenticated();
    peer.send(&heartbeat(1).repeat(200));
    let frame_type = FrameType::Heartbeat;
    let steps = peer.send(&forge::frame(3, NOT_PROTOBUF));
    assert_eq!(
        steps,
        [Step::Close(CloseReason::MalformedPayload { frame_type })]
    );
}

#[test]
fn an_unauthenticated_client_is_closed_exactly_at_the_auth_timeout() {
    let mut peer = SessionPeer::unauthenticated();
    let timeout = peer.limits.auth_timeout;
    peer.pass(4 * SECOND);
    let auth = auth();
    assert_eq!(peer.send(&auth[..auth.len() - 1]), []);
    peer.session.pause(peer.now);
    assert_eq!(peer.deadline(), START + timeout);
    assert_eq!(
        peer.check((START + timeout).saturating_sub(NANOSECOND)),
        None
    );
    let reason = CloseReason::AuthTimeout { allowed: timeout };
    assert_eq!(peer.check(START + timeout), Some(reason));
}

#[test]
fn the_deadline_is_suspended_while_auth_is_being_decided_and_starts_afresh_afterwards() {
    let mut peer = SessionPeer::unauthenticated();
    peer.send(&auth());
    assert_eq!(peer.deadline(), Mono::NEVER);
    peer.pass(7 * SECOND);
    peer.accept();
    assert_eq!(peer.deadline(), peer.now + peer.limits.heartbeat_timeout);
}

#[test]
fn a_silent_client_is_closed_exactly_at_the_heartbeat_timeout() {
    let peer = SessionPeer::authenticated();
    let timeout = peer.limits.heartbeat_timeout;
    assert_eq!(
        peer.check((START + timeout).saturating_sub(NANOSECOND)),
        None
    );
    let reason = CloseReason::HeartbeatTimeout { allowed: timeout };
    assert_eq!(peer.check(START + timeout), Some(reason));
}

#[test]
fn only_subscribe_and_heartbeat_restart_the_deadline() {
    let mut peer = SessionPeer::authenticated();
    for (frame, restarts) in [
        (heartbeat(1), true),
        (subscribe(0), true),
        (forge::frame(0x80, &[]), false),
        (heartbeat(1)[..11].to_vec(), false),
    ] {
        let before = peer.deadline();
        peer.pass(SECOND);
        peer.send(&frame);
        let restarted = peer.now + peer.limits.heartbeat_timeout;
        let expected = if restarts { restarted } else { before };
        assert_eq!(peer.deadline(), expected, "{frame:02X?}");
    }
}

#[test]
fn the_heartbeat_deadline_is_suspended_while_the_edge_does_not_read() {
    let mut peer = SessionPeer::authenticated();
    let timeout = peer.limits.heartbeat_timeout;
    peer.pass(15 * SECOND);
    peer.session.pause(peer.now);
    peer.pass(SECOND);
    peer.session.pause(peer.now);
    assert_eq!(peer.deadline(), Mono::NEVER);
    peer.pass(99 * SECOND);
    assert_eq!(peer.check(peer.now), None);
    peer.session.resume(peer.now);
    assert_eq!(peer.deadline(), START + timeout + 100 * SECOND);
    peer.session.resume(peer.now + SECOND);
    assert_eq!(peer.deadline(), START + timeout + 100 * SECOND);
}

#[test]
fn a_kept_heartbeat_that_is_handled_in_a_pause_counts_from_the_end_of_the_pause() {
    let mut peer = SessionPeer::authenticated();
    peer.session.pause(peer.now);
    peer.pass(5 * SECOND);
    peer.send(&heartbeat(1));
    peer.pass(5 * SECOND);
    peer.session.resume(peer.now);
    assert_eq!(peer.deadline(), peer.now + peer.limits.heartbeat_timeout);
}

#[test]
fn a_pause_that_began_before_authentication_extends_the_deadline_only_by_its_time_afterwards() {
    let mut peer = SessionPeer::unauthenticated();
    peer.send(&auth());
    peer.session.pause(peer.now);
    peer.pass(3 * SECOND);
    peer.accept();
    peer.pass(2 * SECOND);
    peer.session.resume(peer.now);
    assert_eq!(peer.deadline(), peer.now + peer.limits.heartbeat_timeout);
}

#[test]
fn time_that_goes_back_a_little_closes_no_connection() {
    let mut peer = SessionPeer::authenticated();
    peer.now = peer.now.saturating_sub(SECOND);
    assert_eq!(peer.send(&heartbeat(1).repeat(20)).len(), 20);
    peer.session.pause(peer.now);
    peer.now = peer.now.saturating_sub(SECOND);
    peer.session.resume(peer.now);
    assert_eq!(peer.check(peer.now), None);
    let restarted = START.saturating_sub(SECOND) + peer.limits.heartbeat_timeout;
    assert_eq!(peer.deadline(), restarted);
}

#[test]
fn supported_versions_are_sent_only_with_unsupported_version() {
    for code in ErrorCode::ALL {
        let mut out = Vec::new();
        server::error(*code, "text", 7, "7-abcdefgh", &mut out);
        let expected = ErrorMsg {
            code: code.as_str().to_owned(),
            message: "text".to_owned(),
            retry_after_ms: 7,
            supported_versions: match code.as_str() {
                "UNSUPPORTED_VERSION" => vec![1],
                _ => vec![],
            },
            connection_id: "7-abcdefgh".to_owned(),
        };
        assert_eq!(out, forge::message(FrameType::Error, &expected));
    }
}
