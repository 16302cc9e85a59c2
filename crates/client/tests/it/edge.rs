//! A scripted edge at the other end of a pipe, built on protocol's own server session, and a clock
//! that follows tokio's paused time.

use std::collections::HashSet;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tickstorm_client::{AlarmClock, Dial, Error, Options, Ticks, connect_by, connect_over};
use tickstorm_protocol::ErrorCode;
use tickstorm_protocol::frame::{self, FrameType};
use tickstorm_protocol::message::{Ack, Auth, GoingAway, encode_batch};
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::server::{self, Greeting, Limits, ServerSession, Step};
use tickstorm_timebase::{Clock, Epoch, Mode, Mono, Quality, Tick};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// The authority time, in microseconds, at which each test begins.
pub(crate) const BASE_US: i64 = 1_700_000_040_000_000;
/// The capacity of a pipe in bytes, the same as that of a socket's buffers.
const PIPE_LEN: usize = 65_536;

/// A clock that shows tokio's time.
#[derive(Clone, Copy)]
pub(crate) struct TokioClock {
    began: Instant,
    /// For how long the machine has been suspended, in milliseconds; tokio's time stops
    /// meanwhile.
    suspended_ms: &'static AtomicU64,
}

impl TokioClock {
    pub(crate) fn starting_now() -> Self {
        Self {
            began: Instant::now(),
            suspended_ms: Box::leak(Box::default()),
        }
    }

    /// Suspends the machine of the client. The edges' time continues.
    pub(crate) fn suspend(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap();
        self.suspended_ms.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Mono {
        // The clock does not start at zero, which a real clock never shows either.
        Mono::ZERO + Duration::from_secs(1_000) + self.began.elapsed()
    }

    fn suspended(&self) -> Duration {
        Duration::from_millis(self.suspended_ms.load(Ordering::SeqCst))
    }
}

impl AlarmClock for TokioClock {
    type Timer = ();

    /// Rounds up to the next millisecond, as tokio's timer does.
    async fn wait_until(&self, (): &mut (), at: Mono) {
        sleep(at.since(self.now())).await;
    }
}

/// What an edge sees of its client until a given moment.
pub(crate) enum Seen {
    Step(Step),
    Closed,
    Nothing,
}

/// The edge's end of a connection.
pub(crate) struct Edge {
    socket: DuplexStream,
    session: ServerSession,
    pub(crate) limits: Limits,
    /// The name of this connection; empty if it has none.
    pub(crate) connection_id: &'static str,
    pub(crate) clock: TokioClock,
    began: Mono,
    /// The difference between this edge's time and the test's, in microseconds.
    pub(crate) skew_us: i64,
    /// The last tick sent, or the start of the subscription, in milliseconds after the base.
    pub(crate) last_ms: i64,
    input: Vec<u8>,
}

/// Starts a client, and returns it with the edge that it connects to.
pub(crate) fn dial(options: Options) -> (JoinHandle<Result<Ticks, Error>>, Edge) {
    let (near, edge) = edge_alone();
    (tokio::spawn(connect_over(near, edge.clock, options)), edge)
}

/// Returns an edge, and the client's end of the pipe to it.
pub(crate) fn edge_alone() -> (DuplexStream, Edge) {
    let clock = TokioClock::starting_now();
    edge_of(clock, clock.now())
}

pub(crate) fn edge_of(clock: TokioClock, began: Mono) -> (DuplexStream, Edge) {
    let (near, far) = tokio::io::duplex(PIPE_LEN);
    let edge = Edge {
        socket: far,
        session: ServerSession::new(clock.now()),
        limits: Limits {
            auth_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(15),
            heartbeat_timeout: Duration::from_secs(20),
            frame_rate: 10,
            max_msg_size: 65_536,
            edge_id: "edge-7".into(),
        },
        connection_id: "",
        clock,
        began,
        skew_us: 0,
        last_ms: 0,
        input: Vec::new(),
    };
    (near, edge)
}

/// The edges that a client connects to: a new one for each connection.
pub(crate) struct Net {
    /// Each address that the client dialled, and the edge there; `None` if no edge listens.
    dialled: mpsc::UnboundedReceiver<(String, Option<Edge>)>,
}

/// An address from which no answer ever comes, not even to an attempt to connect.
pub(crate) const DEAD: &str = "dead";

struct Dialler {
    clock: TokioClock,
    began: Mono,
    deserted: HashSet<&'static str>,
    dialled: mpsc::UnboundedSender<(String, Option<Edge>)>,
}

impl Dial for Dialler {
    type Socket = DuplexStream;

