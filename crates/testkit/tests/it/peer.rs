use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use socket2::SockRef;
use tickstorm_protocol::message::{Ack, ErrorMsg};
use tickstorm_testkit::frame::{self, ACK, ERROR, Forged};
use tickstorm_testkit::{Peer, RawFrame, Received};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Long enough for loopback on a busy machine.
const BOUND: Duration = Duration::from_secs(10);

async fn pair() -> (Peer, TcpStream) {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(loopback)
        .await
        .expect("there is a free port");
    let addr = listener.local_addr().expect("the listener is bound");
    let (peer, accepted) = tokio::join!(Peer::connect(addr), listener.accept());
    (peer, accepted.expect("the peer connects").0)
}

#[tokio::test]
async fn complete_frames_are_received_and_then_the_end_of_the_stream() {
    let (mut peer, mut edge) = pair().await;
    let ack = Ack {
        acked_type: 1,
        edge_id: "e".into(),
        ..Ack::default()
    };
    let error = ErrorMsg {
        code: "AUTH_FAILED".into(),
        ..ErrorMsg::default()
    };
    let mut bytes = frame::frame(ACK, &ack.encode_to_vec());
    bytes.extend(frame::frame(ERROR, &error.encode_to_vec()));
    let (start, rest) = bytes.split_at(5);
    edge.write_all(start).await.unwrap();
    assert_eq!(
        peer.next_frame(Duration::from_millis(20)).await,
        Received::Timeout
    );
    edge.write_all(rest).await.unwrap();
    drop(edge);
    assert_eq!(peer.expect_ack(frame::AUTH).await, ack);
    assert_eq!(peer.expect_refusal("AUTH_FAILED").await, error);
}

#[tokio::test]
async fn an_end_inside_a_frame_is_reported_as_torn() {
    let (mut peer, mut edge) = pair().await;
    edge.write_all(&Forged::new(ACK, b"abc").bytes()[..9])
        .await
        .unwrap();
    drop(edge);
    assert_eq!(peer.next_frame(BOUND).await, Received::Eof { torn: 9 });
}

#[tokio::test]
async fn a_reset_is_not_reported_as_end_of_file() {
    let (mut peer, edge) = pair().await;
    SockRef::from(&edge)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(edge);
    assert_eq!(peer.next_frame(BOUND).await, Received::Reset { torn: 0 });
}

#[tokio::test]
async fn bytes_arrive_unchanged_and_a_reset_arrives_as_one() {
    let (mut peer, mut edge) = pair().await;
    peer.auth("user", "password").await;
    peer.send_bytewise(b"tail").await;
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"tail") {
        assert_ne!(edge.read_buf(&mut bytes).await.unwrap(), 0);
    }
    assert_eq!(RawFrame::take(&mut bytes).unwrap().kind, frame::AUTH);
    assert_eq!(bytes, b"tail");
    peer.reset();
    let error = edge.read_buf(&mut bytes).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
#[should_panic(expected = "AUTH_FAILED")]
async fn an_unexpected_error_is_shown() {
    let (mut peer, mut edge) = pair().await;
    let error = ErrorMsg {
        code: "AUTH_FAILED".into(),
        ..ErrorMsg::default()
    };
    edge.write_all(&frame::frame(ERROR, &error.encode_to_vec()))
        .await
        .unwrap();
    peer.expect_pong().await;
}
