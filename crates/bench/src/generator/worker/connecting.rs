//! The handshake of clients: connect, AUTH, SUBSCRIBE, and the answers to them.

use std::sync::atomic::Ordering;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use rustix::net::send;
use socket2::Socket;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::message::Ack;

use super::{SEND_FLAGS, Worker, now_ns};
use crate::generator::account::TickAccount;
use crate::generator::client::{ClientStage, Greeting, LoadClient, dial};
use crate::generator::command::ArrivingClients;
use crate::generator::connection_end::ConnectionEnd;
use crate::generator::setup::ClientSetup;

/// The largest number of connects started per turn of the loop: existing clients must not wait for
/// a whole storm of connects.
const CONNECTS_PER_TURN: u32 = 128;

/// The first bytes of a client, the same for all clients.
pub(super) struct Greetings {
    auth: Vec<u8>,
    subscribe: Vec<u8>,
    both: Vec<u8>,
}

impl Greetings {
    pub(super) fn new(setup: &ClientSetup) -> Self {
        let (auth, subscribe) = (setup.auth(), setup.subscribe());
        Self {
            both: [&auth[..], &subscribe].concat(),
            auth,
            subscribe,
        }
    }
}

impl Worker {
    pub(super) fn connect_more(&mut self) {
        for _ in 0..CONNECTS_PER_TURN {
            let Some(group) = self.arriving.front_mut() else {
                return;
            };
            if group.count == 0 {
                self.arriving.pop_front();
                continue;
            }
            if self.in_handshake >= group.in_flight {
                return;
            }
            let this = *group;
            group.count -= 1;
            group.first += 1;
            self.connect(this);
        }
    }

    fn connect(&mut self, group: ArrivingClients) {
        let started_ns = now_ns();
        let number = group.by_source.then_some(group.first);
        let socket = match dial(self.setup.addr, number, group.small_buffer) {
            Ok(socket) => socket,
            Err(error) => return self.fail(&ConnectionEnd::Connect(error)),
        };
        let slot = self.clients.reserve();
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        let event = EpollEvent::new(flags, slot.into());
        if let Err(errno) = self.epoll.add(&socket, event) {
            self.clients.release(slot);
            return self.fail(&ConnectionEnd::Register(errno));
        }
        self.in_handshake += 1;
        self.clients.enter(
            slot,
            socket,
            LoadClient {
                state: ClientStage::Connecting,
                greeting: group.greeting,
                id: 0,
                started_ns,
            },
        );
    }

    /// Counts a client that could not even start to connect.
    fn fail(&mut self, why: &ConnectionEnd) {
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
        self.harvest.faults.disconnected += 1;
        *self.harvest.ends.entry(why.into()).or_default() += 1;
    }

    /// Sends the first bytes of a client whose socket has connected, or ends it if the connect
    /// failed.
    pub(super) fn greet(&mut self, slot: u32) {
        let Some((client, _, socket)) = self.clients.parts_of(slot) else {
            return;
        };
        let (bytes, state) = match client.greeting {
            Greeting::Pipelined => (&self.greetings.both, ClientStage::AwaitsAuth),
            Greeting::StepByStep => (&self.greetings.auth, ClientStage::AwaitsAuth),
            Greeting::Silent => (&Vec::new(), ClientStage::Connected),
        };
        if let Ok(Some(error)) = socket.take_error() {
            return self.end(slot, &ConnectionEnd::Connect(error));
        }
        client.state = state;
        let started_ns = client.started_ns;
        match send_all(socket, bytes) {
            Ok(()) => {}
            Err(why) => return self.end(slot, &why),
        }
        self.shared.connected.fetch_add(1, Ordering::Relaxed);
        if state == ClientStage::Connected {
            self.count_served(started_ns);
        }
    }

    /// Handles the ACK of AUTH or SUBSCRIBE.
    pub(super) fn handle_ack(&mut self, slot: u32, ack: &Ack) {
        const AUTH: u32 = FrameType::Auth.byte() as u32;
        const SUBSCRIBE: u32 = FrameType::Subscribe.byte() as u32;
        let period_ms = self.setup.mode.period_ms();
        let Some((client, _, socket)) = self.clients.parts_of(slot) else {
            return;
        };
        match (ack.acked_type, client.state) {
            (AUTH, ClientStage::AwaitsAuth) => {
                client.state = ClientStage::AwaitsSubscribe;
                if client.greeting == Greeting::StepByStep
                    && let Err(why) = send_all(socket, &self.greetings.subscribe)
                {
                    self.end(slot, &why);
                }
            }
            (SUBSCRIBE, ClientStage::AwaitsSubscribe) => {
                client.state = ClientStage::Subscribed;
                let started_ns = client.started_ns;
                if let Some(reader) = self.clients.reader(slot) {
                    reader.account = Some(TickAccount::new(ack.start_epoch_ms, period_ms));
                }
                self.count_served(started_ns);
            }
            (acked, _) => self.end(slot, &ConnectionEnd::StrayAck(acked)),
        }
    }

    /// Counts a client whose handshake is complete.
    fn count_served(&mut self, started_ns: u64) {
        self.in_handshake -= 1;
        self.shared.subscribed.fetch_add(1, Ordering::Relaxed);
        let took_ns = now_ns().saturating_sub(started_ns);
        self.harvest.served.saturating_record(took_ns.max(1));
    }
}

/// Sends a few hundred bytes, all of which a newly connected socket accepts unless it is broken.
fn send_all(socket: &Socket, bytes: &[u8]) -> Result<(), ConnectionEnd> {
    if bytes.is_empty() {
        return Ok(());
    }
    match send(socket, bytes, SEND_FLAGS) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(sent) => Err(ConnectionEnd::SentInPart {
            sent,
            len: bytes.len(),
        }),
        Err(errno) => Err(ConnectionEnd::Send(errno)),
    }
}
