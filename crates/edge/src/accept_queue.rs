//! [`AcceptQueue`]: the connections that the kernel holds until the shards accept them. If the
//! queue overflows, the kernel drops connections that no shard ever sees, so this is read from the
//! kernel's own statistics, by a task of its own.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tickstorm_timebase::{Clock, Mono, SystemClock};
use tokio::sync::watch;

use crate::metrics::AcceptQueueMetrics;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which an overflow is shown as an alarm, and the shortest time between two warnings.
const ALARM_TIME: Duration = Duration::from_secs(60);

/// The files of the network namespace that this process is in.
const NETSTAT: &str = "/proc/self/net/netstat";
const TCP: &str = "/proc/self/net/tcp";
const TCP6: &str = "/proc/self/net/tcp6";
/// The state of a listening socket in [`TCP`].
const LISTENING: &str = "0A";

/// What is known about the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AcceptQueueStatus {
    /// The connections that are waiting to be accepted, over all shards.
    pub(crate) len: u64,
    /// The overflows since the edge started.
    pub(crate) overflows: u64,
    overflowed_at: Option<Mono>,
}

impl AcceptQueueStatus {
    /// Returns whether the queue has overflowed within the last minute.
    pub(crate) fn is_overflowing(&self, now: Mono) -> bool {
        self.overflowed_at
            .is_some_and(|at| now.since(at) < ALARM_TIME)
    }
}

/// The watch on the accept queue of an address.
pub(crate) struct AcceptQueue {
    listen_addr: SocketAddr,
    status: watch::Sender<AcceptQueueStatus>,
}

impl AcceptQueue {
    /// Creates the watch for the shards' listeners on `listen_addr`.
    pub(crate) fn new(listen_addr: SocketAddr) -> Self {
        Self {
            listen_addr,
            status: watch::Sender::default(),
        }
    }

    /// Returns what is known about the queue, for operators.
    pub(crate) fn status(&self) -> watch::Receiver<AcceptQueueStatus> {
        self.status.subscribe()
    }

    /// Reads the statistics every second and publishes them, until the future is dropped.
    pub(crate) async fn run(self, metrics: AcceptQueueMetrics) {
        let addr = self.listen_addr;
        let mut counter = OverflowCounter::default();
        let mut has_failed = false;
        loop {
            // A thread of the blocking pool: the kernel takes locks to compile the statistics.
            let reading = tokio::task::spawn_blocking(move || read(addr));
            let read = match reading.await {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => {
                    // It may be out of file descriptors.
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::info!(%error, "the accept queue can't be watched for now");
                    }
                    tokio::time::sleep(CHECK_INTERVAL).await;
                    continue;
                }
                // The runtime is shutting down.
                Err(_) => return,
            };
            has_failed = false;
            let now = SystemClock.now();
            let new = counter.advance(read.overflows);
            metrics.overflows.inc_by(new);
            metrics.len.set(i64::try_from(read.len).unwrap_or(i64::MAX));
            let has_warned = self.status.borrow().is_overflowing(now);
            self.status
                .send_modify(|status| status.update(read.len, new, now));
            if new > 0 && !has_warned {
                tracing::warn!(
                    overflows = new,
                    waiting = read.len,
                    "the accept queue has overflowed: the system has dropped connections that no \
                     edge has seen; it counts overflows for all listeners of the network namespace"
                );
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }
}

impl AcceptQueueStatus {
    fn update(&mut self, len: u64, new_overflows: u64, now: Mono) {
        self.len = len;
        self.overflows += new_overflows;
        if new_overflows > 0 {
            self.overflowed_at = Some(now);
        }
    }
}

/// Turns the kernel's counter, which counts from the start of the machine, into increments.
#[derive(Debug, Default)]
struct OverflowCounter(Option<u64>);

impl OverflowCounter {
    /// Returns by how much the counter has grown. The first reading is where it starts.
    fn advance(&mut self, read: u64) -> u64 {
        let before = self.0.replace(read).unwrap_or(read);
        read.saturating_sub(before)
    }
}

/// One reading of the kernel's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    overflows: u64,
    len: u64,
}

fn read(addr: SocketAddr) -> io::Result<Reading> {
    let invalid = || io::Error::other(format!("{NETSTAT} has no ListenOverflows"));
    let overflows = overflows(&fs::read_to_string(NETSTAT)?).ok_or_else(invalid)?;
    let table = if addr.is_ipv4() { TCP } else { TCP6 };
    let len = queue_len(BufReader::new(File::open(table)?), addr)?;
    Ok(Reading { overflows, len })
}

