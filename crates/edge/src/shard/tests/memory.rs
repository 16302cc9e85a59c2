//! Tests of the bounds on memory over all connections: of buffers in the process, and of sockets in
//! the kernel.

use proptest::prelude::*;

use super::*;
use crate::memory::Excess;
use crate::shard::connections::Walk;
use crate::shard::shedding::Shedding;
use crate::shard::tasks::ShardTask;
use crate::sys::socket_memory::SocketMemory;

/// Returns the sum of what all connections hold.
pub(super) fn held<N: Network>(sim: &mut Sim<N>) -> usize {
    let shard = &mut sim.shard;
    let mut walk = Walk::default();
    let mut held = 0;
    while let Some(connection) = shard.connections.step(&mut walk) {
        held += connection.buffered() + shard.driver.network.buffered(&connection.socket);
    }
    held
}

fn with_bound(buffered_max: usize) -> Sim {
    Sim::new(ShardSettings {
        buffered_max,
        ..settings()
    })
}

/// Returns a valid frame of `len` bytes, at least 40, whose payload has a field that no message
/// has.
fn padded(kind: u8, len: usize) -> Vec<u8> {
    let padding = len - 12 - 3;
    let [low, high] = [padding % 128, padding / 128].map(|part| u8::try_from(part).unwrap());
    frame(
        kind,
        &[&[0x7A, 0x80 | low, high][..], &vec![7; padding]].concat(),
    )
}

impl Sim {
    fn one_authenticated(&mut self) -> RawFd {
        let client = self.script.connect();
        self.script.client_sends(client, &auth("pass"));
        self.run_for(MS);
        self.frames(client);
        client
    }
}

#[test]
fn beyond_the_bound_the_oldest_unfinished_input_is_closed_and_unauthenticated_clients_first() {
    let mut sim = with_bound(100_000);
    let honest = sim.subscriber(Mode::Second, false);
    let old: Vec<_> = (0..10).map(|_| sim.one_authenticated()).collect();
    for client in &old {
        sim.script
            .client_sends(*client, &padded(HEARTBEAT, 4_000)[..3_000]);
    }
    sim.run_for(MS);
    let strangers: Vec<_> = (0..30)
        .map(|_| {
            let client = sim.script.connect();
            sim.script
                .client_sends(client, &padded(AUTH, 4_000)[..3_000]);
            sim.run_for(MS);
            client
        })
        .collect();
    assert_eq!(sim.shard.driver.buffered.bytes(), held(&mut sim));
    // There is room for 33 half frames.
    for (n, client) in strangers.iter().enumerate() {
        assert_eq!(sim.script.on(*client).is_shut, n < 7, "number {n}");
    }
    assert_eq!(sim.error(strangers[0]), "SERVER_FULL");
    assert!(old.iter().all(|client| !sim.script.on(*client).is_shut));
    assert_eq!(sim.closed("server_full"), 7);
    assert_eq!(sim.metrics.memory.buffer_evictions.get(), 7);
    let now = sim.now();
    let status = sim.shard.driver.env.commons.memory.status(now);
    assert_eq!(status["alarms"][0]["reason"], "buffers_full");
    assert_eq!(status["buffered_bytes"], 99_000);

    // The rest of a frame frees its memory.
    for client in &old {
        sim.script
            .client_sends(*client, &padded(HEARTBEAT, 4_000)[3_000..]);
    }
    sim.run_for(MS);
    assert_eq!(sim.frames(old[0])[0].kind, PONG);
    assert_eq!(sim.shard.driver.buffered.bytes(), 69_000);
    sim.run_for(6 * SECOND);
    assert_eq!(sim.closed("auth_timeout"), 23);
    assert_eq!(sim.shard.driver.buffered.bytes(), 0);
    assert!(sim.ticks(honest).len() >= 5);
}

#[test]
fn clients_that_send_their_frames_in_pieces_outlive_those_that_never_finish() {
    let mut sim = with_bound(50_000);
    let honest: Vec<_> = (0..5).map(|_| sim.one_authenticated()).collect();
    for round in 0..40 {
        for client in &honest {
            sim.script
                .client_sends(*client, &padded(HEARTBEAT, 1_000)[..500]);
        }
        let hostile = sim.one_authenticated();
        sim.script
            .client_sends(hostile, &padded(HEARTBEAT, 4_000)[..3_900]);
        sim.run_for(100 * MS);
        for client in &honest {
            sim.script
                .client_sends(*client, &padded(HEARTBEAT, 1_000)[500..]);
        }
        sim.run_for(100 * MS);
        for client in &honest {
            assert_eq!(sim.frames(*client)[0].kind, PONG, "round {round}");
        }
    }
    assert!(
        sim.closed("server_full") >= 25,
        "{}",
        sim.closed("server_full")
    );
}

