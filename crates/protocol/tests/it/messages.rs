//! Tests of messages: which values survive encoding and decoding, and that no secret is printed.

use std::fmt::Debug;

use proptest::prelude::*;
use prost::Message;
use tickstorm_protocol::frame::{Decoder, Frame, FrameType, Rules};
use tickstorm_protocol::message::{
    self, Ack, Auth, BATCH_TICKS_MAX, DataBatch, ErrorMsg, Heartbeat, Pong, Subscribe,
    ticks_per_frame,
};
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::server::Step;
use tickstorm_timebase::{Epoch, Mode, Quality, Tick};

use crate::forge;

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Second), Just(Mode::Minute)]
}

fn quality() -> impl Strategy<Value = Quality> {
    prop_oneof![
        Just(Quality::Normal),
        Just(Quality::Holdover),
        Just(Quality::Replay)
    ]
}

fn ticks() -> impl Strategy<Value = Vec<Tick>> {
    let tick = (any::<i64>(), quality()).prop_map(|(epoch_ms, quality)| Tick {
        epoch: Epoch::from_ms(epoch_ms),
        quality,
    });
    prop::collection::vec(tick, 1..=BATCH_TICKS_MAX)
}

fn decode_frame(mut bytes: &[u8]) -> Frame<'_> {
    let decoded = Decoder::default().decode(Rules::CLIENT, &mut bytes);
    decoded.expect("a valid frame").expect("a complete frame")
}

fn round_trip<M: Message + Default + PartialEq + Debug>(frame_type: FrameType, message: &M) {
    let mut bytes = Vec::new();
    tickstorm_protocol::frame::encode(frame_type, message, &mut bytes);
    assert_eq!(bytes, forge::message(frame_type, message));
    let frame = decode_frame(&bytes);
    assert_eq!(frame.frame_type(), Some(frame_type));
    assert_eq!(M::decode(frame.payload()).as_ref(), Ok(message));
}

proptest! {
    #[test]
    fn messages_of_clients_survive(
        texts: [String; 5],
        cookie: Vec<u8>,
        mode: i32,
        resume: Option<i64>,
        ahead: bool,
        client_time_us: i64,
    ) {
        let [username, password, client_id, client_version, token] = texts;
        round_trip(FrameType::Auth, &Auth {
            username,
            password,
            client_id,
            client_version,
            token,
            cookie,
        });
        round_trip(FrameType::Subscribe, &Subscribe { mode, resume_after_epoch_ms: resume, ahead });
        round_trip(FrameType::Heartbeat, &Heartbeat { client_time_us });
    }

    #[test]
    fn messages_of_edges_survive(
        numbers: [u32; 4],
        text: String,
        code: String,
        times: [i64; 4],
        supported_versions: Vec<u32>,
        cookie: Vec<u8>,
    ) {
        let [acked_type, heartbeat_interval_ms, heartbeat_timeout_ms, protocol_minor] = numbers;
        let [start_epoch_ms, client_time_us, received_unix_us, sent_unix_us] = times;
        round_trip(FrameType::Ack, &Ack {
            acked_type,
            heartbeat_interval_ms,
            heartbeat_timeout_ms,
            edge_id: text.clone(),
            start_epoch_ms,
            protocol_minor,
            connection_id: code.clone(),
            frame_rate_limit: numbers[0],
            cookie,
        });
        round_trip(FrameType::Pong, &Pong {
            client_time_us,
            received_unix_us,
            sent_unix_us,
            error_bound_us: numbers[0],
            clock_error_us: numbers[1],
        });
        round_trip(FrameType::Error, &ErrorMsg {
            code,
            message: text.clone(),
            retry_after_ms: numbers[2],
            supported_versions,
            connection_id: text,
        });
    }

    #[test]
    fn requests_survive(mode in mode(), ahead: bool, resume: Option<i64>) {
        let request = Request { mode, ahead, resume_after: resume.map(Epoch::from_ms) };
        prop_assert_eq!(Subscribe::from(request).request(), Some(request));
    }

    #[test]
    fn batches_survive(mode in mode(), ticks in ticks(), sent_unix_us: i64) {
        let mut bytes = Vec::new();
        message::encode_batch(mode, &ticks, sent_unix_us, &mut bytes);
        let frame = decode_frame(&bytes);
        let batch = DataBatch::decode(frame.payload()).unwrap();
        prop_assert_eq!(frame.payload(), batch.encode_to_vec(), "the fields are in order");
        prop_assert_eq!((batch.schema_version, batch.sent_unix_us), (1, sent_unix_us));
        let modes_agree = batch.ticks.iter().all(|tick| tick.known_mode() == Some(mode));
        prop_assert!(modes_agree);
        let decoded: Vec<Tick> = batch.ticks.iter().map(message::Tick::tick).collect();
        prop_assert_eq!(decoded, ticks);
    }
}

#[test]
fn as_many_ticks_fit_into_a_frame_as_ticks_per_frame_returns() {
    let longest = Tick {
        epoch: Epoch::from_ms(i64::MIN),
        quality: Quality::Replay,
    };
    for max_msg_size in [4_096, 10_000, 65_536] {
        let ticks = vec![longest; ticks_per_frame(max_msg_size)];
        let mut bytes = Vec::new();
        message::encode_batch(Mode::Minute, &ticks, i64::MIN, &mut bytes);
        let payload_len = bytes.len() - tickstorm_protocol::frame::FRAME_OVERHEAD;
        assert!(
            payload_len <= max_msg_size,
            "{payload_len} > {max_msg_size}"
        );
    }
    assert_eq!(ticks_per_frame(4_096), 240);
    assert_eq!(ticks_per_frame(65_536), BATCH_TICKS_MAX);
}

#[test]
fn an_unknown_mode_is_no_request_and_an_unknown_quality_is_normal() {
    let subscribe = Subscribe {
        mode: 2,
        ..Subscribe::default()
    };
    assert_eq!(subscribe.request(), None);
    let tick = message::Tick {
        mode: -1,
        epoch_ms: 5,
        quality: 99,
    };
    assert_eq!(tick.known_mode(), None);
    assert_eq!(tick.tick().quality, Quality::Normal);
}

#[test]
fn secrets_are_never_printed() {
    let auth = Auth {
        username: "somebody".to_owned(),
        password: "hunter2".to_owned(),
        token: "t0ken".to_owned(),
        cookie: b"c00kie".to_vec(),
        ..Auth::default()
    };
    let shown = format!("{auth:?}");
    assert!(shown.contains("somebody"), "{shown}");
    assert_eq!(shown.matches("***").count(), 3, "{shown}");
    let bytes = forge::message(FrameType::Auth, &auth);
    let mut decoder = Decoder::default();
    let mut start = &bytes[..bytes.len() - 1];
    assert_eq!(decoder.decode(Rules::BEFORE_AUTH, &mut start), Ok(None));
    let frame = format!("{:?}", decode_frame(&bytes));
    let step = format!("{:#?}", Step::Auth(auth.into()));
    for text in [shown, step, frame, format!("{decoder:?}")] {
        assert!(
            !text.contains("hunter2") && !text.contains("t0ken"),
            "{text}"
        );
        assert!(
            !text.contains("c00kie") && !text.contains("99, 48, 48, 107"),
            "{text}"
        );
    }
    let empty = format!("{:?}", Auth::default());
    assert!(!empty.contains("***"), "{empty}");
}
