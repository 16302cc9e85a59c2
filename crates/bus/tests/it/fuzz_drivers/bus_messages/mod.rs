//! Interprets any bytes as a script of what an attacker publishes on a bus with three clocks and an
//! edge. The attacker has the login of one clock, which binds the end of the subjects that it may
//! publish on, or may publish anything.
//!
//! Each message must become what it says, or be dropped. No event may name another clock than its
//! subject, and a request must have the key of its reply subject. With one login stolen, the edge
//! must always know the time.

mod script;

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, decode_announcement, decode_reply, decode_request, encode_announcement,
    encode_reply, encode_request,
};
use tickstorm_bus::{Bus as _, ClockEvent, EdgeEvent, Events, MemoryBus, MemoryLink};
use tickstorm_timebase::{ClockId, Mode, Mono, Reply, Timekeeper, TimekeeperConfig, UnixTime};

use self::script::{Attacker, Message, Operation, Script};

/// The clocks. The attacker has the login of the last.
const CLOCKS: [&str; 3] = ["clock-0", "clock-1", "clock-2"];
const HONEST: usize = 2;
/// CLOCK_TOLERANCE_MS.
const TOLERANCE: Duration = Duration::from_millis(20);
/// Unix time at the start of the script, in microseconds.
const START_UNIX_US: i64 = 1_700_000_040_000_000;
/// The time after which an edge has long known the time.
const WARM_UP: Duration = Duration::from_secs(5);

pub(crate) fn run(data: &[u8]) {
    let Some((flags, script)) = data.split_first() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let login = (flags & 1 == 0).then(|| id(CLOCKS[HONEST]));
    runtime.block_on(async {
        let mut world = World::new(flags & 2 == 0);
        world.pass(WARM_UP).await;
        let mut script = Script(script);
        loop {
            let attacker = Attacker {
                edge: &world.edge,
                login: login.clone(),
                nonce: world.nonce,
                unix_us: world.unix_us(),
            };
            match script.operation(&attacker) {
                Some(Operation::Pass(duration)) => world.pass(duration).await,
                Some(Operation::Publish(message)) => world.publish(&message),
                None => break,
            }
            if login.is_some() && world.are_configured {
                world.check_time();
            }
        }
    });
}

/// Returns the next event if there is one already. Nothing else has to run for it, so it does not
/// yield as tokio would make it do after a number of events.
fn ready<T>(next: impl Future<Output = Option<T>>) -> Option<T> {
    let next = pin!(tokio::task::unconstrained(next));
    match next.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(event) => event,
        Poll::Pending => None,
    }
}

/// A bus with an edge and its clocks, in virtual time.
struct World {
    bus: MemoryBus,
    edge: MemoryLink,
    edge_events: Events<EdgeEvent>,
    clocks: Vec<HonestClock>,
    keeper: Timekeeper,
    are_configured: bool,
    now: Mono,
    /// The number of the last request.
    nonce: u64,
}

struct HonestClock {
    id: ClockId,
    link: MemoryLink,
    events: Events<ClockEvent>,
}

impl World {
    /// Creates a bus whose edge listens to the three clocks, or to any.
    fn new(are_configured: bool) -> Self {
        let bus = MemoryBus::new();
        let ids = CLOCKS.map(id);
        let configured = if are_configured { &ids[..] } else { &[] };
        let edge = bus.link("edge");
        let edge_events = edge.edge_events(configured);
        let clocks = ids[..HONEST].iter().map(|id| {
            let link = bus.link(id.as_str());
            let events = link.clock_events(id);
            HonestClock {
                id: id.clone(),
                link,
                events,
            }
        });
        let config = TimekeeperConfig {
            clocks: configured.to_vec(),
            tolerance: TOLERANCE,
            holdover_max: Duration::from_secs(60),
        };
        Self {
            clocks: clocks.collect(),
            keeper: Timekeeper::new(config, Mono::ZERO),
            bus,
            edge,
            edge_events,
            are_configured,
            now: Mono::ZERO,
            nonce: 0,
        }
    }