/// Returns `ListenOverflows` from the text of `/proc/net/netstat`. It consists of pairs of lines:
/// the names of a group's values, and the values.
fn overflows(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        if let Some((_, value)) = pairs.find(|(name, _)| *name == "ListenOverflows") {
            return value.parse().ok();
        }
    }
    None
}

/// Returns the number of connections that wait at the listeners on `addr`, from the lines of
/// `/proc/net/tcp` or `tcp6`. Listening sockets come first, and reading ends after them, because
/// the kernel would need long to list 100,000 connections.
fn queue_len(table: impl BufRead, addr: SocketAddr) -> io::Result<u64> {
    let local = local_address(addr);
    let mut len = 0;
    for line in table.lines().skip(1) {
        let line = line?;
        // sl, local address, remote address, state, tx_queue:rx_queue
        let mut columns = line.split_whitespace().skip(1);
        let (address, state) = (columns.next(), columns.nth(1));
        if state != Some(LISTENING) {
            break;
        }
        let waiting = columns.next().and_then(|queues| queues.split_once(':'));
        if let (true, Some((_, waiting))) = (address == Some(&local), waiting) {
            len += u64::from_str_radix(waiting, 16).unwrap_or(0);
        }
    }
    Ok(len)
}

/// Returns an address as `/proc/net/tcp` writes it: in hex, each four bytes of the IP address as a
/// number in the machine's byte order.
fn local_address(addr: SocketAddr) -> String {
    let hex = |bytes: &[u8]| -> String {
        let words = bytes.as_chunks::<4>().0.iter();
        words
            .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
            .collect()
    };
    let ip = match addr.ip() {
        IpAddr::V4(ip) => hex(&ip.octets()),
        IpAddr::V6(ip) => hex(&ip.octets()),
    };
    format!("{ip}:{:04X}", addr.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use tickstorm_testkit::poll_until;

    use super::*;

    #[test]
    fn overflows_are_found_by_their_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\n\
                    TcpExt: 1 17 23\n\
                    IpExt: InNoRoutes\n\
                    IpExt: 5\n";
        assert_eq!(overflows(text), Some(17));
        assert_eq!(overflows("IpExt: InNoRoutes\nIpExt: 5\n"), None);
        assert!(overflows(&fs::read_to_string(NETSTAT).unwrap()).is_some());
    }

    #[test]
    fn the_counter_starts_at_the_first_reading() {
        let mut counter = OverflowCounter::default();
        assert_eq!(
            [1_000, 1_000, 1_003, 1_004].map(|read| counter.advance(read)),
            [0, 0, 3, 1]
        );
    }

    #[test]
    fn an_overflow_is_shown_for_a_minute() {
        let at = |seconds| Mono::ZERO + Duration::from_secs(seconds);
        let mut status = AcceptQueueStatus::default();
        status.update(5, 0, at(10));
        assert!(!status.is_overflowing(at(10)));
        status.update(4_096, 7, at(20));
        status.update(0, 0, at(21));
        assert_eq!((status.len, status.overflows), (0, 7));
        assert!(status.is_overflowing(at(79)));
        assert!(!status.is_overflowing(at(80)));
    }

    #[test]
    fn the_queues_of_all_listeners_of_an_address_are_summed_and_nothing_after_them_is_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000010 00:00000000 00000000\n\
             1: 00000000:1F90 00000000:0000 0A 00000000:00000007 00:00000000 00000000\n\
             2: 0100007F:1F91 00000000:0000 0A 00000000:00000005 00:00000000 00000000\n\
             3: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000\n\
             4: 0100007F:1F90 0100007F:C000 01 00000000:00000063 00:00000000 00000000\n\
             5: 0100007F:1F90 00000000:0000 0A 00000000:00000001 00:00000000 00000000\n";
        let addr = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(queue_len(text.as_bytes(), addr).unwrap(), 0x12);
    }

    #[test]
    fn the_kernel_reports_the_connections_that_wait_at_a_listener() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(ip).unwrap();
            let addr = listener.local_addr().unwrap();
            assert_eq!(read(addr).unwrap().len, 0, "{ip}");
            let waiting: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
            poll_until(ip, Duration::from_secs(30), || read(addr).unwrap().len == 3);
            listener.accept().unwrap();
            poll_until(ip, Duration::from_secs(30), || read(addr).unwrap().len == 2);
            drop(waiting);
        }
    }
}