    async fn dial(&mut self, address: &str) -> io::Result<DuplexStream> {
        if address == DEAD {
            pending::<()>().await;
        }
        let (near, mut edge) = edge_of(self.clock, self.began);
        edge.limits.edge_id = format!("edge at {address}");
        let edge = (!self.deserted.contains(address)).then_some(edge);
        let answers = edge.is_some();
        self.dialled.send((address.to_owned(), edge)).unwrap();
        answers
            .then_some(near)
            .ok_or(io::ErrorKind::ConnectionRefused.into())
    }
}

impl Net {
    /// Starts a client. No edge listens at the `deserted` addresses.
    pub(crate) fn dial(
        options: Options,
        deserted: &[&'static str],
    ) -> (JoinHandle<Result<Ticks, Error>>, Self) {
        let (sender, dialled) = mpsc::unbounded_channel();
        let clock = TokioClock::starting_now();
        let dialler = Dialler {
            began: clock.now(),
            deserted: deserted.iter().copied().collect(),
            dialled: sender,
            clock,
        };
        let client = tokio::spawn(connect_by(dialler, clock, options));
        (client, Self { dialled })
    }

    /// Returns a subscribed client, and its edge, which last released the tick `start_ms` after the
    /// base.
    pub(crate) async fn subscribed(options: Options, start_ms: i64) -> (Ticks, Edge, Self) {
        let (client, mut net) = Self::dial(options, &[]);
        let mut edge = net.edge().await;
        edge.accept().await;
        edge.acknowledge(epoch(start_ms)).await;
        (client.await.unwrap().unwrap(), edge, net)
    }

    /// Waits for the next address that the client dials, and returns it with the edge there.
    pub(crate) async fn next(&mut self) -> Option<(String, Option<Edge>)> {
        self.dialled.recv().await
    }

    /// Waits for the client to dial, and returns the edge there.
    pub(crate) async fn edge(&mut self) -> Edge {
        match self.next().await {
            Some((_, Some(edge))) => edge,
            Some((address, None)) => panic!("the client dialled {address}, which is deserted"),
            None => panic!("the client gave up"),
        }
    }
}

/// An end of a pipe that can only be read: every write fails.
pub(crate) struct ReadOnly(pub(crate) DuplexStream);

impl AsyncRead for ReadOnly {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for ReadOnly {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns a subscribed client and its edge, which last released the tick `start_ms` after the
/// base.
pub(crate) async fn subscribed(start_ms: i64) -> (Ticks, Edge) {
    let (client, mut edge) = dial(Options::new("unused"));
    edge.accept().await;
    edge.acknowledge(epoch(start_ms)).await;
    (client.await.unwrap().unwrap(), edge)
}

/// Returns the epoch `ms` milliseconds after the base.
pub(crate) fn epoch(ms: i64) -> Epoch {
    Epoch::from_ms(BASE_US / 1_000 + ms)
}

impl Edge {
    /// Accepts the next AUTH, and returns it.
    pub(crate) async fn accept(&mut self) -> Auth {
        self.accept_with(&[]).await
    }

    /// Accepts the next AUTH with a cookie, and returns it.
    pub(crate) async fn accept_with(&mut self, cookie: &[u8]) -> Auth {
        let step = self.step().await;
        let Step::Auth(mut auth) = step else {
            panic!("{step:?} instead of AUTH");
        };
        self.greet(cookie).await;
        std::mem::take(&mut *auth)
    }

    /// Accepts the AUTH that has arrived.
    pub(crate) async fn greet(&mut self, cookie: &[u8]) {
        let greeting = Greeting {
            connection_id: self.connection_id,
            cookie,
        };
        let mut frame = Vec::new();
        self.session
            .accept(&self.limits, &greeting, self.clock.now(), &mut frame);
        self.send(&frame).await;
    }

    /// Accepts the next AUTH as an edge of protocol minor 0 does, which leaves SUBSCRIBE unanswered
    /// while it does not know the time.
    pub(crate) async fn accept_as_minor_0(&mut self) {
        let step = self.step().await;
        assert!(matches!(step, Step::Auth(_)), "{step:?} instead of AUTH");
        let mut unused = Vec::new();
        self.session.accept(
            &self.limits,
            &Greeting::default(),
            self.clock.now(),
            &mut unused,
        );
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap();
        let ack = Ack {
            acked_type: u32::from(FrameType::Auth.byte()),
            heartbeat_interval_ms: millis(self.limits.heartbeat_interval),
            heartbeat_timeout_ms: millis(self.limits.heartbeat_timeout),
            edge_id: self.limits.edge_id.clone(),
            ..Ack::default()
        };
        let mut frame = Vec::new();
        frame::encode(FrameType::Ack, &ack, &mut frame);
        self.send(&frame).await;
    }

