//! Malformed frames: each gets its error code as soon as the wrong byte arrives, then end of file
//! and never a reset, and other clients are not affected.

use tickstorm_protocol::message::ErrorMsg;
use tickstorm_testkit::{Forged, Peer, frame, peer};
use tickstorm_timebase::Mode;

use crate::support::{PASSWORD, TestEdge, USER, config};
use crate::witness::Witness;

/// A payload that is not a protobuf message: the length of a field exceeds the payload.
const NO_PROTOBUF: &[u8] = b"\x0A\x7F";

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    code: &'static str,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, code: &'static str) -> Case {
    Case {
        name,
        bytes: bytes.into(),
        code,
    }
}

/// Returns frames that are wrong at every stage of a connection. `ignorable_max` is the stage's
/// payload limit for types that may be ignored.
fn wrong_frames(ignorable_max: u32) -> Vec<Case> {
    let forged = |kind| Forged::new(kind, &[]);
    let heartbeat = Forged::new(frame::HEARTBEAT, &[]);
    let header = |forged: Forged| forged.header().to_vec();
    let too_large = |kind, len| header(forged(kind).claiming(len));
    vec![
        case("first magic byte", [0x00], "BAD_MAGIC"),
        case("second magic byte", [0xF5, 0x00], "BAD_MAGIC"),
        case("HTTP", *b"GET / HTTP/1.1\r\n\r\n", "BAD_MAGIC"),
        case("magic before version", [0xF5, 0x7E, 9], "BAD_MAGIC"),
        case("version 2", [0xF5, 0x7D, 2], "UNSUPPORTED_VERSION"),
        case("version 0", [0xF5, 0x7D, 0], "UNSUPPORTED_VERSION"),
        case(
            "version before type",
            [0xF5, 0x7D, 2, 0x7F],
            "UNSUPPORTED_VERSION",
        ),
        case("type 0", [0xF5, 0x7D, 1, 0x00], "UNKNOWN_TYPE"),
        case("type 8", [0xF5, 0x7D, 1, 0x08], "UNKNOWN_TYPE"),
        case("type 127", [0xF5, 0x7D, 1, 0x7F], "UNKNOWN_TYPE"),
        case(
            "type before length",
            too_large(0x08, u32::MAX),
            "UNKNOWN_TYPE",
        ),
        case(
            "one byte too large",
            too_large(frame::HEARTBEAT, 4_097),
            "MESSAGE_TOO_LARGE",
        ),
        case(
            "4 GiB",
            too_large(frame::SUBSCRIBE, u32::MAX),
            "MESSAGE_TOO_LARGE",
        ),
        case(
            "ignorable but too large",
            too_large(0x80, ignorable_max + 1),
            "MESSAGE_TOO_LARGE",
        ),
        case("checksum", heartbeat.bad_checksum().bytes(), "BAD_CHECKSUM"),
        case(
            "checksum before protobuf",
            Forged::new(frame::AUTH, NO_PROTOBUF).bad_checksum().bytes(),
            "BAD_CHECKSUM",
        ),
        case(
            "ignorable but with a bad checksum",
            forged(0xFF).bad_checksum().bytes(),
            "BAD_CHECKSUM",
        ),
    ]
}

fn wrong_once_authenticated() -> Vec<Case> {
    let no_protobuf = |kind| frame::frame(kind, NO_PROTOBUF);
    vec![
        case(
            "SUBSCRIBE with invalid protobuf",
            no_protobuf(frame::SUBSCRIBE),
            "MALFORMED_PAYLOAD",
        ),
        case(
            "HEARTBEAT with invalid protobuf",
            no_protobuf(frame::HEARTBEAT),
            "MALFORMED_PAYLOAD",
        ),
        case(
            "AUTH again",
            peer::auth(USER, PASSWORD),
            "ALREADY_AUTHENTICATED",
        ),
        case(
            "AUTH again, with invalid protobuf",
            no_protobuf(frame::AUTH),
            "ALREADY_AUTHENTICATED",
        ),
        case(
            "DATA_BATCH",
            frame::frame(frame::DATA_BATCH, &[]),
            "UNEXPECTED_MESSAGE",
        ),
        case("ERROR", no_protobuf(frame::ERROR), "UNEXPECTED_MESSAGE"),
        case("ACK", no_protobuf(frame::ACK), "UNEXPECTED_MESSAGE"),
        case("PONG", no_protobuf(frame::PONG), "UNEXPECTED_MESSAGE"),
        case(
            "mode 3",
            frame::frame(frame::SUBSCRIBE, b"\x08\x03"),
            "INVALID_SUBSCRIPTION",
        ),
        case(
            "mode 2, as from a client of the earlier server",
            frame::frame(frame::SUBSCRIBE, b"\x08\x02"),
            "INVALID_SUBSCRIPTION",
        ),
        case(
            "symbols, as from a client of the earlier server",
            frame::frame(frame::SUBSCRIBE, b"\x08\x01\x12\x07EUR/USD"),
            "INVALID_SUBSCRIPTION",
        ),
        case(
            "resume point far ahead",
            peer::subscribe(Mode::Second, Some(i64::MAX), false),
            "INVALID_SUBSCRIPTION",
        ),
    ]
}

