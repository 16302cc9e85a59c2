//! [`Conversation`]: one connection's progress through its script. It does no I/O: it takes the
//! bytes that arrived, and says what to send and what to wait for.

use std::sync::Arc;

use anyhow::Context as _;
use prost::Message as _;
use tickstorm_bench::ClientTls;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{Decoder, Rules};
use tickstorm_protocol::message::ErrorMsg;
use tickstorm_timebase::Mono;
use tickstorm_tls::{ClientHandshake, ClientSession, HandshakeProgress, Opened};

use super::forging;
use super::http::{AnswerStatus, Verdict};
use crate::script::{Script, Step};
use crate::wire;

/// The user name and password of a swarm.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The next thing to do for a connection, after everything before it has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send what was appended to the output, and ask again.
    Send,
    /// Wait for input.
    Wait,
    /// Wait for input until this time, and ask again.
    WaitUntil(Mono),
    /// Count the connection as served, and ask again.
    Served,
    /// Read nothing more, and ask again.
    StopReading,
    /// Shut down the sending side, and ask again.
    HalfClose,
    /// Close the connection in order.
    Close,
    /// Close the connection by a reset.
    Reset,
}

/// The outcome of a step.
enum Progress {
    /// The step is not over.
    InStep(Next),
    /// The step is over. If there is nothing to do, the next one follows immediately.
    Done(Option<Next>),
    /// The step of this number follows.
    GoTo(usize),
}

/// What is between the frames and the socket.
enum Channel {
    Plain,
    /// TLS whose handshake has not started.
    Unsecured(ClientTls),
    Handshake(Box<ClientHandshake>),
    Secured(Box<ClientSession>),
}

/// The refusal that the edge has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) retry_after_ms: u32,
}

/// A connection's progress.
pub(crate) struct Conversation {
    script: Arc<Script>,
    login: Arc<Login>,
    channel: Channel,
    /// The number of the step that is next or in progress.
    at: usize,
    /// When the step in progress continues.
    until: Option<Mono>,
    /// The number of bytes that a `Trickle` has sent.
    trickled: usize,
    deaf_from: usize,
    /// Input that has not been opened.
    records: Vec<u8>,
    decoder: Decoder,
    /// The answer of the admin port; `None` on a connection to the port for clients.
    answer: Option<AnswerStatus>,
    /// ACKs that no step has waited for yet.
    acks: u32,
    /// Whether anything has arrived.
    has_heard: bool,
    /// The device cookie to present, or the one that the last ACK brought.
    pub(crate) cookie: Vec<u8>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) acks_total: u64,
    /// The number of steps that sent something.
    pub(crate) sends: u64,
}

impl Conversation {
    pub(crate) fn new(
        script: Arc<Script>,
        login: Arc<Login>,
        tls: Option<&ClientTls>,
        cookie: Vec<u8>,
    ) -> Self {
        Self {
            deaf_from: script.deaf_from(),
            answer: script.is_http.then(AnswerStatus::default),
            script,
            login,
            channel: tls.map_or(Channel::Plain, |tls| Channel::Unsecured(tls.clone())),
            at: 0,
            until: None,
            trickled: 0,
            records: Vec::new(),
            decoder: Decoder::default(),
            acks: 0,
            has_heard: false,
            cookie,
            refusal: None,
            acks_total: 0,
            sends: 0,
        }
    }

    /// Takes input. An answer to it, such as the last message of a TLS handshake, is appended to
    /// `output`.
    ///
    /// # Errors
    /// The edge has broken TLS or the protocol.
    pub(crate) fn handle_input(
        &mut self,
        bytes: &[u8],
        output: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        self.has_heard = true;
        if let Some(answer) = &mut self.answer {
            answer.handle_input(bytes);
            return Ok(());
        }
        let is_abandoned = matches!(self.script.steps.get(self.at), Some(Step::HalfHandshake));
        match &mut self.channel {
            Channel::Unsecured(_) => Ok(()),
            Channel::Handshake(_) if is_abandoned => Ok(()),
            Channel::Handshake(handshake) => {
                let progress = handshake.handle_input(bytes, output)?;
                if let HandshakeProgress::Established(established) = progress {
                    self.channel = Channel::Secured(established.session);
                    self.open(&established.unread)?;
                }
                Ok(())
            }
            Channel::Secured(_) | Channel::Plain if self.at >= self.deaf_from => Ok(()),
            Channel::Secured(_) => self.open(bytes),
            Channel::Plain => self.take_frames(bytes),
        }
    }

    /// Returns, once, what the admin port has answered.
    pub(super) fn take_verdict(&mut self) -> Option<Verdict> {
        self.answer.as_mut()?.take()
    }

    /// Carries out steps until there is something to do or to wait for. Everything to send is
    /// appended to `output`.
    ///
    /// # Errors
    /// TLS could not be used.
    pub(crate) fn poll(&mut self, now: Mono, output: &mut Vec<u8>) -> anyhow::Result<Next> {
        let script = Arc::clone(&self.script);
        loop {
            let Some(step) = script.steps.get(self.at) else {
                return Ok(Next::Wait);
            };
            match self.carry_out(step, now, output)? {
                Progress::InStep(next) => return Ok(next),
                Progress::Done(None) => self.at += 1,
                Progress::Done(Some(next)) => {
                    self.at += 1;
                    return Ok(next);
                }
                Progress::GoTo(from) => self.at = from,
            }
        }
    }

