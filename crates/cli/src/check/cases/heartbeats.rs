//! HEARTBEAT and PONG, and what happens without them.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_client::estimate::PongExchange;
use tickstorm_protocol::ErrorCode;
use tickstorm_timebase::{Mode, Mono};

use crate::check::bytes::{self, IGNORABLE};
use crate::check::connection::Connection;
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure, fail, inconclusive, skip};

/// How much later than the heartbeat timeout a server may close.
const LATE_MAX: Duration = Duration::from_millis(500);
/// The longest heartbeat timeout that is waited for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long after the latest moment this still waits, so that it can say how late the server is.
const PATIENCE: Duration = Duration::from_secs(6);

/// The times between which the server got the last sign of life.
#[derive(Clone, Copy, Debug)]
struct LastSign {
    /// When it was sent.
    from: Mono,
    /// When its answer arrived.
    to: Mono,
}

fn limit(server: &Server) -> Outcome<Duration> {
    let timeout = server.welcome()?.heartbeat_timeout();
    if timeout > TIMEOUT_MAX {
        skip!("the heartbeat timeout is {timeout:?}, and this waits for {TIMEOUT_MAX:?} at most");
    }
    Ok(timeout)
}

pub(super) async fn timeout(server: Arc<Server>) -> Outcome {
    let (after_auth, after_subscribe, after_heartbeat) = tokio::try_join!(
        Box::pin(silent_after_auth(&server)),
        Box::pin(silent_after_subscribe(&server)),
        Box::pin(silent_after_heartbeat(&server)),
    )?;
    let latest = after_auth.max(after_subscribe).max(after_heartbeat);
    Ok(format!(
        "after {:?}, at most {} ms late",
        limit(&server)?,
        latest.as_millis()
    ))
}

async fn silent_after_auth(server: &Arc<Server>) -> Outcome<Duration> {
    let timeout = limit(server)?;
    let mut connection = server.open().await?;
    let from = Server::now();
    connection.send(&server.auth()).await;
    connection.ack_of_auth().await?;
    let to = connection.read_at();
    let closed = closed_in_time(&mut connection, LastSign { from, to }, timeout).await;
    closed.map_err(|stop| stop.about("silent after AUTH"))
}

async fn silent_after_subscribe(server: &Arc<Server>) -> Outcome<Duration> {
    let timeout = limit(server)?;
    let mut connection = server.authenticated().await?;
    connection.nothing_for(timeout / 5).await?;
    let subscribed = connection.subscribe(Mode::Second, None, false).await?;
    let last = LastSign {
        from: subscribed.sent_at,
        to: subscribed.read_at,
    };
    let closed = closed_in_time(&mut connection, last, timeout).await;
    closed.map_err(|stop| stop.about("silent after SUBSCRIBE"))
}

async fn silent_after_heartbeat(server: &Arc<Server>) -> Outcome<Duration> {
    let timeout = limit(server)?;
    let mut connection = server.authenticated().await?;
    connection.nothing_for(timeout / 5).await?;
    let from = Server::now();
    connection.send(&bytes::heartbeat(1)).await;
    connection.echo(1).await?;
    let to = connection.read_at();
    let closed = closed_in_time(&mut connection, LastSign { from, to }, timeout).await;
    closed.map_err(|stop| stop.about("silent after HEARTBEAT"))
}

/// Frames of unknown types do not keep a connection alive.
pub(super) async fn signs_of_life(server: Arc<Server>) -> Outcome {
    let timeout = limit(&server)?;
    let mut connection = server.open().await?;
    let from = Server::now();
    connection.send(&server.auth()).await;
    connection.ack_of_auth().await?;
    let last = LastSign {
        from,
        to: connection.read_at(),
    };
    for _ in 0..3 {
        connection.nothing_for(timeout / 4).await?;
        connection.send(&bytes::frame(IGNORABLE, b"no sign")).await;
    }
    closed_in_time(&mut connection, last, timeout).await?;
    Ok(String::new())
}

