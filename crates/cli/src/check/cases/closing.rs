//! How connections end.

use std::sync::Arc;

use tickstorm_protocol::{ErrorCode, FrameType};
use tickstorm_timebase::Mode;

use crate::check::bytes;
use crate::check::connection::End;
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure};

/// What a client may have sent by the time that it reads ERROR, in bytes.
const UNREAD: usize = 60_000;

/// The ERROR arrives, and an orderly end, though the server has not read everything.
pub(super) async fn after_error(server: Arc<Server>) -> Outcome {
    let mut connection = server.open().await?;
    connection.send(&[b'?'; UNREAD]).await;
    connection.refusal(ErrorCode::BadMagic).await?;

    // After a fault, no frame is answered, and what was sent before is.
    let mut connection = server.authenticated().await?;
    let after = (2..9).flat_map(bytes::heartbeat);
    let frames: Vec<u8> = bytes::heartbeat(1)
        .into_iter()
        .chain(bytes::frame(FrameType::Pong.byte(), b""))
        .chain(after)
        .chain([b'?'; UNREAD])
        .collect();
    connection.send(&frames).await;
    connection.echo(1).await?;
    connection.refusal(ErrorCode::UnexpectedMessage).await?;
    Ok(String::new())
}

/// The server closes as soon as the client has closed its side.
pub(super) async fn end_of_file(server: Arc<Server>) -> Outcome {
    let mut connection = server.authenticated().await?;
    connection.subscribe(Mode::Second, None, false).await?;
    connection.finish().await;
    let finished_at = Server::now();
    let end = connection.end().await?;
    let took = connection.read_at().since(finished_at);
    ensure!(
        took <= std::time::Duration::from_millis(900) + connection.allowance(),
        "the connection ended {took:?} after the client's end of file"
    );
    ensure!(
        end != End::WithoutCloseNotify || server.is_tls(),
        "{end:?} on a plain connection"
    );
    Ok(String::new())
}