#[test]
fn half_of_a_frame_that_is_skipped_takes_next_to_nothing() {
    let mut sim = with_bound(100_000);
    let bytes = frame(0x80, &[7; 65_536]);
    let clients: Vec<_> = (0..1_000).map(|_| sim.one_authenticated()).collect();
    for client in &clients {
        sim.script.client_sends(*client, &bytes[..40_000]);
    }
    sim.run_for(100 * MS);
    assert_eq!(sim.shard.driver.buffered.bytes(), 40 * clients.len());
    for client in &clients {
        sim.script.client_sends(*client, &bytes[40_000..]);
        sim.script.client_sends(*client, &heartbeat(1));
    }
    sim.run_for(100 * MS);
    assert!(
        clients
            .iter()
            .all(|client| sim.frames(*client)[0].kind == PONG)
    );
    assert_eq!(sim.shard.driver.buffered.bytes(), 0);
}

#[test]
fn waiting_control_frames_count() {
    let mut sim = with_bound(10_000);
    let client = sim.one_authenticated();
    sim.script.on(client).room = Some(0);
    for _ in 0..10 {
        sim.script.client_sends(client, &heartbeat(1));
    }
    sim.run_for(MS);
    let waiting = sim.shard.driver.buffered.bytes();
    assert!(waiting >= 10 * 20, "{waiting}");
    assert_eq!(waiting, held(&mut sim));
    sim.script.client_reads(client, 10_000);
    sim.run_for(MS);
    assert_eq!(sim.shard.driver.buffered.bytes(), 0);
}

#[test]
fn a_connection_whose_socket_holds_much_or_anything_if_memory_is_tight_is_reset_when_closed() {
    for (unsent, is_tight, is_reset) in [
        (15_000, false, false),
        (17_000, false, true),
        (0, true, false),
        (1, true, true),
    ] {
        let mut sim = Sim::new(settings());
        let used = if is_tight { u64::MAX } else { 1 };
        sim.shard.driver.env.commons.memory.set_kernel_bytes(used);
        let client = sim.subscriber(Mode::Second, false);
        {
            let mut socket = sim.script.on(client);
            socket.room = Some(3);
            socket.memory.unsent = unsent;
        }
        sim.run_for(7 * SECOND);
        assert_eq!(sim.closed("slow_consumer"), 1);
        let socket = sim.script.on(client);
        assert_eq!((socket.is_closed, socket.is_reset), (true, is_reset));
    }
}

/// Sets the memory of a client's socket, in kilobytes.
fn fill(sim: &Sim, client: RawFd, unread: u32, unsent: u32) {
    sim.script.on(client).memory = SocketMemory {
        unread: unread * 1_000,
        unsent: unsent * 1_000,
    };
}

fn shed(sim: &mut Sim, used: u64, bound: u64) {
    let excess = Excess::of(used, bound).unwrap();
    let task = ShardTask::Shed(Shedding::new(excess));
    sim.shard.waiting.tasks.add(task);
    sim.run_for(100 * MS);
}

#[test]
fn shedding_closes_the_fullest_sockets_until_the_memory_fits() {
    let mut sim = Sim::new(settings());
    let mut clients = Vec::new();
    for kilobytes in 1..=40 {
        let client = sim.subscriber(Mode::Second, false);
        let unread = kilobytes / 2;
        fill(&sim, client, unread, kilobytes - unread);
        clients.push(client);
    }
    // The sockets hold 820 KB. With 10 % room below the bound, 730 - 90 % of 700 must go.
    shed(&mut sim, 820_000, 700_000);
    let is_closed = |client: &RawFd| sim.script.on(*client).is_closed;
    let closed = clients.iter().filter(|client| is_closed(client)).count();
    // 40 + 39 + 38 + 37 + 36 are the first to be 190 KB or more.
    assert_eq!(closed, 5);
    assert!(clients[35..].iter().all(is_closed));
    assert!(clients[35..].iter().all(|fd| sim.script.on(*fd).is_reset));
    assert_eq!(sim.closed("slow_consumer"), 5);
    assert_eq!(sim.metrics.memory.kernel_evictions.get(), 5);
}

#[test]
fn shedding_never_closes_a_client_with_a_few_frames_in_its_socket() {
    let mut sim = Sim::new(settings());
    let honest: Vec<_> = (0..20)
        .map(|_| sim.subscriber(Mode::Second, false))
        .collect();
    let hostile = sim.subscriber(Mode::Second, false);
    for client in &honest {
        fill(&sim, *client, 1, 15);
    }
    fill(&sim, hostile, 0, 137);
    // Other processes of the host use nearly all of the memory.
    shed(&mut sim, 1 << 40, 1);
    assert!(sim.script.on(hostile).is_closed);
    assert!(
        honest
            .iter()
            .all(|client| !sim.script.on(*client).is_closed)
    );
    sim.run_for(2 * SECOND);
    assert!(sim.ticks(honest[0]).len() >= 2);
}

