//! Groups of clients, each on a thread with its own file descriptor table, like the shards of the
//! edge under test. This lets one process hold both ends of more connections than its open-file
//! limit.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, unshare};
use tickstorm_protocol::message::{DataBatch, ErrorMsg};
use tickstorm_testkit::{PATIENCE, RawFrame, frame, peer};
use tickstorm_timebase::Mode;
use tokio::sync::oneshot;

use crate::support::{PASSWORD, USER};

type Work = Box<dyn FnOnce(&mut Vec<Client>) + Send>;

/// A group of clients, and the thread whose table holds their sockets.
pub(crate) struct ClientGroup {
    work: mpsc::Sender<Work>,
    thread: JoinHandle<()>,
}

impl ClientGroup {
    /// Creates a group without clients. The runtime that waits for it must already exist, since its
    /// waker must also be in the new table.
    pub(crate) fn new() -> Self {
        let (work, works) = mpsc::channel::<Work>();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            let mut clients = Vec::new();
            for work in works {
                work(&mut clients);
            }
        });
        Self { work, thread }
    }

    /// Runs `ask` with the clients on the group's thread, and returns its result.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Vec<Client>) -> T + Send + 'static,
    ) -> T {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |clients| {
            // The caller is waiting for the result, unless the test has failed.
            let _ = reply.send(ask(clients));
        });
        self.work.send(work).unwrap();
        answer.await.expect("the group's thread has not panicked")
    }

    /// Connects `count` clients and returns how many of them were refused with SERVER_FULL.
    pub(crate) async fn enter(&self, addr: SocketAddr, count: usize) -> usize {
        self.ask(move |clients| {
            let entered = (0..count).filter_map(|_| Client::enter(addr));
            let before = clients.len();
            clients.extend(entered);
            before + count - clients.len()
        })
        .await
    }

    /// Expects that each client gets `count` frames with consecutive ticks.
    pub(crate) async fn expect_ticks(&self, count: usize) {
        self.ask(move |clients| {
            clients
                .iter_mut()
                .for_each(|client| client.expect_ticks(count));
        })
        .await;
    }

    /// Expects that each client is closed with SERVER_DRAINING, after ticks without a gap.
    pub(crate) async fn are_drained(&self) {
        self.ask(|clients| {
            for client in clients.drain(..) {
                client.expect_refusal("SERVER_DRAINING");
            }
        })
        .await;
    }

    /// Ends the thread, which closes all its sockets.
    pub(crate) fn end(self) {
        drop(self.work);
        self.thread.join().unwrap();
    }
}

/// One client: a plain socket. Every byte that arrives is checked.
pub(crate) struct Client {
    stream: TcpStream,
    unparsed: Vec<u8>,
    last_ms: Option<i64>,
}

impl Client {
    /// Connects and subscribes. Returns `None` if the edge answers SERVER_FULL.
    pub(crate) fn enter(addr: SocketAddr) -> Option<Self> {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hello = [
            peer::auth(USER, PASSWORD),
            peer::subscribe(Mode::Second, None, false),
        ];
        // The edge may have refused the client before this write; its answer can still be read.
        let _ = stream.write_all(&hello.concat());
        let mut client = Self {
            stream,
            unparsed: Vec::new(),
            last_ms: None,
        };
        let first = client.frame().expect("an answer to AUTH");
        if first.kind == frame::ERROR {
            assert_eq!(first.decode::<ErrorMsg>().code, "SERVER_FULL");
            return None;
        }
        let second = client.frame().expect("an answer to SUBSCRIBE");
        assert_eq!((first.kind, second.kind), (frame::ACK, frame::ACK));
        Some(client)
    }

    fn expect_ticks(&mut self, count: usize) {
        for _ in 0..count {
            let frame = self.frame().expect("a tick");
            assert_eq!(frame.kind, frame::DATA_BATCH, "{frame:?}");
            self.check(&frame);
        }
    }

    /// Expects this ERROR, possibly after ticks, and then end of file.
    fn expect_refusal(mut self, code: &str) {
        let error = loop {
            let frame = self.frame().expect("an ERROR before end of file");
            if frame.kind == frame::ERROR {
                break frame;
            }
            if frame.kind != frame::GOING_AWAY {
                self.check(&frame);
            }
        };
        assert_eq!(error.decode::<ErrorMsg>().code, code);
        assert!(self.frame().is_none(), "the ERROR is the last frame");
    }

    fn check(&mut self, frame: &RawFrame) {
        for tick in frame.decode::<DataBatch>().ticks {
            let expected = self.last_ms.map_or(tick.epoch_ms, |last| last + 1_000);
            assert_eq!(tick.epoch_ms, expected, "no gap, no duplicate");
            self.last_ms = Some(tick.epoch_ms);
        }
    }

    /// Receives the next frame, or `None` at the end of the stream.
    fn frame(&mut self) -> Option<RawFrame> {
        loop {
            if let Some(frame) = RawFrame::take(&mut self.unparsed) {
                return Some(frame);
            }
            let mut buffer = [0; 1_024];
            match self.stream.read(&mut buffer).unwrap() {
                0 => {
                    assert!(
                        self.unparsed.is_empty(),
                        "an incomplete frame: {:?}",
                        self.unparsed
                    );
                    return None;
                }
                taken => self.unparsed.extend_from_slice(&buffer[..taken]),
            }
        }
    }
}
