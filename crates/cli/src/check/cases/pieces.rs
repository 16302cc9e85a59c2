//! Frames in pieces, and several at once.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_timebase::Mode;

use crate::check::bytes::{self, mode_number};
use crate::check::connection::SUBSCRIBE_COST;
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure};

/// The time between two pieces, in which the server reads the first.
const PAUSE: Duration = Duration::from_millis(8);
/// The time in the HEARTBEATs.
const TIME_US: i64 = 1_500_000;
/// The connections that are open at the same time.
const SIDE_BY_SIDE: usize = 4;

/// Returns the frames with which a client begins, in one piece.
fn frames(server: &Server) -> Vec<u8> {
    let subscribe = bytes::subscribe(Mode::Second, None, false);
    [server.auth(), subscribe, bytes::heartbeat(TIME_US)].concat()
}

/// Cuts the first frames in two at each byte, on a connection for each.
pub(super) async fn split(server: Arc<Server>) -> Outcome {
    let frames = frames(&server);
    let cut = async |first: usize| {
        for at in (first..frames.len()).step_by(SIDE_BY_SIDE) {
            split_at(&server, &frames, at)
                .await
                .map_err(|stop| stop.about(&format!("cut after byte {at}")))?;
        }
        Ok(())
    };
    tokio::try_join!(
        Box::pin(cut(1)),
        Box::pin(cut(2)),
        Box::pin(cut(3)),
        Box::pin(cut(4))
    )?;
    Ok(format!("{} cuts", frames.len() - 1))
}

async fn split_at(server: &Arc<Server>, frames: &[u8], at: usize) -> Outcome<()> {
    let mut connection = server.open().await?;
    connection.send_split(frames, at, PAUSE).await;
    connection.ack_of_auth().await?;
    connection.ack_of_subscribe().await?;
    connection.echo(TIME_US).await
}

pub(super) async fn bytewise(server: Arc<Server>) -> Outcome {
    let mut connection = server.open().await?;
    for byte in frames(&server).chunks(1) {
        connection.send(byte).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    connection.ack_of_auth().await?;
    connection.ack_of_subscribe().await?;
    connection.echo(TIME_US).await?;
    Ok(String::new())
}

pub(super) async fn pipelined(server: Arc<Server>) -> Outcome {
    let mut connection = server.open().await?;
    let subscribe = bytes::subscribe(Mode::Second, None, false);
    let between = [bytes::heartbeat(1), subscribe, bytes::heartbeat(2)].concat();
    connection
        .send(&[server.auth(), between, bytes::heartbeat(3)].concat())
        .await;
    connection.ack_of_auth().await?;
    connection.echo(1).await?;
    connection.ack_of_subscribe().await?;
    connection.echo(2).await?;
    connection.echo(3).await?;
    Ok(String::new())
}

pub(super) async fn several_subscribes(server: Arc<Server>) -> Outcome {
    let mut connection = server.authenticated().await?;
    connection.rest(2 * SUBSCRIBE_COST).await?;
    let [second, minute] =
        [Mode::Second, Mode::Minute].map(|mode| bytes::subscribe(mode, None, false));
    connection.send(&[second, minute].concat()).await;
    connection.keep_alive()?;
    let first = connection.ack_of_subscribe().await?;
    let earlier = connection.take_ticks();
    ensure!(
        earlier.is_empty(),
        "ticks came before the ACK of the first SUBSCRIBE"
    );
    let second = connection.ack_of_subscribe().await?;
    ensure!(
        first.start_epoch_ms % 1_000 == 0 && second.start_epoch_ms % 60_000 == 0,
        "SECOND starts at {}, and MINUTE at {}",
        first.start_epoch_ms,
        second.start_epoch_ms
    );
    connection.take_ticks();
    connection.listen_for(Duration::from_millis(1_500)).await?;
    let is_minute = |mode| mode == mode_number(Mode::Minute);
    for tick in connection.ticks() {
        ensure!(
            is_minute(tick.mode),
            "tick {} of SECOND came after the ACK of MINUTE",
            tick.epoch_ms
        );
    }
    Ok(String::new())
}