/// Expects HEARTBEAT_TIMEOUT, never before the timeout and soon after it. Returns how late it was
/// at most.
async fn closed_in_time(
    connection: &mut Connection,
    last: LastSign,
    timeout: Duration,
) -> Outcome<Duration> {
    let code = ErrorCode::HeartbeatTimeout;
    let remaining = timeout.saturating_sub(Server::now().since(last.from));
    connection
        .refusal_within(code, remaining + LATE_MAX + PATIENCE)
        .await?;
    let closed_at = connection.read_at();
    let since_sent = closed_at.since(last.from);
    ensure!(
        since_sent >= timeout,
        "closed {} ms after the last sign of life, before the heartbeat timeout of {} ms",
        since_sent.as_millis(),
        timeout.as_millis()
    );
    let late = closed_at.since(last.to).saturating_sub(timeout);
    ensure!(
        late <= LATE_MAX + connection.allowance(),
        "closed {} ms after the heartbeat timeout of {} ms; at most 500 ms are allowed",
        late.as_millis(),
        timeout.as_millis()
    );
    Ok(late)
}

pub(super) async fn pong(server: Arc<Server>) -> Outcome {
    let mut connection = server.authenticated().await?;
    let times = [1, 0, -1, i64::MAX, i64::MIN, 1_800_000_000_000_000];
    for time_us in times {
        connection.rest(1).await?;
        connection.send(&bytes::heartbeat(time_us)).await;
        connection.echo(time_us).await?;
    }
    // Together, and one without a payload.
    connection.rest(8).await?;
    let mut together: Vec<u8> = times.into_iter().flat_map(bytes::heartbeat).collect();
    together.extend(bytes::frame(0x03, b""));
    connection.send(&together).await;
    for time_us in times.into_iter().chain([0]) {
        connection.echo(time_us).await?;
    }
    connection.nothing_for(Duration::from_millis(100)).await?;
    Ok(String::new())
}

pub(super) async fn pong_times(server: Arc<Server>) -> Outcome {
    const SAMPLES: usize = 8;
    let mut connection = server.authenticated().await?;
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        connection.rest(1).await?;
        connection.send_heartbeat().await;
        samples.push(connection.pong().await?);
        connection.nothing_for(Duration::from_millis(50)).await?;
    }
    if samples.iter().all(|sample| sample.t2_us == 0) {
        inconclusive!("the server does not know the time");
    }
    let mut best = i64::MAX;
    for (number, sample) in samples.iter().enumerate() {
        let Some((offset, error)) = offset_us(sample) else {
            fail!("PONG {number} has the times {sample:?}, which make a negative round trip");
        };
        best = best.min(error);
        for earlier in samples.iter().take(number).filter_map(offset_us) {
            // The error bounds hold against the same clock, and the server may change it.
            let apart = (offset - earlier.0).abs();
            ensure!(
                apart <= error + earlier.1 + CLOCK_CHANGE_US,
                "two PONGs tell times that are {apart} µs apart, with errors of {error} and {} µs",
                earlier.1
            );
        }
    }
    Ok(format!("authority time known to ±{best} µs"))
}

/// The time by which two clocks that a server may follow can differ: twice the tolerance of the
/// cluster, unless configured otherwise.
const CLOCK_CHANGE_US: i64 = 40_000;

/// Returns the offset of authority time from this machine's clock, and its error, in microseconds;
/// `None` if the round trip is negative by more than clocks can drift in it.
fn offset_us(sample: &PongExchange) -> Option<(i64, i64)> {
    const DRIFT_US: i64 = 200;
    let round_trip = (sample.t4_us - sample.t1_us) - (sample.t3_us - sample.t2_us);
    if round_trip < -DRIFT_US {
        return None;
    }
    let offset = ((sample.t2_us - sample.t1_us) + (sample.t3_us - sample.t4_us)) / 2;
    let error = round_trip.max(0) / 2 + i64::from(sample.error_bound_us) + DRIFT_US;
    Some((offset, error))
}
