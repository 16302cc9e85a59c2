//! Accepts connections: at a limited pace, and even if the process has run out of file descriptors.

use std::{future::poll_fn, io, mem, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use nix::errno::Errno;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, sleep, sleep_until},
};

use super::{
    health::Health,
    places::{Place, Places},
};

/// The connections that are accepted in a second. It bounds the time that clients can take from the
/// rest of the process, to about a tenth of a core, and is enough to let those that wait in the
/// kernel's queue in within a fraction of a second.
const PER_SECOND: u32 = 2_000;
/// With TLS, each of them computes a handshake, which takes about 0.3 ms.
const PER_SECOND_WITH_TLS: u32 = 1_000;
/// The connections that are accepted at once if there were none for a while.
const BURST: u32 = 600;

/// The time that a client has at least to send its request.
const EARLY_TIME_MIN: Duration = Duration::from_millis(32);
/// The time that a client has at least for its part of a TLS handshake and to send its request.
const EARLY_TIME_MIN_WITH_TLS: Duration = Duration::from_millis(100);

/// The connections that wait in the kernel's queue until they are accepted. Beyond it, clients try
/// again after a second, which is longer than a probe should take.
const QUEUE: u32 = 1_024;

/// The pause after a failed accept, without which the loop would spin.
const RETRY: Duration = Duration::from_millis(100);

/// The longest time for which a connection waits while the process has work that must not be
/// delayed.
const GIVE_WAY_MAX: Duration = Duration::from_millis(20);
/// The interval at which it looks whether the work is done.
const GIVE_WAY_STEP: Duration = Duration::from_millis(2);

/// Waits while `health` has work that must not be delayed. With many connections a second, the
/// work would share the CPU with them.
async fn give_way(health: &dyn Health) {
    let until = Instant::now() + GIVE_WAY_MAX;
    while health.is_pressed() && Instant::now() < until {
        sleep(GIVE_WAY_STEP).await;
    }
}

/// Listens on `addr`.
pub(super) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A daemon that is restarted must not wait for connections of its predecessor to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(QUEUE)
}

/// The accepting side of the port.
pub(super) struct Acceptor {
    listener: TcpListener,
    places: Arc<Places>,
    pace: Pace,
    is_failing: bool,
}

impl Acceptor {
    /// Creates an acceptor with places for `connections_max` connections.
    pub(super) fn new(listener: TcpListener, connections_max: usize, has_tls: bool) -> Self {
        let (per_second, early_time_min) = if has_tls {
            (PER_SECOND_WITH_TLS, EARLY_TIME_MIN_WITH_TLS)
        } else {
            (PER_SECOND, EARLY_TIME_MIN)
        };
        Self {
            listener,
            places: Places::new(connections_max, early_time_min),
            pace: Pace::new(per_second),
            is_failing: false,
        }
    }

    /// Returns the next connection, and a place for it. It waits while `health` has work that must
    /// not be delayed.
    pub(super) async fn accept(&mut self, health: &dyn Health) -> (TcpStream, SocketAddr, Place) {
        self.pace.wait().await;
        loop {
            let error = match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.is_failing = false;
                    give_way(health).await;
                    return self.seat(stream, peer).await;
                }
                Err(error) => error,
            };
            if !mem::replace(&mut self.is_failing, true) {
                tracing::warn!(%error, "the admin port has trouble accepting connections");
            }
            if !is_out_of_files(&error) {
                sleep(RETRY).await;
                continue;
            }
            if !self.places.release_reserved() {
                self.places.wait_for_room().await;
                continue;
            }
            let accepted = self.accept_now().await;
            if let Some(Ok((stream, peer))) = accepted {
                return self.seat(stream, peer).await;
            }
            // Nobody is waiting, or another thread was faster.
            self.places.keep_reserve();
        }
    }

    /// Accepts a connection if one is waiting. Without descriptors, the kernel reports an error
    /// even if none is.
    async fn accept_now(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        poll_fn(|context| {
            Poll::Ready(match self.listener.poll_accept(context) {
                Poll::Ready(accepted) => Some(accepted),
                Poll::Pending => None,
            })
        })
        .await
    }

    async fn seat(&self, stream: TcpStream, peer: SocketAddr) -> (TcpStream, SocketAddr, Place) {
        let place = self.places.take(peer.ip()).await;
        (stream, peer, place)
    }
}

fn is_out_of_files(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

/// Spreads events, so that there are at most so many in a second, after a burst.
struct Pace {
    interval: Duration,
    /// The earliest time of the next event, if there was one before.
    next: Option<Instant>,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second,
            next: None,
        }
    }

    /// Waits until the next event may happen.
    async fn wait(&mut self) {
        let now = Instant::now();
        let earliest = now.checked_sub(self.interval * BURST).unwrap_or(now);
        let next = self.next.map_or(earliest, |next| next.max(earliest));
        if next > now {
            sleep_until(next).await;
        }
        self.next = Some(next + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pace_allows_a_burst_and_then_so_many_per_second() {
        // Tokio's clock starts when the machine did, so there is time before now.
        let mut pace = Pace::new(PER_SECOND);
        let start = Instant::now();
        for _ in 0..=BURST {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..PER_SECOND {
            pace.wait().await;
        }
        let took = start.elapsed();
        let second = Duration::from_secs(1);
        assert!(took >= second && took < second * 2, "{took:?}");
        tokio::time::advance(second * 60).await;
        let start = Instant::now();
        for _ in 0..=BURST {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    /// A component that is pressed for the given time from its creation.
    struct Pressed(Instant);

    impl Health for Pressed {
        fn live(&self) -> Vec<String> {
            Vec::new()
        }

        fn ready(&self) -> Vec<String> {
            Vec::new()
        }

        fn status(&self) -> serde_json::Value {
            serde_json::Value::Null
        }

        fn is_pressed(&self) -> bool {
            Instant::now() < self.0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_while_the_process_is_pressed() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut acceptor = Acceptor::new(listener, 1, false);
        let _client = std::net::TcpStream::connect(addr).unwrap();
        let start = Instant::now();
        acceptor.accept(&Pressed(start + GIVE_WAY_MAX)).await;
        assert!(start.elapsed() >= GIVE_WAY_MAX, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_gives_way_to_urgent_work_for_a_bounded_time() {
        for (pressed_ms, waits_ms) in [(0, 0..=0), (7, 7..=9), (1_000, 20..=22)] {
            let start = Instant::now();
            give_way(&Pressed(start + Duration::from_millis(pressed_ms))).await;
            let waited = start.elapsed().as_millis();
            assert!(waits_ms.contains(&waited), "{pressed_ms} ms: {waited} ms");
        }
    }
}