#[derive(Clone, Debug)]
enum Action {
    Connect,
    /// Lets this many milliseconds pass.
    Pass(u64),
    OfClient(prop::sample::Index, Deed),
}

/// A random action of one client.
#[derive(Clone, Debug)]
enum Deed {
    /// Sends at most so many of the next bytes of a frame, or the first ones of a new frame.
    Send(Kind, usize),
    LimitRoom(usize),
    Read(usize),
    End,
    Break,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Auth,
    WrongAuth,
    Subscribe,
    Heartbeat,
    Padded(usize),
    Skipped(usize),
    Garbage,
}

impl Kind {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Auth => auth("pass"),
            Self::WrongAuth => auth("guess"),
            Self::Subscribe => subscribe(Mode::Second, false, Some(0)),
            Self::Heartbeat => heartbeat(1),
            Self::Padded(len) => padded(HEARTBEAT, len),
            Self::Skipped(len) => frame(0x90, &vec![7; len]),
            Self::Garbage => b"GET / HTTP/1.1".to_vec(),
        }
    }
}

fn action() -> impl Strategy<Value = Action> {
    let kind = prop_oneof![
        6 => Just(Kind::Auth),
        1 => Just(Kind::WrongAuth),
        2 => Just(Kind::Subscribe),
        4 => Just(Kind::Heartbeat),
        4 => (100_usize..4_100).prop_map(Kind::Padded),
        2 => (0_usize..60_000).prop_map(Kind::Skipped),
        1 => Just(Kind::Garbage),
    ];
    let len = prop_oneof![1_usize..40, 1_usize..4_000, Just(usize::MAX)];
    let deed = prop_oneof![
        20 => (kind, len).prop_map(|(kind, len)| Deed::Send(kind, len)),
        2 => (0_usize..200).prop_map(Deed::LimitRoom),
        2 => (1_usize..5_000).prop_map(Deed::Read),
        1 => Just(Deed::End),
        1 => Just(Deed::Break),
    ];
    let who = any::<prop::sample::Index>();
    prop_oneof![
        4 => Just(Action::Connect),
        4 => (1_u64..2_000).prop_map(Action::Pass),
        26 => (who, deed).prop_map(|(who, deed)| Action::OfClient(who, deed)),
    ]
}

/// A client, and the bytes that it has not sent of its frame.
struct Client {
    fd: RawFd,
    rest: Vec<u8>,
}

impl Client {
    fn act(&mut self, deed: &Deed, script: &Script) {
        match deed {
            Deed::Send(kind, len) => {
                if self.rest.is_empty() {
                    self.rest = kind.bytes();
                }
                let rest = self.rest.split_off(self.rest.len().min(*len));
                script.client_sends(self.fd, &self.rest);
                self.rest = rest;
            }
            Deed::LimitRoom(room) => script.on(self.fd).room = Some(*room),
            Deed::Read(bytes) => script.client_reads(self.fd, *bytes),
            Deed::End => script.client_ends(self.fd),
            Deed::Break => script.breaks(self.fd, nix::errno::Errno::ECONNRESET),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_count_is_what_the_connections_hold_and_never_beyond_the_bound(
        actions in prop::collection::vec(action(), 1..150),
    ) {
        const BOUND: usize = 9_000;
        let mut sim = Sim::new(ShardSettings {
            buffered_max: BOUND,
            limits: Limits { frame_rate: 1_000, ..settings().limits },
            ..settings()
        });
        let mut clients: Vec<Client> = Vec::new();
        for action in actions {
            match action {
                Action::Connect => {
                    let fd = sim.script.connect();
                    clients.push(Client { fd, rest: Vec::new() });
                }
                Action::Pass(ms) => sim.run_for(Duration::from_millis(ms)),
                Action::OfClient(who, deed) => {
                    let len = clients.len().max(1);
                    if let Some(client) = clients.get_mut(who.index(len)) {
                        client.act(&deed, &sim.script);
                    }
                }
            }
            sim.run_for(MS);
            let counted = sim.shard.driver.buffered.bytes();
            prop_assert_eq!(counted, held(&mut sim));
            prop_assert!(counted <= BOUND, "{} bytes", counted);
        }
        for client in &clients {
            sim.script.client_ends(client.fd);
        }
        // Clients that are not read are noticed at the write deadline.
        sim.run_for(30 * SECOND);
        prop_assert!(sim.shard.connections.is_empty());
        prop_assert_eq!(sim.shard.driver.buffered.bytes(), 0);
        prop_assert_eq!(sim.metrics.memory.buffered_bytes.get(), 0);
    }
}
