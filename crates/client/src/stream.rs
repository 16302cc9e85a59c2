//! [`Ticks`]: a subscription's events as a `Stream`, and [`TickStream`]: its ticks only.
//! [`Subscription`] determines the events, and how the subscription continues when a connection
//! ends.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{fmt, future, panic};

use futures_core::Stream;
use tickstorm_protocol::session::client::Welcome;
use tickstorm_timebase::{Epoch, Mode, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::ahead;
use crate::alarm_clock::AlarmClock;
use crate::connection::SharedClock;
use crate::dial::{Dial, Once, Tcp};
use crate::error::{ConnectionId, Error};
use crate::estimate::{Estimate, Estimator};
use crate::event::{Event, Tick};
use crate::options::Options;
use crate::subscription::Subscription;
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::trail;

/// The largest number of events buffered for a slow reader: one batch of maximum size. Beyond it,
/// the connection is not read, and the edge decides what happens to a slow consumer.
const EVENTS_MAX: usize = 1_000;

/// Connects to an edge, authenticates and subscribes. Must be called within a tokio runtime.
///
/// The first connection succeeds or fails without a pause: each address is tried, also if an edge
/// at another one has refused the credentials, and those that do not answer within a second are
/// tried again, after the others. Later connections are retried without limit, each time announced
/// by [`Event::Reconnecting`], unless [`Options::reconnect`] is off.
///
/// If no subscription is made, but an edge did not know the time yet, this tries again until an
/// edge does, as often as edges want it. Callers that need a limit should add a timeout.
///
/// # Errors
/// The reason why no subscription was made: a refusal that would recur at that address, if there
/// was one, or else what happened at the address that was tried last.
pub async fn connect(options: Options) -> Result<Ticks, Error> {
    #[cfg(feature = "tls")]
    if let Some(tls) = &options.tls {
        return connect_by(Tls::new(tls)?, SystemClock, options).await;
    }
    connect_by(Tcp::default(), SystemClock, options).await
}

/// Does the same as [`connect`], but over connections that `dial` makes, and with the caller's
/// clock.
///
/// # Errors
/// The reason why no subscription was made: a refusal that would recur at that address, if there
/// was one, or else what happened at the address that was tried last.
pub async fn connect_by<D, C>(dial: D, clock: C, options: Options) -> Result<Ticks, Error>
where
    D: Dial,
    C: AlarmClock,
{
    options.credentials.check()?;
    let (clock, ahead) = (Arc::new(clock), options.ahead);
    let (mode, wanted) = watch::channel(options.mode);
    let mut subscription = Subscription::new(dial, Arc::clone(&clock), options, wanted);
    // Boxed, so that the future of this function is small.
    let subscribed = Box::pin(subscription.connect_first()).await?;
    let (welcome, start_epoch) = (subscribed.welcome.clone(), subscribed.start);
    let address = subscription.address().to_owned();
    trail::write_start(&address, &welcome, start_epoch);
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let estimator = subscription.estimator();
    let mut tasks = vec![tokio::spawn(subscription.run(subscribed, sender))];
    if ahead {
        let (releaser, released) = mpsc::channel(EVENTS_MAX);
        let incoming = std::mem::replace(&mut events, released);
        tasks.push(tokio::spawn(ahead::release(
            incoming,
            releaser,
            estimator.clone(),
            Arc::clone(&clock),
        )));
    }
    Ok(Ticks {
        events,
        tasks,
        estimator: estimator.subscribe(),
        clock,
        mode,
        address,
        welcome,
        start_epoch,
    })
}

/// Does the same as [`connect`], but over one connection that already exists (a tunnel, or a pipe
/// in a test), and with the caller's clock. The options' addresses are ignored, and the client does
/// not reconnect when the connection ends.
///
/// # Errors
/// The reason why no subscription was made.
pub async fn connect_over<S, C>(socket: S, clock: C, options: Options) -> Result<Ticks, Error>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    C: AlarmClock,
{
    let mut options = options.reconnect(false);
    options.addresses.truncate(1);
    connect_by(Once(Some(socket)), clock, options).await
}

/// A subscription, which may span many connections. Items are errors only if [`Options::reconnect`]
/// is off: then the last item is the error that ended the connection. Dropping this value closes
/// the connection.
pub struct Ticks {
    events: mpsc::Receiver<Result<Event, Error>>,
    /// The tasks through which events pass, in that order.
    tasks: Vec<JoinHandle<()>>,
    estimator: watch::Receiver<Estimator>,
    clock: SharedClock,
    /// Tells the subscription which mode the program wants.
    mode: watch::Sender<Mode>,
    address: String,
    /// What the edge said at the first connection, with the names of the current one.
    welcome: Welcome,
    start_epoch: Epoch,
}

impl Ticks {
    /// Returns the next event, or `None` after the error that ended the connection. This is cancel
    /// safe: no event is lost if the future is dropped before it completes.
    ///
    /// # Panics
    /// If a task of this subscription has panicked, with the same panic.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Returns the current authority time, or `None` if the edge has not sent it yet, has not sent
    /// it for 30 s, or has not sent it again since this machine was suspended or stalled.
    #[must_use]
    pub fn authority_time(&self) -> Option<Estimate> {
        let (now, suspended) = (self.clock.now(), self.clock.suspended());
        let estimator = self.estimator.borrow();
        (!estimator.is_void(suspended))
            .then(|| estimator.estimate(now))
            .flatten()
    }

    /// Asks for the ticks of another mode, on the same connection if there is one. The ticks of the
    /// old mode end, and those of the new one begin, with [`Event::ModeChanged`].
    ///
    /// After SECOND ticks, the MINUTE ticks after the last of them follow. After MINUTE ticks, the
    /// SECOND ticks from the present on follow. A mode that is set before the edge has accepted an
    /// earlier one takes its place. An edge counts a SUBSCRIBE as ten frames, so on one connection
    /// the mode changes every 1.5 s at most, or less often if the edge allows fewer than ten frames
    /// per second.
    pub fn set_mode(&self, mode: Mode) {
        self.mode
            .send_if_modified(|wanted| std::mem::replace(wanted, mode) != mode);
    }

    /// Returns the mode that was asked for last.
    #[must_use]
    pub fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Returns this subscription's ticks as a stream of their own, for programs that need nothing
    /// else. Other events only go to the log.
    #[must_use]
    pub fn into_tick_stream(self) -> TickStream {
        TickStream {
            ticks: self,
            end: None,
        }
    }

    /// Returns the address of the edge that the last event came from: one of those in [`Options`].
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the name of the edge that the last event came from, as the edge gives it; it may
    /// contain any characters.
    #[must_use]
    pub fn edge_id(&self) -> &str {
        &self.welcome.edge_id
    }

    /// Returns the id of the connection that the last event came over, by which the edge's operator
    /// finds it; `None` if the edge gave it none.
    #[must_use]
    pub fn connection_id(&self) -> Option<&ConnectionId> {
        self.welcome.connection_id.as_ref()
    }

    /// Returns the frames per second that the first edge allows a client to send; `None` if it did
    /// not say. This client keeps to it.
    #[must_use]
    pub fn frame_rate_limit(&self) -> Option<NonZeroU32> {
        self.welcome.frame_rate_limit
    }

    /// Returns the point after which this subscription's ticks start. Until a tick has arrived, a
    /// later subscription resumes from this point.
    #[must_use]
    pub fn start_epoch(&self) -> Epoch {
        self.start_epoch
    }
}

impl Ticks {
    /// Waits until all tasks have ended. If one of them panicked, the panic continues here.
    fn poll_tasks(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(task) = self.tasks.last_mut() {
            let outcome = ready!(Pin::new(task).poll(context));
            self.tasks.pop();
            // Any other error means that the task's runtime has ended.
            if let Some(Ok(cause)) = outcome.err().map(JoinError::try_into_panic) {
                panic::resume_unwind(cause);
            }
        }
        Poll::Ready(())
    }
}

impl Stream for Ticks {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.events.poll_recv(context);
        if let Poll::Ready(Some(Ok(
            Event::Reconnected {
                address,
                edge_id,
                connection_id,
            }
            | Event::Moved {
                address,
                edge_id,
                connection_id,
            },
        ))) = &item
        {
            self.address.clone_from(address);
            self.welcome.edge_id.clone_from(edge_id);
            self.welcome.connection_id.clone_from(connection_id);
        }
        if let Poll::Ready(None) = item {
            ready!(self.poll_tasks(context));
        }
        item
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticks")
            .field("edge_id", &self.edge_id())
            .field("connection_id", &self.connection_id())
            .field("start_epoch", &self.start_epoch)
            .finish_non_exhaustive()
    }
}