    /// Lets time pass, with everything that the edge and the honest clocks do in it.
    async fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.turn();
        while self.now < end {
            let next = self.keeper.next_deadline().min(end);
            tokio::time::advance(next.since(self.now)).await;
            self.now = next;
            self.turn();
        }
    }

    /// Does what is due now.
    fn turn(&mut self) {
        self.hear();
        self.keeper.poll(self.now);
        if self.keeper.poll_redraw(self.now) {
            self.edge.redraw_reply_subject();
        }
        let next = self.nonce.wrapping_add(1);
        if let Some(nonce) = self.keeper.poll_request(self.now, || next) {
            self.nonce = nonce;
            self.edge.ask(nonce).expect("a connection");
            self.answer(nonce);
            self.hear();
        }
        assert!(
            self.keeper.next_deadline() > self.now,
            "the edge would spin"
        );
        let known = if self.are_configured {
            CLOCKS.len()
        } else {
            64
        };
        assert!(self.keeper.status(self.now).clocks.len() <= known);
    }

    /// Lets the honest clocks answer a request of the edge.
    fn answer(&mut self, asked: u64) {
        let unix_us = self.unix_us();
        for clock in &mut self.clocks {
            while let Some(event) = ready(clock.events.next()) {
                let ClockEvent::Request { nonce, reply_to } = event else {
                    continue;
                };
                let reply = Reply {
                    nonce,
                    clock_id: clock.id.clone(),
                    rank: 1,
                    received_unix_us: unix_us,
                    sent_unix_us: unix_us,
                    clock_error_us: 100,
                    synchronized: true,
                    timeline: 7,
                };
                clock.link.answer(&reply_to, &reply).expect("a connection");
                assert!(nonce == asked, "a request that nobody has made");
            }
        }
    }

    /// Passes the messages that have arrived to the edge.
    fn hear(&mut self) {
        while let Some(event) = self.next_event() {
            self.handle(&event);
        }
    }

    fn next_event(&mut self) -> Option<EdgeEvent> {
        ready(self.edge_events.next())
    }

    fn handle(&mut self, event: &EdgeEvent) {
        match event {
            EdgeEvent::Announcement(announcement, _) => {
                let _ = self.keeper.handle_announcement(announcement, self.now);
            }
            EdgeEvent::Reply(reply) => {
                let _ = self.keeper.handle_reply(reply, self.now);
            }
            EdgeEvent::Dropped { reason, clock, .. } => {
                if let Some(clock) = clock.as_ref().filter(|_| reason.accuses_sender()) {
                    self.keeper.handle_invalid(clock, self.now);
                }
            }
            EdgeEvent::Connected | EdgeEvent::Disconnected => {}
        }
    }

    /// Publishes a message of the attacker, and checks what becomes of it.
    fn publish(&mut self, message: &Message) {
        let Message {
            subject,
            reply_to,
            payload,
        } = message;
        self.hear();
        self.bus
            .inject(subject, reply_to.as_deref(), payload.clone());
        self.check_edge_events(subject, payload);
        self.check_clock_events(subject, reply_to.as_deref(), payload);
        self.turn();
    }

    fn check_edge_events(&mut self, subject: &str, payload: &[u8]) {
        let mut events = 0;
        while let Some(event) = self.next_event() {
            let sender = subject.rsplit('.').next().unwrap_or_default();
            let decoded = match &event {
                EdgeEvent::Announcement(one, _) => {
                    assert_eq!(one.clock_id.as_str(), sender, "{subject}");
                    let mode = mode_of(subject, self.edge.subjects(), &one.clock_id);
                    assert_eq!(mode, Some(one.mode), "{subject}");
                    assert_eq!(decode_announcement(one.mode, payload).as_ref(), Ok(one));
                    let again = encode_announcement(one);
                    assert_eq!(decode_announcement(one.mode, &again).as_ref(), Ok(one));
                    true
                }
                EdgeEvent::Reply(reply) => {
                    assert_eq!(reply.clock_id.as_str(), sender, "{subject}");
                    assert_eq!(subject, self.edge.answer_subject(&reply.clock_id));
                    assert_eq!(decode_reply(payload).as_ref(), Ok(reply));
                    assert_eq!(decode_reply(&encode_reply(reply)).as_ref(), Ok(reply));
                    true
                }
                EdgeEvent::Dropped { clock, count, .. } => {
                    assert_eq!(*count, 1);
                    assert!(clock.as_ref().is_none_or(|clock| clock.as_str() == sender));
                    false
                }
                EdgeEvent::Connected | EdgeEvent::Disconnected => panic!("{event:?}"),
            };
            assert!(!decoded || payload.len() <= MESSAGE_BYTES_MAX);
            self.handle(&event);
            events += 1;
        }
        assert!(events <= 1, "{events} events of one message");
    }

    /// No request is answered that has the key of another reply subject.
    fn check_clock_events(&mut self, subject: &str, reply_to: Option<&str>, payload: &[u8]) {
        let subjects = self.edge.subjects();
        for clock in &mut self.clocks {
            while let Some(event) = ready(clock.events.next()) {
                let ClockEvent::Request { nonce, .. } = event else {
                    continue;
                };
                assert_eq!(subject, subjects.time());
                let (found, key) = decode_request(payload).expect("a valid request");
                assert_eq!(nonce, found);
                let Some(key) = key else { continue };
                assert_eq!(reply_to, Some(subjects.reply(key.token()).as_str()));
                assert_eq!(
                    decode_request(&encode_request(nonce, &key)),
                    Ok((nonce, Some(key)))
                );
            }
        }
    }

    /// The edge knows the time, however the third clock behaves.
    fn check_time(&self) {
        let authority = self.keeper.authority().expect("the edge knows the time");
        let truth = UnixTime::from_nanos(self.unix_us() * 1_000);
        let error_ns = authority
            .time_at(self.now)
            .as_nanos()
            .abs_diff(truth.as_nanos());
        let allowed_ns = 2 * TOLERANCE.as_nanos();
        assert!(
            u128::from(error_ns) <= allowed_ns,
            "the time is {error_ns} ns wrong"
        );
        assert!(authority.is_valid(self.now));
    }

    /// Returns the time of the honest clocks.
    fn unix_us(&self) -> i64 {
        let elapsed_us = i64::try_from(self.now.as_nanos() / 1_000).expect("a short script");
        START_UNIX_US + elapsed_us
    }
}

fn mode_of(subject: &str, subjects: &tickstorm_bus::Subjects, clock: &ClockId) -> Option<Mode> {
    let mut modes = Mode::ALL.into_iter();
    modes.find(|mode| subject == subjects.tick(*mode, clock))
}

fn id(id: &str) -> ClockId {
    id.parse().expect("a valid id")
}