    fn carry_out(
        &mut self,
        step: &Step,
        now: Mono,
        output: &mut Vec<u8>,
    ) -> anyhow::Result<Progress> {
        let next = match step {
            Step::ShakeHands | Step::HalfHandshake => return self.shake_hands(step, output),
            Step::Trickle(bytes, every) => return self.trickle(bytes, now + *every, now, output),
            Step::Send(bytes) => {
                self.seal(bytes, output)?;
                Next::Send
            }
            Step::Auth => {
                let Login { user, password } = &*self.login;
                let frame = wire::auth(user, password, &self.cookie);
                self.seal(&frame, output)?;
                Next::Send
            }
            Step::KeyUpdate(bytes) => {
                forging::key_update(self.session()?, output)?;
                self.seal(bytes, output)?;
                Next::Send
            }
            Step::EmptyRecord => {
                forging::empty_record(self.session()?, output)?;
                Next::Send
            }
            Step::ForgedRecord => {
                forging::unauthentic_record(output);
                Next::Send
            }
            Step::Pause(time) => {
                return Ok(match self.wait(now + *time, now) {
                    Some(until) => Progress::InStep(Next::WaitUntil(until)),
                    None => Progress::Done(None),
                });
            }
            Step::Repeat { from, every } => {
                return Ok(match self.wait(now + *every, now) {
                    Some(until) => Progress::InStep(Next::WaitUntil(until)),
                    None => Progress::GoTo(*from),
                });
            }
            Step::AwaitAck => {
                return Ok(match self.acks.checked_sub(1) {
                    Some(acks) => {
                        self.acks = acks;
                        Progress::Done(None)
                    }
                    None => Progress::InStep(Next::Wait),
                });
            }
            Step::Served => Next::Served,
            Step::StopReading => Next::StopReading,
            Step::HalfClose => Next::HalfClose,
            Step::Close => Next::Close,
            Step::Reset => Next::Reset,
            Step::Hold => return Ok(Progress::InStep(Next::Wait)),
        };
        self.sends += u64::from(next == Next::Send);
        Ok(Progress::Done(Some(next)))
    }

    /// Starts to wait until `until`, or continues to wait. Returns until when, or `None` if that
    /// time has passed.
    fn wait(&mut self, until: Mono, now: Mono) -> Option<Mono> {
        let until = *self.until.get_or_insert(until);
        if now < until {
            return Some(until);
        }
        self.until = None;
        None
    }

    fn trickle(
        &mut self,
        bytes: &[u8],
        until: Mono,
        now: Mono,
        output: &mut Vec<u8>,
    ) -> anyhow::Result<Progress> {
        if let Some(until) = self.wait(until, now) {
            return Ok(Progress::InStep(Next::WaitUntil(until)));
        }
        let Some(byte) = bytes.get(self.trickled..=self.trickled) else {
            self.trickled = 0;
            return Ok(Progress::Done(None));
        };
        self.seal(byte, output)?;
        self.trickled += 1;
        self.sends += 1;
        Ok(Progress::InStep(Next::Send))
    }

    /// Starts a handshake or waits for its end.
    fn shake_hands(&mut self, step: &Step, output: &mut Vec<u8>) -> anyhow::Result<Progress> {
        let is_abandoned = self.has_heard && matches!(step, Step::HalfHandshake);
        match &self.channel {
            Channel::Plain | Channel::Secured(_) => Ok(Progress::Done(None)),
            Channel::Handshake(_) if is_abandoned => Ok(Progress::Done(None)),
            Channel::Handshake(_) => Ok(Progress::InStep(Next::Wait)),
            Channel::Unsecured(tls) => {
                let (config, name) = (Arc::clone(&tls.config), tls.name.clone());
                let handshake = ClientHandshake::start(config, name, output)?;
                self.channel = Channel::Handshake(Box::new(handshake));
                self.sends += 1;
                Ok(Progress::InStep(Next::Send))
            }
        }
    }

