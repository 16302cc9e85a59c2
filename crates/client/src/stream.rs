//! [`Ticks`]: what a subscription brings, as a `Stream`. What it brings, and how it goes on when a connection ends, is
//! [`Subscription`]'s business.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{fmt, future, panic};

use futures_core::Stream;
use tickstorm_timebase::{Epoch, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::ahead;
use crate::alarm_clock::AlarmClock;
use crate::connection::{SharedClock, Subscribed};
use crate::dial::{Dial, Once, Tcp};
use crate::error::Error;
use crate::estimate::{Estimate, Estimator};
use crate::event::Event;
use crate::options::Options;
use crate::subscription::Subscription;

/// Events kept for a reader that is slow: a batch at its largest. Beyond, the connection is not read, and the edge decides what
/// becomes of a slow consumer.
const EVENTS_MAX: usize = 1_000;

/// Connects to an edge, authenticates and subscribes. Must be called within a tokio runtime.
///
/// The first connection comes about or fails at once: each address is tried one time. Later ones are made again and again, as
/// [`Event::Reconnecting`] says, unless [`Options::reconnect`] is off. An edge that doesn't know the time yet answers when it does: the
/// only one is waited for, one of several for 8 s, and then the next is tried, round and round until one knows it. Bound
/// the wait where that matters.
///
/// # Errors
/// Whatever kept the subscription from beginning, at the address that was tried last.
pub async fn connect(options: Options) -> Result<Ticks, Error> {
    connect_by(Tcp, SystemClock, options).await
}

/// The same over connections that `dial` brings about, with a clock of one's own.
///
/// # Errors
/// Whatever kept the subscription from beginning, at the address that was tried last.
pub async fn connect_by<D, C>(dial: D, clock: C, options: Options) -> Result<Ticks, Error>
where
    D: Dial,
    C: AlarmClock,
{
    let (clock, ahead) = (Arc::new(clock), options.ahead);
    let mut subscription = Subscription::new(dial, Arc::clone(&clock), options);
    let Subscribed {
        connection,
        welcome,
        start,
    } = subscription.begin().await?;
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let estimator = subscription.estimator();
    let mut tasks = vec![tokio::spawn(subscription.run(connection, sender))];
    if ahead {
        let (releaser, released) = mpsc::channel(EVENTS_MAX);
        let (incoming, estimator) = (std::mem::replace(&mut events, released), estimator.clone());
        tasks.push(tokio::spawn(ahead::release(
            incoming,
            releaser,
            estimator,
            Arc::clone(&clock),
        )));
    }
    Ok(Ticks {
        events,
        tasks,
        estimator,
        clock,
        edge_id: welcome.edge_id,
        start_epoch: start,
    })
}

/// The same over one connection that exists already (a tunnel, or a pipe in a test), with a clock of one's own. The options'
/// addresses are not looked at, and when it ends there is no other.
///
/// # Errors
/// Whatever kept the subscription from beginning.
pub async fn connect_over<S, C>(socket: S, clock: C, options: Options) -> Result<Ticks, Error>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    C: AlarmClock,
{
    let mut options = options.reconnect(false);
    options.addresses.truncate(1);
    connect_by(Once(Some(socket)), clock, options).await
}

/// A subscription, over as many connections as it takes. Items are never errors, unless [`Options::reconnect`] is off: then the last
/// one says why the connection ended. Dropping it closes the connection.
pub struct Ticks {
    events: mpsc::Receiver<Result<Event, Error>>,
    /// The tasks that events pass through, in the order of the events' way.
    tasks: Vec<JoinHandle<()>>,
    estimator: watch::Receiver<Estimator>,
    clock: SharedClock,
    edge_id: String,
    start_epoch: Epoch,
}

impl Ticks {
    /// What comes next; none after the error that ended the connection. May be dropped and called again without losing anything.
    ///
    /// # Panics
    /// If a task of this subscription has panicked, with the same panic.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Authority time now; none before the edge has told it, or where it has not done so for 30 s.
    #[must_use]
    pub fn authority_time(&self) -> Option<Estimate> {
        self.estimator.borrow().estimate(self.clock.now())
    }

    /// The name of the edge that the last event came from, as it says; it may hold anything.
    #[must_use]
    pub fn edge_id(&self) -> &str {
        &self.edge_id
    }

    /// The point after which this subscription's ticks began: what to resume after where none has come.
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
            if let Err(error) = outcome
                && let Ok(cause) = error.try_into_panic()
            {
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
        if let Poll::Ready(Some(Ok(Event::Reconnected { edge_id, .. }))) = &item {
            self.edge_id.clone_from(edge_id);
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
            .field("edge_id", &self.edge_id)
            .field("start_epoch", &self.start_epoch)
            .finish_non_exhaustive()
    }
}
