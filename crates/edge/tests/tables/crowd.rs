//! Clients by the hundred, on threads with tables of open files of their own, as the edge under test has: so one process holds
//! both ends of more connections than it may have open files.

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

/// Some clients, and the thread that has their sockets.
pub(crate) struct Crowd {
    work: mpsc::Sender<Work>,
    thread: JoinHandle<()>,
}

impl Crowd {
    /// Nobody yet. The runtime that waits for it must be there already: its waker has to stand in the new table, too.
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

    /// Does something with the clients and gives what came of it.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Vec<Client>) -> T + Send + 'static,
    ) -> T {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |clients| {
            // Who asked waits, unless the test has failed.
            let _ = reply.send(ask(clients));
        });
        self.work.send(work).unwrap();
        answer.await.expect("the crowd's thread has not panicked")
    }

    /// Lets as many come in; gives how many were told SERVER_FULL instead.
    pub(crate) async fn enter(&self, addr: SocketAddr, count: usize) -> usize {
        self.ask(move |clients| {
            let entered = (0..count).filter_map(|_| Client::enter(addr));
            let before = clients.len();
            clients.extend(entered);
            before + count - clients.len()
        })
        .await
    }

    /// Expects that each of them gets as many ticks, one for each second.
    pub(crate) async fn get_ticks(&self, count: usize) {
        self.ask(move |clients| {
            clients
                .iter_mut()
                .for_each(|client| client.get_ticks(count));
        })
        .await;
    }

    /// Expects that each of them is sent elsewhere, in order.
    pub(crate) async fn are_sent_away(&self) {
        self.ask(|clients| {
            for client in clients.drain(..) {
                client.expect_refusal("SERVER_DRAINING");
            }
        })
        .await;
    }

    /// Ends the thread, and with it all its sockets.
    pub(crate) fn end(self) {
        drop(self.work);
        self.thread.join().unwrap();
    }
}

/// One client: a plain socket. Whatever arrives is checked to the last bit.
pub(crate) struct Client {
    stream: TcpStream,
    unparsed: Vec<u8>,
    last_ms: Option<i64>,
}

impl Client {
    /// Comes in and subscribes; none where it is told SERVER_FULL.
    pub(crate) fn enter(addr: SocketAddr) -> Option<Self> {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let said = [
            peer::auth(USER, PASSWORD),
            peer::subscribe(Mode::Second, None, false),
        ];
        // It may have been turned away before it could speak; then what it was told lies here all the same.
        let _ = stream.write_all(&said.concat());
        let mut client = Self {
            stream,
            unparsed: Vec::new(),
            last_ms: None,
        };
        let first = client.frame().expect("an answer");
        if first.kind == frame::ERROR {
            assert_eq!(first.decode::<ErrorMsg>().code, "SERVER_FULL");
            return None;
        }
        let second = client.frame().expect("an answer");
        assert_eq!((first.kind, second.kind), (frame::ACK, frame::ACK));
        Some(client)
    }

    fn get_ticks(&mut self, count: usize) {
        for _ in 0..count {
            let frame = self.frame().expect("a tick");
            assert_eq!(frame.kind, frame::DATA_BATCH, "{frame:?}");
            self.take(&frame);
        }
    }

    /// Expects this ERROR after whatever ticks, and end of file.
    fn expect_refusal(mut self, code: &str) {
        let error = loop {
            let frame = self.frame().expect("an ERROR before the end");
            if frame.kind == frame::ERROR {
                break frame;
            }
            self.take(&frame);
        };
        assert_eq!(error.decode::<ErrorMsg>().code, code);
        assert!(self.frame().is_none(), "an ERROR is the last frame");
    }

    fn take(&mut self, frame: &RawFrame) {
        for tick in frame.decode::<DataBatch>().ticks {
            let expected = self.last_ms.map_or(tick.epoch_ms, |last| last + 1_000);
            assert_eq!(tick.epoch_ms, expected, "none lacks, none comes twice");
            self.last_ms = Some(tick.epoch_ms);
        }
    }

    /// The next frame; none at the end of the stream.
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
                        "a torn frame: {:?}",
                        self.unparsed
                    );
                    return None;
                }
                taken => self.unparsed.extend_from_slice(&buffer[..taken]),
            }
        }
    }
}