    fn seal(&mut self, bytes: &[u8], output: &mut Vec<u8>) -> anyhow::Result<()> {
        match &mut self.channel {
            Channel::Secured(session) => Ok(session.seal(bytes, output)?),
            Channel::Plain | Channel::Unsecured(_) | Channel::Handshake(_) => {
                output.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn session(&mut self) -> anyhow::Result<&mut ClientSession> {
        match &mut self.channel {
            Channel::Secured(session) => Ok(session),
            Channel::Plain | Channel::Unsecured(_) | Channel::Handshake(_) => {
                anyhow::bail!("the script needs a TLS session that does not exist")
            }
        }
    }

    /// Opens the records that are complete and takes the frames in them.
    fn open(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.records.extend_from_slice(bytes);
        let mut records = std::mem::take(&mut self.records);
        let (mut frames, mut at) = (Vec::new(), 0);
        loop {
            match self.session()?.open(&mut records[at..])? {
                Opened::Incomplete | Opened::Closed => break,
                Opened::Record { record, content } => {
                    frames.extend_from_slice(&records[at..][content]);
                    at += record;
                }
            }
        }
        records.drain(..at);
        self.records = records;
        self.take_frames(&frames)
    }

    fn take_frames(&mut self, mut input: &[u8]) -> anyhow::Result<()> {
        while let Some(frame) = self
            .decoder
            .decode(Rules::CLIENT, &mut input)
            .context("the edge broke the protocol")?
        {
            match frame.frame_type() {
                Some(FrameType::Ack) => {
                    let cookie = wire::cookie_of(frame.payload());
                    if !cookie.is_empty() {
                        self.cookie = cookie;
                    }
                    self.acks += 1;
                    self.acks_total += 1;
                }
                Some(FrameType::Error) => {
                    let error = ErrorMsg::decode(frame.payload())?;
                    self.refusal = Some(Refusal {
                        code: error.code,
                        retry_after_ms: error.retry_after_ms,
                    });
                }
                Some(
                    FrameType::Auth
                    | FrameType::Subscribe
                    | FrameType::Heartbeat
                    | FrameType::DataBatch
                    | FrameType::Pong
                    | FrameType::GoingAway,
                )
                | None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tickstorm_testkit::frame::{self, RawFrame, frame};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plain(script: Script) -> Conversation {
        let login = Login {
            user: "user".into(),
            password: "secret".into(),
        };
        Conversation::new(Arc::new(script), Arc::new(login), None, Vec::new())
    }

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    /// Returns what is sent and what follows it.
    fn poll(conversation: &mut Conversation, now: Mono) -> (Vec<u8>, Next) {
        let mut output = Vec::new();
        let next = conversation.poll(now, &mut output).unwrap();
        (output, next)
    }

    #[test]
    fn a_login_waits_for_its_ack_and_presents_the_cookie_the_next_time() {
        let script = Script::new([Step::ShakeHands, Step::Auth, Step::AwaitAck, Step::Served]);
        let mut conversation = plain(script.clone());
        let (mut sent, next) = poll(&mut conversation, at(0));
        assert_eq!(RawFrame::take(&mut sent).unwrap().kind, frame::AUTH);
        assert_eq!(next, Next::Send);
        assert_eq!(poll(&mut conversation, at(0)), (vec![], Next::Wait));
        // Field 9, length-delimited: a cookie of three bytes.
        let ack = frame(frame::ACK, &[9 << 3 | 2, 3, 7, 7, 7]);
        for byte in ack {
            assert_eq!(conversation.acks_total, 0);
            conversation.handle_input(&[byte], &mut Vec::new()).unwrap();
        }
        assert_eq!(poll(&mut conversation, at(0)), (vec![], Next::Served));
        let mut again = plain(script);
        again.cookie = conversation.cookie;
        let (sent, _) = poll(&mut again, at(0));
        assert_eq!(sent, wire::auth("user", "secret", &[7, 7, 7]));
    }

    #[test]
    fn a_trickle_sends_one_byte_per_interval() {
        let mut conversation = plain(Script::new([Step::Trickle((*b"abc").into(), SECOND)]));
        let mut sent = Vec::new();
        for second in 0..10 {
            let before = sent.len();
            while let (bytes, Next::Send) = poll(&mut conversation, at(second)) {
                sent.extend(bytes);
            }
            assert!(sent.len() - before <= 1, "more than one byte in a second");
        }
        assert_eq!(sent, b"abc");
    }

    #[test]
    fn a_repeated_step_waits_for_its_interval() {
        let mut conversation = plain(Script::default().send_every(*b"x", SECOND));
        let mut sends = 0;
        for tenth in 0..50 {
            let now = Mono::from_nanos(tenth * 100_000_000);
            while let (_, Next::Send) = poll(&mut conversation, now) {
                sends += 1;
            }
        }
        assert_eq!(sends, 5);
        assert_eq!(conversation.sends, 5);
    }

    #[test]
    fn a_refusal_is_remembered() {
        let script = Script::new([Step::Auth, Step::AwaitAck]);
        let mut conversation = plain(script);
        poll(&mut conversation, at(0));
        let error = ErrorMsg {
            code: "AUTH_FAILED".into(),
            retry_after_ms: 70,
            ..ErrorMsg::default()
        };
        let error = frame(frame::ERROR, &error.encode_to_vec());
        conversation.handle_input(&error, &mut Vec::new()).unwrap();
        let refusal = Refusal {
            code: "AUTH_FAILED".into(),
            retry_after_ms: 70,
        };
        assert_eq!(conversation.refusal, Some(refusal));
    }

    #[test]
    fn steps_of_tls_alone_need_tls() {
        let mut conversation = plain(Script::new([Step::EmptyRecord]));
        assert!(conversation.poll(at(0), &mut Vec::new()).is_err());
    }
}
