//! [`Ticks`]: what a subscription brings, as a `Stream`. A task of its own keeps the connection alive, so that heartbeats leave in
//! time however slowly ticks are taken; that task knows nothing of the wire, which is [`Connection`]'s business.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, future};

use futures_core::Stream;
use tickstorm_timebase::{Clock, Epoch, Mode, Quality, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use crate::connection::{Connection, Received, SharedClock, Subscribed, connect_tcp};
use crate::error::Error;
use crate::estimate::{Estimate, Estimator};
use crate::options::Options;

/// Events kept for a reader that is slow: a batch at its largest. Beyond, the connection is not read, and the edge decides what
/// becomes of a slow consumer.
const EVENTS_MAX: usize = 1_000;

/// What a subscription brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A tick, later than all before it.
    Tick(Tick),
}

/// A tick as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Which grid it is on.
    pub mode: Mode,
    /// Unix time of the tick.
    pub epoch: Epoch,
    /// How the edge came to release it.
    pub quality: Quality,
    /// Authority time when this client read it; none where it was not known then.
    pub read: Option<Estimate>,
}

impl Tick {
    /// How long after its time this client read the tick, in microseconds, give or take `read`'s error; negative where it seems
    /// to have been early. None where authority time was not known.
    #[must_use]
    pub fn late_us(&self) -> Option<i64> {
        let read = self.read?;
        Some(
            read.unix
                .as_micros()
                .saturating_sub(self.epoch.time().as_micros()),
        )
    }
}

/// Connects to an edge, authenticates and subscribes. Must be called within a tokio runtime.
///
/// An edge that doesn't know the time yet answers when it does: bound the wait where that matters.
///
/// # Errors
/// Whatever kept the subscription from beginning.
pub async fn connect(options: Options) -> Result<Ticks, Error> {
    let socket = connect_tcp(&options.address).await?;
    connect_over(socket, SystemClock, options).await
}

/// The same over a connection that exists already (a tunnel, or a pipe in a test), with a clock of one's own. The options' address
/// is not looked at.
///
/// # Errors
/// Whatever kept the subscription from beginning.
pub async fn connect_over<S, C>(socket: S, clock: C, options: Options) -> Result<Ticks, Error>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    C: Clock + Send + Sync + 'static,
{
    let clock: SharedClock = Arc::new(clock);
    let subscribed = Connection::subscribe(socket, Arc::clone(&clock), &options).await?;
    let Subscribed {
        connection,
        welcome,
        start,
    } = subscribed;
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let ticks = Ticks {
        events,
        estimator: connection.estimator(),
        clock,
        edge_id: welcome.edge_id,
        start_epoch: start,
    };
    tokio::spawn(serve(connection, sender));
    Ok(ticks)
}

/// A subscription. Its items end with an error that says why the connection did. Dropping it closes the connection.
pub struct Ticks {
    events: mpsc::Receiver<Result<Event, Error>>,
    estimator: watch::Receiver<Estimator>,
    clock: SharedClock,
    edge_id: String,
    start_epoch: Epoch,
}

impl Ticks {
    /// What comes next; none after the error that ended the connection. May be dropped and called again without losing anything.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Authority time now; none before the edge has told it, or where it has not done so for 30 s.
    #[must_use]
    pub fn authority_time(&self) -> Option<Estimate> {
        self.estimator.borrow().estimate(self.clock.now())
    }

    /// The edge's name, as it says; it may hold anything.
    #[must_use]
    pub fn edge_id(&self) -> &str {
        &self.edge_id
    }

    /// The point after which this subscription's ticks begin: what to resume after where none has come.
    #[must_use]
    pub fn start_epoch(&self) -> Epoch {
        self.start_epoch
    }
}

impl Stream for Ticks {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
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

/// Keeps the connection alive until it ends or nobody wants its ticks any more.
async fn serve<S>(mut connection: Connection<S>, events: mpsc::Sender<Result<Event, Error>>)
where
    S: AsyncRead + AsyncWrite,
{
    let mut waiting = VecDeque::new();
    let error = loop {
        let Some(&first) = waiting.front() else {
            tokio::select! {
                received = connection.next_ticks() => match received {
                    Ok(received) => waiting.extend(ticks(received)),
                    Err(error) => break error,
                },
                () = events.closed() => return,
            }
            continue;
        };
        tokio::select! {
            sent = events.send(Ok(Event::Tick(first))) => match sent {
                Ok(()) => drop(waiting.pop_front()),
                Err(_) => return,
            },
            error = connection.keep_alive() => break error,
        }
    };
    for tick in waiting {
        if events.send(Ok(Event::Tick(tick))).await.is_err() {
            return;
        }
    }
    // Whoever doesn't wait for it any more has lost nothing.
    let _ = events.send(Err(error)).await;
}

fn ticks(received: Received) -> impl Iterator<Item = Tick> {
    let Received { batch, read } = received;
    batch.ticks.into_iter().map(move |tick| Tick {
        mode: batch.mode,
        epoch: tick.epoch,
        quality: tick.quality,
        read,
    })
}
