//! What a session begins with: the ACK of AUTH, the connection's name, and an unknown mode.

use std::collections::BTreeSet;
use std::sync::Arc;

use tickstorm_protocol::message::Subscribe;
use tickstorm_protocol::{ErrorCode, FrameType};

use super::frames::{Point, refused};
use crate::check::bytes;
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure};
use crate::check::welcome::Welcome;

/// Authenticates, checks the ACK, and notes it for the other cases.
pub(super) async fn ack_of_auth(server: Arc<Server>) -> Outcome {
    let mut connection = server.open().await?;
    connection.send(&server.auth()).await;
    let ack = connection.ack_of_auth().await?;
    let welcome = Welcome { ack };
    let (faults, ack) = (welcome.faults(), &welcome.ack);
    let note = format!(
        "edge {}, protocol minor {}, heartbeats every {} ms, timeout {} ms, {} frames per second",
        ack.edge_id.escape_debug(),
        ack.protocol_minor,
        ack.heartbeat_interval_ms,
        ack.heartbeat_timeout_ms,
        ack.frame_rate_limit
    );
    server.set_welcome(welcome);
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(note)
}

pub(super) async fn connection_ids(server: Arc<Server>) -> Outcome {
    let mut ids = BTreeSet::new();
    for number in 0..5 {
        // The name in ERROR is that in the ACK, as each refusal checks.
        let mut connection = server.authenticated().await?;
        let name = connection.connection_id().map(str::to_owned);
        connection.send(b"?").await;
        let error = connection.refusal(ErrorCode::BadMagic).await?;
        ensure!(
            name.as_deref() == Some(&*error.connection_id),
            "the ACK calls the connection {:?}, and ERROR {:?}",
            name.unwrap_or_default(),
            error.connection_id
        );
        let unauthenticated = refused(&server, Point::BeforeAuth, b"?", ErrorCode::BadMagic);
        let unauthenticated = unauthenticated.await?.connection_id;
        for id in [error.connection_id, unauthenticated] {
            ensure!(
                ids.insert(id.clone()),
                "two of {} connections are called {id:?}",
                2 * number + 2
            );
        }
    }
    Ok(String::new())
}

pub(super) async fn invalid_mode(server: Arc<Server>) -> Outcome {
    for mode in [2, 7, -1, i32::MAX] {
        let subscribe = Subscribe {
            mode,
            ..Subscribe::default()
        };
        let frame = bytes::message(FrameType::Subscribe, &subscribe);
        let code = ErrorCode::InvalidSubscription;
        let error = refused(&server, Point::AfterAuth, &frame, code).await?;
        ensure!(
            error.retry_after_ms == 0,
            "the hint for mode {mode} is {} ms",
            error.retry_after_ms
        );
    }
    Ok(String::new())
}

/// Fields 2, 3 and 4 have other meanings in the earlier schema, whatever their type.
pub(super) async fn earlier_schema(server: Arc<Server>) -> Outcome {
    for number in 2..=4_u8 {
        let key = number << 3;
        for field in [
            // A varint, eight bytes, four bytes, and a string.
            vec![key, 0x01],
            [&[key | 1][..], &[0; 8]].concat(),
            [&[key | 5][..], &[0; 4]].concat(),
            vec![key | 2, 0x01, b'x'],
        ] {
            let frame = bytes::frame(FrameType::Subscribe.byte(), &field);
            let code = ErrorCode::InvalidSubscription;
            let error = refused(&server, Point::AfterAuth, &frame, code).await?;
            ensure!(
                error.retry_after_ms == 0 && !error.message.is_empty(),
                "the hint for field {number} is {} ms, and the message is {:?}",
                error.retry_after_ms,
                error.message
            );
        }
    }
    Ok(String::new())
}
