//! The frame rate, and the frames that are saved up.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::ErrorCode;
use tickstorm_timebase::Mode;

use crate::check::bytes;
use crate::check::connection::{Connection, SUBSCRIBE_COST, Step};
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure, fail, skip};

/// The longest time for which frames are saved up.
const SAVED_UP_MAX: Duration = Duration::from_secs(30);
/// The smallest burst that every configuration accepts.
const BURST_MIN: u32 = 20;
/// The largest burst that is tried.
const BURST_MAX: u32 = 5_000;

/// Returns the burst that the server accepts by its own words.
fn burst(server: &Server) -> Outcome<u32> {
    let welcome = server.welcome()?;
    let saved_up = welcome.heartbeat_timeout().min(SAVED_UP_MAX);
    let rate = u64::from(welcome.frame_rate());
    let frames = u64::try_from(saved_up.as_millis()).unwrap_or(u64::MAX) * rate / 1_000;
    let burst = u32::try_from(frames).unwrap_or(u32::MAX).max(BURST_MIN);
    if burst > BURST_MAX {
        skip!("the server accepts {burst} frames at once, and this sends {BURST_MAX} at most");
    }
    Ok(burst)
}

pub(super) async fn limited(server: Arc<Server>) -> Outcome {
    let burst = burst(&server)?;
    let rate = server.welcome()?.frame_rate();
    let excess = burst / 2 + 10 * rate + 20;

    let mut connection = server.authenticated().await?;
    let frames: Vec<u8> = (1..=i64::from(burst + excess))
        .flat_map(bytes::heartbeat)
        .collect();
    let sent_at = Server::now();
    connection.send(&frames).await;
    let accepted = answers_until_limited(&mut connection).await?;
    ensure!(
        accepted >= burst,
        "RATE_LIMITED after {accepted} HEARTBEATs; {burst} must be accepted at once"
    );
    let took = connection.read_at().since(sent_at);

    let mut subscribing = server.authenticated().await?;
    let frame = bytes::subscribe(Mode::Minute, None, false);
    let count = usize::try_from((burst + excess) / SUBSCRIBE_COST).unwrap_or(0);
    subscribing.send(&frame.repeat(count)).await;
    let subscribed = answers_until_limited(&mut subscribing).await?;
    ensure!(
        subscribed >= burst / SUBSCRIBE_COST,
        "RATE_LIMITED after {subscribed} SUBSCRIBEs; {} must be accepted at once",
        burst / SUBSCRIBE_COST
    );
    Ok(format!(
        "{accepted} HEARTBEATs or {subscribed} SUBSCRIBEs in {} ms",
        took.as_millis()
    ))
}

/// Counts the answers before RATE_LIMITED, which must come.
async fn answers_until_limited(connection: &mut Connection) -> Outcome<u32> {
    let deadline = Server::now() + Duration::from_secs(10);
    let mut count = 0;
    loop {
        match connection.step(deadline).await? {
            Step::Pong(pong) => {
                count += 1;
                ensure!(
                    pong.t1_us == i64::from(count),
                    "PONG {count} echoes the HEARTBEAT {}",
                    pong.t1_us
                );
            }
            Step::Ack(_) => count += 1,
            Step::Ticks => {}
            Step::Error(error) => {
                ensure!(
                    error.code == ErrorCode::RateLimited.as_str(),
                    "the answer to too many frames is {}",
                    error.code
                );
                let hint = error.retry_after_ms;
                ensure!(
                    (1_000..=10_000).contains(&hint),
                    "RATE_LIMITED has a retry_after_ms of {hint}"
                );
                connection.orderly_end().await?;
                return Ok(count);
            }
            Step::End(end) => fail!("{end:?} instead of RATE_LIMITED, after {count} answers"),
            Step::TimeUp => fail!("silence instead of RATE_LIMITED, after {count} answers"),
        }
    }
}

pub(super) async fn burst_of_twenty(server: Arc<Server>) -> Outcome {
    const HEARTBEATS: i64 = 10;
    let mut connection = server.authenticated().await?;
    let subscribe = bytes::subscribe(Mode::Minute, None, false);
    let heartbeats = (1..=HEARTBEATS).flat_map(bytes::heartbeat);
    let frames: Vec<u8> = subscribe.into_iter().chain(heartbeats).collect();
    connection.send(&frames).await;
    connection.ack_of_subscribe().await?;
    for time_us in 1..=HEARTBEATS {
        connection.echo(time_us).await?;
    }
    Ok(String::new())
}