/// Expects the case's ERROR, possibly after ticks, and then end of file.
async fn expect_refusal(peer: &mut Peer, case: &Case) {
    let (_, last) = peer.skip_batches().await;
    assert_eq!(last.kind, frame::ERROR, "{}: {last:?}", case.name);
    let error: ErrorMsg = last.decode();
    assert_eq!(error.code, case.code, "{}: {error:?}", case.name);
    let versions = if case.code == "UNSUPPORTED_VERSION" {
        vec![1]
    } else {
        vec![]
    };
    assert_eq!(error.supported_versions, versions, "{}", case.name);
    peer.expect_eof().await;
}

#[tokio::test]
async fn a_wrong_first_frame_gets_its_code_and_no_other_client_notices() {
    let edge = TestEdge::start(config()).await;
    let mut witness = Witness::enter(&edge).await;
    let mut cases = wrong_frames(4_096);
    cases.push(case(
        "AUTH with invalid protobuf",
        frame::frame(frame::AUTH, NO_PROTOBUF),
        "MALFORMED_PAYLOAD",
    ));
    for case in &cases {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.send(&case.bytes).await;
        expect_refusal(&mut peer, case).await;
    }
    witness.missed_nothing().await;
    edge.stop().await;
}

#[tokio::test]
async fn a_wrong_frame_after_auth_gets_its_code_and_no_other_client_notices() {
    let edge = TestEdge::start(config()).await;
    let mut witness = Witness::enter(&edge).await;
    let mut cases = wrong_frames(65_536);
    cases.extend(wrong_once_authenticated());
    for case in &cases {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.auth(USER, PASSWORD).await;
        peer.expect_ack(frame::AUTH).await;
        peer.send(&case.bytes).await;
        expect_refusal(&mut peer, case).await;
    }
    witness.missed_nothing().await;
    edge.stop().await;
}

#[tokio::test]
async fn a_wrong_frame_of_a_subscriber_gets_its_code_and_no_other_client_notices() {
    let edge = TestEdge::start(config()).await;
    let mut witness = Witness::enter(&edge).await;
    let mut cases = wrong_frames(65_536);
    cases.extend(wrong_once_authenticated());
    for case in &cases {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.enter(USER, PASSWORD, Mode::Second).await;
        peer.send(&case.bytes).await;
        expect_refusal(&mut peer, case).await;
    }
    witness.missed_nothing().await;
    edge.stop().await;
}

#[tokio::test]
async fn an_error_reaches_a_client_that_keeps_sending() {
    /// Far more than both sockets' buffers hold, so the edge must read and discard it.
    const FLOOD: usize = 1024 * 1024;
    let edge = TestEdge::start(config()).await;
    let mut witness = Witness::enter(&edge).await;
    let auth = peer::auth(USER, PASSWORD);
    let cases = [
        case("immediately", b"nonsense", "BAD_MAGIC"),
        case("wrong password", peer::auth(USER, "wrong"), "AUTH_FAILED"),
        case(
            "after AUTH",
            [auth.clone(), frame::frame(0x7F, &[])].concat(),
            "UNKNOWN_TYPE",
        ),
        case(
            "AUTH twice",
            [auth.clone(), auth].concat(),
            "ALREADY_AUTHENTICATED",
        ),
    ];
    for case in &cases {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.send(&case.bytes).await;
        peer.send(&vec![0xF5; FLOOD]).await;
        if case.bytes.starts_with(&peer::auth(USER, PASSWORD)) {
            peer.expect_ack(frame::AUTH).await;
        }
        expect_refusal(&mut peer, case).await;
    }
    witness.missed_nothing().await;
    edge.stop().await;
}

#[tokio::test]
async fn the_largest_allowed_payloads_are_accepted() {
    let edge = TestEdge::start_without_clock(config()).await;
    let mut auth = tickstorm_protocol::message::Auth {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        ..Default::default()
    };
    let rest = 4_096 - (peer::auth(USER, PASSWORD).len() - 12);
    // A field's key and length take three bytes here.
    auth.client_id = "c".repeat(rest - 3);
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send_message(frame::AUTH, &auth).await;
    peer.expect_ack(frame::AUTH).await;
    peer.send(&frame::frame(0x80, &vec![7; 65_536])).await;
    peer.heartbeat(5).await;
    assert_eq!(peer.expect_pong().await.client_time_us, 5);
    edge.stop().await;
}

#[tokio::test]
async fn a_lower_max_msg_size_also_limits_payloads_after_auth() {
    let mut config = config();
    config.max_msg_size = 4_096;
    let edge = TestEdge::start_without_clock(config).await;
    for (len, is_accepted) in [(4_096, true), (4_097, false)] {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.auth(USER, PASSWORD).await;
        peer.expect_ack(frame::AUTH).await;
        peer.send(&frame::frame(0x80, &vec![7; len])).await;
        peer.heartbeat(5).await;
        if is_accepted {
            peer.expect_pong().await;
        } else {
            peer.expect_refusal("MESSAGE_TOO_LARGE").await;
        }
    }
    edge.stop().await;
}
