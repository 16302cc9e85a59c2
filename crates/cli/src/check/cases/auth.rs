//! AUTH: what is not one, wrong credentials, a second one, cookies, and the time limit.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::{ErrorCode, FrameType};
use tokio::time::sleep;

use super::frames::{Point, refused};
use crate::check::bytes::{self, IGNORABLE, NO_MESSAGE};
use crate::check::connection::{Step, instead};
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure, fail, inconclusive, skip};

/// The longest time limit for AUTH that is waited for. It is 5 s unless configured otherwise.
const AUTH_TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// How often an AUTH is sent until its ACK has a cookie, each time after [`PAUSE`].
const COOKIE_TRIES: u32 = 10;
/// How long after the connection the first half of an AUTH is sent.
const PAUSE: Duration = Duration::from_secs(1);
/// How much later the client that sent it may be closed than one that sent nothing.
const APART_MAX: Duration = Duration::from_millis(500);
/// A server that answers AUTH later than this delays it, because passwords are guessed.
const UNDELAYED: Duration = Duration::from_millis(200);

pub(super) async fn required(server: Arc<Server>) -> Outcome {
    let (code, point) = (ErrorCode::AuthRequired, Point::BeforeAuth);
    for frame in [
        bytes::heartbeat(1),
        bytes::frame(FrameType::Subscribe.byte(), b""),
        bytes::frame(FrameType::Subscribe.byte(), NO_MESSAGE),
        bytes::frame(FrameType::DataBatch.byte(), NO_MESSAGE),
        bytes::frame(FrameType::GoingAway.byte(), b""),
        bytes::frame(IGNORABLE, b"anything"),
        bytes::frame(0xFF, b""),
    ] {
        refused(&server, point, &frame, code).await?;
    }
    Ok(String::new())
}

pub(super) async fn failed(server: Arc<Server>) -> Outcome {
    let started_at = Server::now();
    let took = fastest_login(&server).await?;
    if took > UNDELAYED + server.allowance_since(started_at) {
        inconclusive!(
            "the server takes {took:?} to answer an AUTH without a cookie, so it delays logins, \
             and a wrong one would make that worse"
        );
    }
    let code = ErrorCode::AuthFailed;
    let mut connection = server.open().await?;
    connection.send(&server.wrong_auth()).await;
    // The server may delay the answer.
    connection
        .refusal_within(code, Duration::from_secs(10))
        .await?;
    Ok(String::new())
}

/// Returns the shortest time in which one of a few AUTHs without a cookie is answered.
async fn fastest_login(server: &Arc<Server>) -> Outcome<Duration> {
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let mut connection = server.open().await?;
        let sent_at = Server::now();
        connection.send(&server.auth_with_cookie(b"")).await;
        connection.ack_of_auth().await?;
        fastest = fastest.min(connection.read_at().since(sent_at));
        if fastest <= UNDELAYED {
            break;
        }
    }
    Ok(fastest)
}

pub(super) async fn already(server: Arc<Server>) -> Outcome {
    let (code, point) = (ErrorCode::AlreadyAuthenticated, Point::AfterAuth);
    for frame in [
        server.auth(),
        bytes::frame(FrameType::Auth.byte(), b""),
        bytes::frame(FrameType::Auth.byte(), NO_MESSAGE),
    ] {
        refused(&server, point, &frame, code).await?;
    }
    Ok(String::new())
}

pub(super) async fn cookies(server: Arc<Server>) -> Outcome {
    for cookie in [&[0; 1][..], &[0xA5; 41], &[1; 64], &[1; 65], &[7; 1_000]] {
        let mut connection = server.open().await?;
        connection.send(&server.auth_with_cookie(cookie)).await;
        let ack = connection.ack_of_auth().await;
        let what = format!("an AUTH with a made-up cookie of {} bytes", cookie.len());
        let ack = ack.map_err(|stop| stop.about(&what))?;
        ensure!(
            ack.cookie.len() <= 64,
            "a cookie has {} bytes",
            ack.cookie.len()
        );
        ensure!(
            ack.cookie.is_empty() || ack.cookie != cookie,
            "the made-up cookie of {} bytes is sent back",
            cookie.len()
        );
    }
    Ok(String::new())
}

pub(super) async fn cookie_again(server: Arc<Server>) -> Outcome {
    let Some(own) = given_cookie(&server).await? else {
        skip!("the server gives no cookie");
    };
    let mut connection = server.open().await?;
    connection.send(&server.auth_with_cookie(&own)).await;
    let ack = connection.ack_of_auth().await?;
    ensure!(
        ack.cookie == own,
        "a valid cookie is answered with another one"
    );
    Ok(String::new())
}

/// Returns a cookie that the server has given. One that has just started may not have its key yet.
async fn given_cookie(server: &Arc<Server>) -> Outcome<Option<Vec<u8>>> {
    for _ in 0..COOKIE_TRIES {
        let mut connection = server.open().await?;
        connection.send(&server.auth_with_cookie(b"")).await;
        let cookie = connection.ack_of_auth().await?.cookie;
        if !cookie.is_empty() {
            return Ok(Some(cookie));
        }
        sleep(PAUSE).await;
    }
    Ok(None)
}

pub(super) async fn timeout(server: Arc<Server>) -> Outcome {
    // A connection that sends nothing, and one that sends half of an AUTH: both have the same time.
    let started_at = Server::now();
    let auth = server.auth();
    let half = &auth[..auth.len() / 2];
    let silent = timed_out(&server, None);
    let unfinished = timed_out(&server, Some(half));
    let (silent, unfinished) = tokio::try_join!(Box::pin(silent), Box::pin(unfinished))?;
    let (silent, unfinished) = match (silent, unfinished) {
        (Some(silent), Some(unfinished)) => (silent, unfinished),
        (None, None) => {
            skip!("the server waits longer than {AUTH_TIMEOUT_MAX:?} for AUTH, and this does not")
        }
        (Some(closed), None) => fail!(
            "a silent client is closed after {closed:?}, and one that sent half an AUTH is not \
             within {AUTH_TIMEOUT_MAX:?}"
        ),
        (None, Some(closed)) => fail!(
            "a client that sent half an AUTH is closed after {closed:?}, and a silent one is not \
             within {AUTH_TIMEOUT_MAX:?}"
        ),
    };
    let apart = silent.abs_diff(unfinished);
    ensure!(
        apart <= APART_MAX + server.allowance_since(started_at) || silent < PAUSE * 2,
        "a silent client is closed after {silent:?}, and one that sent half an AUTH after a while \
         after {unfinished:?}"
    );
    Ok(format!("AUTH_TIMEOUT after {:.1} s", silent.as_secs_f64()))
}

/// Sends `part` of an AUTH after a while, and returns how long after the connection was made the
/// server closes it; `None` if that takes too long.
async fn timed_out(server: &Arc<Server>, part: Option<&[u8]>) -> Outcome<Option<Duration>> {
    let opened_at = Server::now();
    let mut connection = server.open().await?;
    if let Some(part) = part {
        sleep(PAUSE).await;
        connection.send(part).await;
    }
    match connection.step(opened_at + AUTH_TIMEOUT_MAX).await? {
        Step::Error(error) => {
            connection
                .refused_by(ErrorCode::AuthTimeout, &error)
                .await?;
        }
        Step::TimeUp => return Ok(None),
        other @ Step::Ack(_)
        | other @ Step::Pong(_)
        | other @ Step::Ticks
        | other @ Step::End(_) => {
            return Err(instead(ErrorCode::AuthTimeout.as_str(), &other));
        }
    }
    Ok(Some(connection.read_at().since(opened_at)))
}