/// The ticks of a subscription, without its other events, each of which goes to the log: a gap or a
/// lost connection as a warning, and the rest as information. The stream only ends if
/// [`Options::reconnect`] is off.
#[derive(Debug)]
pub struct TickStream {
    ticks: Ticks,
    end: Option<Error>,
}

impl TickStream {
    /// Returns the next tick, or `None` after the end of the connection, for which
    /// [`TickStream::end`] gives the reason. This is cancel safe: no tick is lost if the future is
    /// dropped before it completes.
    ///
    /// # Panics
    /// If a task of this subscription has panicked, with the same panic.
    pub async fn next(&mut self) -> Option<Tick> {
        future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Returns the error that ended the connection, if [`Options::reconnect`] is off and it has
    /// ended.
    #[must_use]
    pub fn end(&self) -> Option<&Error> {
        self.end.as_ref()
    }

    /// Returns the subscription: its edge, its mode and authority time.
    #[must_use]
    pub fn subscription(&self) -> &Ticks {
        &self.ticks
    }
}

impl Stream for TickStream {
    type Item = Tick;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Tick>> {
        loop {
            match ready!(Pin::new(&mut self.ticks).poll_next(context)) {
                Some(Ok(Event::Tick(tick))) => return Poll::Ready(Some(tick)),
                Some(Ok(
                    Event::Gap { .. }
                    | Event::Reconnecting { .. }
                    | Event::Reconnected { .. }
                    | Event::Moved { .. }
                    | Event::ModeChanged { .. },
                )) => {}
                Some(Err(error)) => self.end = Some(error),
                None => return Poll::Ready(None),
            }
        }
    }
}
