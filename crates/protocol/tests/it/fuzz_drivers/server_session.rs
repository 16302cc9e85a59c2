//! Interprets any bytes as a script of frames, splits and times that a session goes through.
//! Whatever arrives, and however it was divided into reads, the session must take the same steps,
//! give the same answers and have the same deadlines.

use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::{Auth, Heartbeat, Subscribe};
use tickstorm_protocol::session::server::{self, Greeting, Limits, ServerSession, Step};
use tickstorm_timebase::{Epoch, Mono};

/// The password that the driver accepts.
const PASSWORD: &str = "right";
/// The id of every connection.
const CONNECTION_ID: &str = "4821-k7m2q9xd";
/// The moment of accept, far enough from zero for time to be moved back.
const START: Mono = Mono::from_nanos(1_000_000_000_000);

/// An event in a session's life.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Arrive(Vec<u8>),
    Advance(Duration),
    /// Time goes back, as it does in a shard after a stall of the edge.
    GoBack(Duration),
    Pause,
    Resume,
}

/// The way in which the bytes of consecutive [`Event::Arrive`]s are passed to the session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// All bytes that arrive at the same moment in one piece.
    Coalesced,
    /// The bytes of each arrival in one piece.
    AsTheyArrive,
    /// The bytes of each arrival in pieces of this many bytes.
    Pieces(usize),
    /// Through `keep`, as by a driver that cannot continue immediately.
    Kept,
}

/// The observable behaviour of a session.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Transcript {
    pub(crate) steps: Vec<Step>,
    pub(crate) answers: Vec<u8>,
    pub(crate) deadlines: Vec<Mono>,
}

pub(crate) fn run(data: &[u8]) {
    let &[settings, ref script @ ..] = data else {
        return;
    };
    let limits = limits(settings);
    assert_same_for_every_cut(&limits, &parse(script));
}

pub(crate) fn limits(settings: u8) -> Limits {
    Limits {
        auth_timeout: Duration::from_secs(5),
        heartbeat_interval: Duration::from_secs(15),
        heartbeat_timeout: Duration::from_secs(20),
        frame_rate: match settings & 5 {
            0 => 10,
            4 => 1,
            _ => 1_000,
        },
        max_msg_size: if settings & 2 == 0 { 65_536 } else { 4_096 },
        edge_id: "edge-0".to_owned(),
    }
}

/// Runs `events` through a session with every cut, and asserts that all transcripts are the same.
pub(crate) fn assert_same_for_every_cut(limits: &Limits, events: &[Event]) -> Transcript {
    let expected = transcript(limits, events, Cut::AsTheyArrive);
    for cut in [
        Cut::Coalesced,
        Cut::Pieces(1),
        Cut::Pieces(5),
        Cut::Pieces(13),
        Cut::Kept,
    ] {
        assert_eq!(transcript(limits, events, cut), expected, "{cut:?}");
    }
    expected
}

pub(crate) fn transcript(limits: &Limits, events: &[Event], cut: Cut) -> Transcript {
    let mut edge = Edge::new(limits);
    let mut waiting = Vec::new();
    for event in events {
        if let Event::Arrive(bytes) = event {
            match cut {
                Cut::Coalesced => waiting.extend_from_slice(bytes),
                Cut::AsTheyArrive => edge.read(bytes),
                Cut::Pieces(len) => bytes.chunks(len).for_each(|piece| edge.read(piece)),
                Cut::Kept => {
                    edge.session.keep(bytes);
                    edge.read(&[]);
                }
            }
            continue;
        }
        edge.read(&std::mem::take(&mut waiting));
        edge.pass(event);
    }
    edge.read(&waiting);
    edge.transcript
}

/// A minimal driver, which acts on the session's steps and records them.
struct Edge<'a> {
    limits: &'a Limits,
    session: ServerSession,
    now: Mono,
    closed: bool,
    transcript: Transcript,
}

