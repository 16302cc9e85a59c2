//! Clients that behave badly, or just stay: raw connections to one edge, which are not read.

use std::net::SocketAddr;

use tickstorm_testkit::{Peer, PeerOptions, frame};
use tickstorm_timebase::{HostClock as _, Mode, SystemHost};
use tokio::runtime::{Builder, Runtime};

use crate::engine::Container;

/// The credentials of `.env.example`.
const USER: &str = "stream_user";
const PASSWORD: &str = "stream_pass";

/// How far back a client resumes whose replay is to exceed what the sockets hold.
const RESUME_MS: i64 = 3_500_000;

/// The smallest receive buffer that the kernel allows, before it doubles it.
const SMALL_BUFFER: u32 = 2_304;

/// Part of a frame, whose rest never comes.
const HALF_FRAME: usize = 4_000;

/// Connections to one edge. Dropping them closes them.
pub(super) struct Peers {
    addr: SocketAddr,
    peers: Vec<Peer>,
    runtime: Runtime,
}

impl Peers {
    /// Returns no connection to an edge yet.
    pub(super) fn of(edge: &Container) -> Self {
        Self {
            addr: format!("{}:8080", edge.ip()).parse().unwrap(),
            peers: Vec::new(),
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    /// Adds clients that subscribe to ticks at their time, or ahead of it.
    pub(super) fn subscribe(mut self, count: usize, mode: Mode, ahead: bool) -> Self {
        self.add(count, PeerOptions::default(), &async |peer| {
            peer.auth(USER, PASSWORD).await;
            peer.expect_ack(frame::AUTH).await;
            peer.subscribe_with(mode, None, ahead).await;
            peer.expect_ack(frame::SUBSCRIBE).await;
        });
        self
    }

    /// Adds clients that ask for the ticks of nearly an hour, and do not read them.
    pub(super) fn lag(mut self, count: usize) -> Self {
        let resume_after_ms = SystemHost::new(0).read().unix.as_micros() / 1_000 - RESUME_MS;
        let resume_after_ms = resume_after_ms / 1_000 * 1_000;
        let small = PeerOptions {
            receive_buffer: Some(SMALL_BUFFER),
            ..PeerOptions::default()
        };
        self.add(count, small, &async |peer| {
            peer.auth(USER, PASSWORD).await;
            peer.subscribe_with(Mode::Second, Some(resume_after_ms), false)
                .await;
        });
        self
    }

    /// Adds clients with a wrong password.
    pub(super) fn guess(mut self, count: usize) -> Self {
        self.add(count, PeerOptions::default(), &async |peer| {
            peer.auth(USER, "wrong").await;
        });
        self
    }

    /// Adds clients that send part of an AUTH.
    pub(super) fn hesitate(mut self, count: usize) -> Self {
        let auth = frame::frame(frame::AUTH, &[7; 4_096]);
        self.add(count, PeerOptions::default(), &async |peer| {
            // The edge may have closed the connection already.
            let _ = peer.try_send(&auth[..HALF_FRAME]).await;
        });
        self
    }

    fn add(&mut self, count: usize, options: PeerOptions, introduce: &impl AsyncFn(&mut Peer)) {
        let added = self.runtime.block_on(async {
            let mut added = Vec::new();
            for _ in 0..count {
                let mut peer = Peer::connect_with(self.addr, options).await;
                introduce(&mut peer).await;
                added.push(peer);
            }
            added
        });
        self.peers.extend(added);
    }
}

/// Connects to an edge and disconnects at once, which the edge logs at the level `debug`.
pub(super) fn come_and_go(edge: &Container, count: usize) {
    let addr = format!("{}:8080", edge.ip());
    for _ in 0..count {
        drop(std::net::TcpStream::connect(&addr).unwrap());
    }
}