    /// Accepts a client, and acknowledges its subscription: the ticks after its resume point
    /// follow, or else those after the present.
    pub(crate) async fn subscribe(&mut self) -> Request {
        self.accept().await;
        let request = self.subscription().await;
        let present = epoch(self.authority_ms().div_euclid(1_000) * 1_000);
        self.subscribed(request.resume_after.unwrap_or(present))
            .await;
        request
    }

    /// Returns the client's next step, if it takes one before `until`. It is cancel safe.
    pub(crate) async fn see_until(&mut self, until: Instant) -> Seen {
        match tokio::time::timeout_at(until, self.step_unless_closed()).await {
            Ok(Some(step)) => Seen::Step(step),
            Ok(None) => Seen::Closed,
            Err(_) => Seen::Nothing,
        }
    }

    /// Sends bytes, and returns whether the client has kept the connection open.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).await.is_ok()
    }

    /// Waits for a SUBSCRIBE, and returns its request.
    pub(crate) async fn subscription(&mut self) -> Request {
        let step = self.step().await;
        let Step::Subscribe(request) = step else {
            panic!("{step:?} instead of SUBSCRIBE");
        };
        request
    }

    /// Acknowledges the next SUBSCRIBE, and returns its request.
    pub(crate) async fn acknowledge(&mut self, start: Epoch) -> Request {
        let request = self.subscription().await;
        self.subscribed(start).await;
        request
    }

    /// Acknowledges a SUBSCRIBE that has arrived.
    pub(crate) async fn subscribed(&mut self, start: Epoch) {
        let mut frame = Vec::new();
        self.session.subscribed(&self.limits, start, &mut frame);
        self.last_ms = start.as_ms().saturating_sub(BASE_US / 1_000);
        self.send(&frame).await;
    }

    /// Waits for a HEARTBEAT, and returns the client's timestamp, which the PONG must echo.
    pub(crate) async fn heartbeat(&mut self) -> i64 {
        let step = self.step().await;
        let Step::Heartbeat { client_time_us } = step else {
            panic!("{step:?} instead of HEARTBEAT");
        };
        client_time_us
    }

    /// Answers HEARTBEATs for `duration`, and returns when each arrived, counted from the start of
    /// the test.
    pub(crate) async fn answer_for(&mut self, duration: Duration) -> Vec<Duration> {
        let (mut arrivals, end) = (Vec::new(), Instant::now() + duration);
        while let Ok(client_time_us) = tokio::time::timeout_at(end, self.heartbeat()).await {
            arrivals.push(self.clock.now().since(self.began));
            self.pong(client_time_us).await;
        }
        arrivals
    }

    /// Does what a healthy edge does for `duration`: sends each SECOND tick at its time, and
    /// answers HEARTBEATs. Returns when each arrived, counted from the start of the test. Ends
    /// early if the client closes the connection.
    pub(crate) async fn serve_for(&mut self, duration: Duration) -> Vec<Duration> {
        let (mut arrivals, end) = (Vec::new(), Instant::now() + duration);
        loop {
            let due = self.authority_ms().div_euclid(1_000) * 1_000;
            if due > self.last_ms {
                let first = self.last_ms.div_euclid(1_000) * 1_000 + 1_000;
                let ticks = (first..=due).step_by(1_000);
                let frame = self.batch(Mode::Second, Quality::Normal, ticks);
                if self.socket.write_all(&frame).await.is_err() {
                    return arrivals;
                }
                self.last_ms = due;
            }
            let next_us = (self.last_ms + 1_000) * 1_000 + BASE_US - self.authority_us();
            let wait = Duration::from_micros(u64::try_from(next_us).unwrap());
            let until = end.min(Instant::now() + wait);
            match tokio::time::timeout_at(until, self.step_unless_closed()).await {
                Ok(Some(Step::Heartbeat { client_time_us })) => {
                    arrivals.push(self.clock.now().since(self.began));
                    self.pong(client_time_us).await;
                }
                Ok(Some(other)) => panic!("{other:?} instead of HEARTBEAT"),
                Ok(None) => return arrivals,
                Err(_) if Instant::now() >= end => return arrivals,
                Err(_) => {}
            }
        }
    }

    /// Does what a healthy edge does until the client closes the connection.
    pub(crate) async fn serve(&mut self) {
        self.serve_for(Duration::from_secs(10_000)).await;
    }

    /// Tells the client that this edge will close the connection.
    pub(crate) async fn go_away(&mut self, deadline_ms: u32) {
        let mut frame = Vec::new();
        let going_away = GoingAway {
            deadline_ms,
            reason: "a test".into(),
        };
        frame::encode(FrameType::GoingAway, &going_away, &mut frame);
        self.send(&frame).await;
    }

    /// Returns whether the client has closed the connection, or does within 50 ms. Frames that it
    /// sent before are skipped.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let closed = async { while self.step_unless_closed().await.is_some() {} };
        tokio::time::timeout(Duration::from_millis(50), closed)
            .await
            .is_ok()
    }

