//! Work that runs on the shards' threads. Benchmarks use it to compare the engine with a bare loop
//! over the same sockets.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use nix::sys::socket::{MsgFlags, send};
use tickstorm_edge::BareSealing;
use tickstorm_testkit::{Peer, poll_until_async};
use tickstorm_timebase::Mode;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

/// A frame type that clients ignore.
const IGNORABLE: u8 = 0x84;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_on_shards_gets_each_subscribers_socket_once_and_no_other_sockets() {
    const SUBSCRIBERS: usize = 8;
    let edge = TestEdge::start(config()).await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.enter(USER, PASSWORD, Mode::Second).await;
        subscribers.push(peer);
    }
    let mut bystander = Peer::connect(edge.addr()).await;
    bystander.auth(USER, PASSWORD).await;
    bystander.expect_frame().await;

    let frame = tickstorm_testkit::frame::frame(IGNORABLE, b"bare");
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (recorded, bytes) = (Arc::clone(&calls), frame.clone());
    edge.edge
        .on_shards(Arc::new(
            move |sockets: &[RawFd], keys: &mut [BareSealing<'_>]| {
                assert!(keys.is_empty(), "the edge does not use TLS");
                let name = std::thread::current().name().map(str::to_owned);
                recorded.lock().unwrap().push((name, sockets.len()));
                for socket in sockets {
                    let sent = send(*socket, &bytes, MsgFlags::MSG_NOSIGNAL);
                    assert_eq!(sent, Ok(bytes.len()));
                }
            },
        ))
        .await;

    let mut calls = calls.lock().unwrap().clone();
    calls.sort();
    let names: Vec<_> = calls
        .iter()
        .filter_map(|(name, _)| name.as_deref())
        .collect();
    assert_eq!(names, ["shard-0", "shard-1"]);
    let sockets: usize = calls.iter().map(|(_, sockets)| sockets).sum();
    assert_eq!(sockets, SUBSCRIBERS, "{calls:?}");
    for peer in &mut subscribers {
        let mut bare = 0;
        let mut ticks = 0;
        while bare == 0 || ticks == 0 {
            let frame = peer.expect_frame().await;
            bare += usize::from(frame.kind == IGNORABLE);
            ticks += usize::from(frame.kind == tickstorm_testkit::frame::DATA_BATCH);
        }
        assert_eq!(bare, 1);
    }
    bystander.heartbeat(7).await;
    assert_eq!(bystander.expect_pong().await.client_time_us, 7);
    drop(subscribers);
    poll_until_async("the subscribers have gone", SOON, || {
        edge.metric("tickstorm_active_connections", "") <= 1.0
    })
    .await;
    edge.stop().await;
}
