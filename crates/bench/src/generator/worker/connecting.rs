//! How clients come: connect, AUTH, SUBSCRIBE, and the answers to them.

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

/// Connects begun in one turn of the loop: those that are there already do not wait for all of a crowd.
const CONNECTS_A_TURN: u32 = 128;

/// The first bytes of a client, which are the same for all.
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
        for _ in 0..CONNECTS_A_TURN {
            let Some(arrive) = self.arriving.front_mut() else {
                return;
            };
            if arrive.count == 0 {
                self.arriving.pop_front();
                continue;
            }
            if self.on_their_way >= arrive.in_flight {
                return;
            }
            let this = *arrive;
            arrive.count -= 1;
            arrive.first += 1;
            self.connect(this);
        }
    }

    fn connect(&mut self, arrive: ArrivingClients) {
        let begun_ns = now_ns();
        let number = arrive.by_source.then_some(arrive.first);
        let socket = match dial(self.setup.addr, number, arrive.small_buffer) {
            Ok(socket) => socket,
            Err(error) => return self.fail(&ConnectionEnd::Connect(error)),
        };
        let place = self.clients.place();
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        let event = EpollEvent::new(flags, place.into());
        if let Err(errno) = self.epoll.add(&socket, event) {
            self.clients.give_back(place);
            return self.fail(&ConnectionEnd::Register(errno));
        }
        self.on_their_way += 1;
        self.clients.enter(
            place,
            socket,
            LoadClient {
                state: ClientStage::Connecting,
                greeting: arrive.greeting,
                id: 0,
                begun_ns,
            },
        );
    }

    /// A client could not even begin.
    fn fail(&mut self, why: &ConnectionEnd) {
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
        self.harvest.faults.disconnected += 1;
        *self.harvest.ends.entry(why.into()).or_default() += 1;
    }

    /// Its socket is connected, or has failed to be.
    pub(super) fn greet(&mut self, place: u32) {
        let Some((client, _, socket)) = self.clients.all_of(place) else {
            return;
        };
        let (bytes, state) = match client.greeting {
            Greeting::Pipelined => (&self.greetings.both, ClientStage::AwaitsAuth),
            Greeting::StepByStep => (&self.greetings.auth, ClientStage::AwaitsAuth),
            Greeting::Silent => (&Vec::new(), ClientStage::Connected),
        };
        if let Ok(Some(error)) = socket.take_error() {
            return self.end(place, &ConnectionEnd::Connect(error));
        }
        client.state = state;
        let begun_ns = client.begun_ns;
        match send_all(socket, bytes) {
            Ok(()) => {}
            Err(why) => return self.end(place, &why),
        }
        self.shared.connected.fetch_add(1, Ordering::Relaxed);
        if state == ClientStage::Connected {
            self.serve(begun_ns);
        }
    }

    /// AUTH or SUBSCRIBE has been answered.
    pub(super) fn take_ack(&mut self, place: u32, ack: &Ack) {
        const AUTH: u32 = FrameType::Auth.byte() as u32;
        const SUBSCRIBE: u32 = FrameType::Subscribe.byte() as u32;
        let period_ms = self.setup.mode.period_ms();
        let Some((client, _, socket)) = self.clients.all_of(place) else {
            return;
        };
        match (ack.acked_type, client.state) {
            (AUTH, ClientStage::AwaitsAuth) => {
                client.state = ClientStage::AwaitsSubscribe;
                if client.greeting == Greeting::StepByStep
                    && let Err(why) = send_all(socket, &self.greetings.subscribe)
                {
                    self.end(place, &why);
                }
            }
            (SUBSCRIBE, ClientStage::AwaitsSubscribe) => {
                client.state = ClientStage::Subscribed;
                let begun_ns = client.begun_ns;
                if let Some(reader) = self.clients.reader(place) {
                    reader.account = Some(TickAccount::new(ack.start_epoch_ms, period_ms));
                }
                self.serve(begun_ns);
            }
            (acked, _) => self.end(place, &ConnectionEnd::StrayAck(acked)),
        }
    }

    /// A client has what it came for.
    fn serve(&mut self, begun_ns: u64) {
        self.on_their_way -= 1;
        self.shared.subscribed.fetch_add(1, Ordering::Relaxed);
        let took_ns = now_ns().saturating_sub(begun_ns);
        self.harvest.served.saturating_record(took_ns.max(1));
    }
}

/// A socket that has just been connected takes some hundred bytes whole, or is broken.
fn send_all(socket: &Socket, bytes: &[u8]) -> Result<(), ConnectionEnd> {
    if bytes.is_empty() {
        return Ok(());
    }
    match send(socket, bytes, SEND_FLAGS) {
        Ok(taken) if taken == bytes.len() => Ok(()),
        Ok(taken) => Err(ConnectionEnd::SentInPart {
            taken,
            len: bytes.len(),
        }),
        Err(errno) => Err(ConnectionEnd::Send(errno)),
    }
}