    /// Answers HEARTBEATs for `duration`, as an edge that does not know the time, and returns when
    /// each arrived, counted from the start of the test.
    pub(crate) async fn answer_without_time_for(&mut self, duration: Duration) -> Vec<Duration> {
        let (mut arrivals, end) = (Vec::new(), Instant::now() + duration);
        while let Ok(client_time_us) = tokio::time::timeout_at(end, self.heartbeat()).await {
            arrivals.push(self.clock.now().since(self.began));
            if self.try_pong_without_time(client_time_us).await.is_err() {
                break;
            }
        }
        arrivals
    }

    /// Answers HEARTBEATs as an edge that does not know the time, until the client closes the
    /// connection.
    pub(crate) async fn answer_without_time_until_closed(&mut self) {
        while let Some(step) = self.step_unless_closed().await {
            let Step::Heartbeat { client_time_us } = step else {
                panic!("{step:?} instead of HEARTBEAT");
            };
            if self.try_pong_without_time(client_time_us).await.is_err() {
                return;
            }
        }
    }

    /// Answers a HEARTBEAT by this edge's time, with an error bound of 10 µs.
    pub(crate) async fn pong(&mut self, client_time_us: i64) {
        let now_us = self.authority_us();
        let mut frame = Vec::new();
        server::pong(client_time_us, now_us, now_us, 10, 0, &mut frame);
        self.send(&frame).await;
    }

    /// Answers a HEARTBEAT as an edge that does not know the time.
    pub(crate) async fn pong_without_time(&mut self, client_time_us: i64) {
        self.try_pong_without_time(client_time_us).await.unwrap();
    }

    /// Answers a HEARTBEAT as an edge that does not know the time. Fails if the client has closed
    /// the connection since, as it may in the very millisecond of its HEARTBEAT.
    async fn try_pong_without_time(&mut self, client_time_us: i64) -> io::Result<()> {
        let mut frame = Vec::new();
        server::pong(client_time_us, 0, 0, u32::MAX, 0, &mut frame);
        self.socket.write_all(&frame).await
    }

    /// Sends a batch of SECOND ticks at these milliseconds after the base.
    pub(crate) async fn ticks(&mut self, epochs_ms: impl IntoIterator<Item = i64>) {
        let epochs_ms: Vec<i64> = epochs_ms.into_iter().collect();
        let frame = self.batch(Mode::Second, Quality::Normal, epochs_ms.iter().copied());
        self.last_ms = epochs_ms.last().copied().unwrap_or(self.last_ms);
        self.send(&frame).await;
    }

    /// Returns the frame of a batch of ticks at these milliseconds after the base.
    pub(crate) fn batch(
        &self,
        mode: Mode,
        quality: Quality,
        epochs_ms: impl IntoIterator<Item = i64>,
    ) -> Vec<u8> {
        let ticks: Vec<Tick> = epochs_ms
            .into_iter()
            .map(|ms| Tick {
                epoch: epoch(ms),
                quality,
            })
            .collect();
        let mut frame = Vec::new();
        encode_batch(mode, &ticks, self.authority_us(), &mut frame);
        frame
    }

    /// Refuses the client and closes the connection.
    pub(crate) async fn refuse(mut self, code: ErrorCode, message: &str, retry_after_ms: u32) {
        let mut frame = Vec::new();
        let id = self.connection_id;
        server::error(code, message, retry_after_ms, id, &mut frame);
        self.send(&frame).await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Waits for the client to close the connection, for less time than passes before it would next
    /// send a frame.
    pub(crate) async fn closed_by_client(mut self) {
        let rest = tokio::time::timeout(
            Duration::from_millis(50),
            self.socket.read_to_end(&mut self.input),
        );
        rest.await
            .expect("the client closes the connection")
            .unwrap();
    }

    fn authority_us(&self) -> i64 {
        let elapsed = self.clock.now().since(self.began) + self.clock.suspended();
        BASE_US + self.skew_us + i64::try_from(elapsed.as_micros()).unwrap()
    }

    /// Returns this edge's time in milliseconds after the base.
    pub(crate) fn authority_ms(&self) -> i64 {
        (self.authority_us() - BASE_US).div_euclid(1_000)
    }

    async fn step(&mut self) -> Step {
        let step = self.step_unless_closed().await;
        step.expect("the client keeps the connection open")
    }

    async fn step_unless_closed(&mut self) -> Option<Step> {
        loop {
            let mut rest = &self.input[..];
            let step = self.session.step(&self.limits, &mut rest, self.clock.now());
            self.input = rest.to_vec();
            if step != Step::NeedsInput {
                return Some(step);
            }
            if self.socket.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }
}