impl<'a> Edge<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            session: ServerSession::new(START),
            now: START,
            closed: false,
            transcript: Transcript::default(),
        }
    }

    fn read(&mut self, mut input: &[u8]) {
        while !self.closed {
            let step = self.session.step(self.limits, &mut input, self.now);
            if step == Step::NeedsInput {
                assert!(input.is_empty(), "the session left input unused");
                assert_eq!(self.session.has_kept(), self.session.buffered() > 0);
                return;
            }
            self.act(&step);
            self.transcript.steps.push(step);
        }
    }

    fn act(&mut self, step: &Step) {
        let out = &mut self.transcript.answers;
        match step {
            Step::NeedsInput => {}
            Step::Auth(auth) if auth.password == PASSWORD => {
                assert_eq!(self.session.deadline(self.limits), Mono::NEVER);
                let greeting = Greeting {
                    connection_id: CONNECTION_ID,
                    cookie: &[],
                };
                self.session.accept(self.limits, &greeting, self.now, out);
                assert!(self.session.is_authenticated());
            }
            Step::Auth(_) => self.close(CloseReason::AuthFailed),
            Step::Subscribe(request) => {
                let start = request.resume_after.unwrap_or(Epoch::from_ms(1_000));
                self.session.subscribed(self.limits, start, out);
                assert!(self.session.is_subscribed());
            }
            Step::Heartbeat { client_time_us } => {
                server::pong(*client_time_us, 0, 0, u32::MAX, 0, out);
            }
            Step::Close(reason) => self.close(*reason),
        }
    }

    fn pass(&mut self, event: &Event) {
        match event {
            Event::Arrive(_) => {}
            Event::Advance(duration) => self.now = self.now + *duration,
            Event::GoBack(duration) => self.now = self.now.saturating_sub(*duration),
            Event::Pause => self.session.pause(self.now),
            Event::Resume => self.session.resume(self.now),
        }
        if self.closed {
            return;
        }
        let deadline = self.session.deadline(self.limits);
        self.transcript.deadlines.push(deadline);
        let reason = self.session.check_deadline(self.limits, self.now);
        assert_eq!(reason.is_some(), self.now >= deadline);
        if let Some(reason) = reason {
            self.close(reason);
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.closed = true;
        let code = reason
            .error_code()
            .expect("a session closes only with reasons that have a code");
        let out = &mut self.transcript.answers;
        server::error(code, &reason.to_string(), 0, CONNECTION_ID, out);
    }
}

/// Parses a script: operations, each followed by its operands. The script ends at the first operand
/// that is missing.
fn parse(script: &[u8]) -> Vec<Event> {
    let mut script = Script(script);
    let mut events = Vec::new();
    while let Some(event) = script.event() {
        events.push(event);
    }
    events
}

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn event(&mut self) -> Option<Event> {
        let operation = self.byte()?;
        Some(match operation % 9 {
            0 => Event::Advance(Duration::from_millis(u64::from(self.byte()?))),
            1 => Event::Advance(Duration::from_millis(u64::from(self.byte()?) * 100)),
            2 => Event::GoBack(Duration::from_millis(u64::from(self.byte()?))),
            3 => Event::Pause,
            4 => Event::Resume,
            5 => Event::Arrive(self.typical_frame()?),
            6 => Event::Arrive(self.bytes()?),
            7 => Event::Arrive(frame_of(self.byte()?, &self.bytes()?)),
            _ => {
                let mut corrupted = frame_of(self.byte()?, &self.bytes()?);
                let at = usize::from(self.byte()?) % corrupted.len();
                corrupted[at] ^= self.byte()?;
                Event::Arrive(corrupted)
            }
        })
    }

    /// Parses a typical frame of a client.
    fn typical_frame(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self.byte()? % 6 {
            0 => frame::encode(FrameType::Auth, &auth(PASSWORD), &mut out),
            1 => frame::encode(FrameType::Auth, &auth("wrong"), &mut out),
            2 => {
                let subscribe = Subscribe {
                    mode: i32::from(self.byte()? % 3),
                    resume_after_epoch_ms: Some(i64::from(self.byte()?)),
                    ahead: self.byte()? % 2 == 1,
                };
                frame::encode(FrameType::Subscribe, &subscribe, &mut out);
            }
            3 => frame::encode(FrameType::Subscribe, &Subscribe::default(), &mut out),
            4 => {
                let heartbeat = Heartbeat {
                    client_time_us: i64::from(self.byte()?),
                };
                frame::encode(FrameType::Heartbeat, &heartbeat, &mut out);
            }
            _ => out = frame_of(0x80 | self.byte()?, &[]),
        }
        Some(out)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = usize::from(self.byte()?);
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes.to_vec())
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }
}

fn auth(password: &str) -> Auth {
    Auth {
        username: "somebody".to_owned(),
        password: password.to_owned(),
        ..Auth::default()
    }
}

/// Returns a valid frame of the given type and payload.
fn frame_of(type_byte: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a short payload");
    let mut bytes = vec![0xF5, 0x7D, 1, type_byte];
    bytes.extend(len.to_be_bytes());
    bytes.extend(payload);
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}
