//! The handshake of clients: connect, AUTH, SUBSCRIBE, and the answers to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::encode;
use tickstorm_protocol::message::{Ack, Auth};
use tickstorm_tls::ClientHandshake;

use super::{Worker, now_ns};
use crate::generator::account::TickAccount;
use crate::generator::channel::{ClientChannel, send_all};
use crate::generator::client::{ClientStage, Greeting, LoadClient, dial};
use crate::generator::clients::ClientParts;
use crate::generator::command::ArrivingClients;
use crate::generator::connection_end::ConnectionEnd;
use crate::generator::setup::ClientSetup;
use crate::tls::ClientTls;

/// The largest number of connects started per turn of the loop: existing clients must not wait for
/// a whole storm of connects.
const CONNECTS_PER_TURN: u32 = 128;

/// The first bytes of clients, which differ in their cookies.
pub(super) struct Greetings {
    auth: Auth,
    subscribe: Vec<u8>,
    /// The buffer for the first bytes of one client.
    bytes: Vec<u8>,
}

impl Greetings {
    pub(super) fn new(setup: &ClientSetup) -> Self {
        Self {
            auth: setup.auth(),
            subscribe: setup.subscribe(),
            bytes: Vec::new(),
        }
    }

    /// Returns the first bytes of a client, and its stage after them.
    pub(super) fn of(&mut self, client: &LoadClient) -> (&[u8], ClientStage) {
        self.bytes.clear();
        if client.greeting == Greeting::Silent {
            return (&[], ClientStage::Connected);
        }
        self.auth.cookie.clone_from(&client.cookie);
        encode(FrameType::Auth, &self.auth, &mut self.bytes);
        if client.greeting == Greeting::Pipelined {
            self.bytes.extend_from_slice(&self.subscribe);
        }
        (&self.bytes, ClientStage::AwaitsAuth)
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
        let source = group.by_source.then(|| self.setup.sources.of(group.first));
        let socket = match dial(self.setup.addr, source, group.small_buffer) {
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
                cookie: self.cookies.pop().unwrap_or_default(),
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
        let Some(mut parts) = self.clients.parts_of(slot) else {
            return;
        };
        if let Ok(Some(error)) = parts.socket.take_error() {
            return self.end(slot, &ConnectionEnd::Connect(error));
        }
        if let Some(tls) = &self.setup.tls {
            if let Err(why) = start_handshake(tls, &mut parts) {
                return self.end(slot, &why);
            }
            self.shared.connected.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (bytes, state) = self.greetings.of(parts.client);
        parts.client.state = state;
        let started_ns = parts.client.started_ns;
        match send_all(parts.socket, bytes) {
            Ok(()) => {}
            Err(why) => return self.end(slot, &why),
        }
        self.shared.connected.fetch_add(1, Ordering::Relaxed);
        if state == ClientStage::Connected {
            self.count_served(started_ns);
        }
    }

    /// Handles the ACK of AUTH or SUBSCRIBE.
    pub(super) fn handle_ack(&mut self, slot: u32, ack: Ack) {
        const AUTH: u32 = FrameType::Auth.byte() as u32;
        const SUBSCRIBE: u32 = FrameType::Subscribe.byte() as u32;
        let period_ms = self.setup.mode.period_ms();
        let Some(parts) = self.clients.parts_of(slot) else {
            return;
        };
        let ClientParts {
            client,
            socket,
            channel,
            ..
        } = parts;
        match (ack.acked_type, client.state) {
            (AUTH, ClientStage::AwaitsAuth) => {
                client.state = ClientStage::AwaitsSubscribe;
                if !ack.cookie.is_empty() {
                    client.cookie = ack.cookie;
                }
                if client.greeting == Greeting::StepByStep
                    && let Err(why) =
                        channel.send(socket, &self.greetings.subscribe, &mut self.sealed)
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

/// Sends the first message of a TLS handshake.
fn start_handshake(tls: &ClientTls, parts: &mut ClientParts<'_>) -> Result<(), ConnectionEnd> {
    let mut hello = Vec::new();
    let (config, name) = (Arc::clone(&tls.config), tls.name.clone());
    let handshake =
        ClientHandshake::start(config, name, &mut hello).map_err(ConnectionEnd::Handshake)?;
    *parts.channel = ClientChannel::Handshake(Box::new(handshake));
    parts.client.state = ClientStage::ShakesHands;
    send_all(parts.socket, &hello)
}
