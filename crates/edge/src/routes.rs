//! The operators' view of the connections: `GET /connections` lists them,
//! `DELETE /connections/<id>` closes one, at once or gently, `POST /rebalance` moves a share of
//! them to other edges, and `/debug` logs the events of single clients. Each request is sent to all
//! shards as a message, and each shard answers for its own connections.
//!
//! However many requests there are, they take little from the clients: one list is made at a time
//! and only a few a second, a shard makes its part between ticks, and all parts are put together at
//! low priority. The number of lists in memory is bounded, even if they are never read.

mod debug;
mod drain;
mod rebalance;

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
pub(crate) use drain::drain_route;
use serde::Serialize;
use serde_json::json;
use tickstorm_service::admin::{RequestId, busy};
use tickstorm_service::low_priority;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::admission::{Admission, ConnectionIdError};
use crate::health::EdgeHealth;
use crate::memory::Freed;
use crate::shard::{Listed, MoveAnswer, Order, ShardCommand, ShardHandle};
use debug::Debugged;
use rebalance::Rebalance;

/// The most connections in an answer if the query does not set `limit`.
const LIMIT: usize = 100;
/// The highest allowed `limit`: about 3 MB of JSON.
const LIMIT_MAX: usize = 10_000;

/// The most lists that are waited for, made or read at the same time.
const LISTS_MAX: usize = 4;
/// The longest time for which a request waits to be one of them.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// The pause after a list. One of 10,000 connections takes each of two shards about 10 ms.
const PAUSE: Duration = Duration::from_millis(250);
/// After this many connections were encoded, other threads that wait for the core may run. It takes
/// about a tenth of a millisecond.
const ENCODED_AT_ONCE: usize = 64;

/// The shortest time that a client has to leave when an operator moves it, even if DRAIN_TIMEOUT is
/// shorter.
const GRACE_MIN: Duration = Duration::from_secs(1);
/// The answer to requests to move clients of an edge that drains.
const DRAINING: &str = "this edge drains, which sends all its clients to other edges";

/// Handles for sending commands to the shards.
type Handles = Vec<ShardHandle>;

/// What the requests share.
struct Operators {
    shards: Handles,
    freed: Freed,
    lists: Arc<Semaphore>,
    /// Held by the request whose list is being made: the time at which the last one was made.
    listed: Arc<Mutex<Option<Instant>>>,
    /// Held by the request whose connection is being looked for.
    closing: Arc<Mutex<()>>,
    /// The last rebalance that was started.
    rebalance: Arc<Mutex<Option<Rebalance>>>,
    debugged: Mutex<Debugged>,
    /// DRAIN_TIMEOUT.
    drain_timeout: Duration,
    /// Tells whether the edge drains.
    health: Arc<EdgeHealth>,
}

/// Returns the routes. They are for operators, so the caller must serve them behind the guard.
pub(crate) fn routes(shards: Handles, drain_timeout: Duration, health: Arc<EdgeHealth>) -> Router {
    let operators = Operators::new(shards, drain_timeout, health);
    Router::new()
        .route("/connections", get(list))
        .route("/connections/{id}", delete(close))
        .route("/rebalance", post(rebalance::rebalance))
        .route(
            "/debug",
            get(debug::list).post(debug::start).delete(debug::end),
        )
        .with_state(Arc::new(operators))
}

async fn list(
    State(operators): State<Arc<Operators>>,
    request_id: RequestId,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let Some((order, limit)) = parse(&query) else {
        let allowed = format!(
            "invalid query: allowed are sort=backlog or sort=age, and limit=N with N from 1 to \
             {LIMIT_MAX}"
        );
        return (StatusCode::BAD_REQUEST, allowed).into_response();
    };
    let permit = Arc::clone(&operators.lists).acquire_owned();
    let Ok(Ok(permit)) = timeout(WAIT_MAX, permit).await else {
        return busy("other lists of connections are being made or read: ask again later");
    };
    match operators.list(order, limit, permit).await {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, %request_id, "connections can't be listed");
            let text = format!("connections can't be listed: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

async fn close(
    State(operators): State<Arc<Operators>>,
    Path(id): Path<String>,
    request_id: RequestId,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let named = match operators.health.admission.number_of(&id) {
        Ok(number) => Named {
            number,
            id,
            request_id,
        },
        Err(error @ ConnectionIdError::Form) => {
            return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
        }
        Err(error @ ConnectionIdError::Foreign) => {
            return (StatusCode::NOT_FOUND, error.to_string()).into_response();
        }
    };
    match query.as_slice() {
        [] => close_at_once(operators, named).await,
        [(name, value)] if name == "gently" && value.is_empty() => move_one(operators, named).await,
        _ => {
            let allowed = "invalid query: allowed is only gently, without a value";
            (StatusCode::BAD_REQUEST, allowed).into_response()
        }
    }
}

/// A connection that a request has named.
struct Named {
    number: u64,
    id: String,
    request_id: RequestId,
}

async fn close_at_once(operators: Arc<Operators>, named: Named) -> Response {
    let Named {
        number,
        id: connection,
        request_id,
    } = named;
    let turn = Arc::clone(&operators.closing).lock_owned().await;
    // A task of its own: even if the client leaves, the next request waits for its turn, and the
    // event is logged.
    let closing = tokio::spawn(async move {
        let answers = operators.ask(|reply| ShardCommand::Close(number, reply));
        let is_closed = answers.await.contains(&true);
        drop(turn);
        if is_closed {
            tracing::info!(%connection, %request_id, "an operator closed a connection");
        }
        is_closed
    });
    match closing.await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => not_found(),
        Err(error) => {
            let text = format!("the connection can't be closed: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// Tells a client to move to another edge, and lets its shard close the connection later.
async fn move_one(operators: Arc<Operators>, named: Named) -> Response {
    let Named {
        number: id,
        id: connection,
        request_id,
    } = named;
    let within = operators.grace();
    let turn = Arc::clone(&operators.closing).lock_owned().await;
    if operators.is_draining() {
        return (StatusCode::CONFLICT, DRAINING).into_response();
    }
    // A task of its own, as when a connection is closed at once.
    let moving = tokio::spawn(async move {
        let answers = operators.ask(|reply| ShardCommand::Move { id, within, reply });
        let mut answers = answers.await.into_iter();
        drop(turn);
        let known = answers.find(|answer| *answer != MoveAnswer::Unknown);
        if let Some(MoveAnswer::Told(within)) = known {
            tracing::info!(
                %connection,
                ?within,
                %request_id,
                "an operator moves a client to another edge"
            );
        }
        known.unwrap_or(MoveAnswer::Unknown)
    });
    match moving.await {
        Ok(MoveAnswer::Told(within)) => {
            let deadline_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            let answer = Json(json!({ "deadline_ms": deadline_ms }));
            (StatusCode::ACCEPTED, answer).into_response()
        }
        Ok(MoveAnswer::Unauthenticated) => {
            let text = "the client of this connection has not authenticated, so it can't be told \
                        to move: close the connection without ?gently";
            (StatusCode::CONFLICT, text).into_response()
        }
        Ok(MoveAnswer::Draining) => (StatusCode::CONFLICT, DRAINING).into_response(),
        Ok(MoveAnswer::Unknown) => not_found(),
        Err(error) => {
            let text = format!("the client can't be moved: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

fn not_found() -> Response {
    let text = "the connection with this id has ended";
    (StatusCode::NOT_FOUND, text).into_response()
}

impl Operators {
    fn new(shards: Handles, drain_timeout: Duration, health: Arc<EdgeHealth>) -> Self {
        Self {
            shards,
            freed: health.memory.freed(),
            lists: Arc::new(Semaphore::new(LISTS_MAX)),
            listed: Arc::default(),
            closing: Arc::default(),
            rebalance: Arc::default(),
            debugged: Mutex::default(),
            drain_timeout,
            health,
        }
    }

    /// Returns the time that a client has to leave when it is moved.
    fn grace(&self) -> Duration {
        self.drain_timeout.max(GRACE_MIN)
    }

    fn is_draining(&self) -> bool {
        self.health.draining.load(Ordering::Relaxed)
    }

    /// Returns the first `limit` connections by `order` as JSON, when it is this request's turn.
    /// `permit` is returned when the text is no longer in memory.
    async fn list(
        self: &Arc<Self>,
        order: Order,
        limit: usize,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<Bytes> {
        let mut listed = Arc::clone(&self.listed).lock_owned().await;
        if let Some(listed) = *listed {
            sleep_until(listed + PAUSE).await;
        }
        let operators = Arc::clone(self);
        // A task of its own: if the client leaves, the next list must not be made at once, and this
        // one counts as long as it is in memory.
        let listing = tokio::spawn(async move {
            let answers = operators
                .ask(|reply| ShardCommand::List(order, limit, reply))
                .await;
            let admission = Arc::clone(&operators.health.admission);
            let encoding = move || encode(answers, order, limit, &admission);
            let json = low_priority::run(encoding).await;
            *listed = Some(Instant::now());
            Ok(Bytes::from_owner(List {
                json: json??,
                freed: operators.freed.clone(),
                _permit: permit,
            }))
        });
        listing.await.map_err(io::Error::other)?
    }

    /// Asks all shards in parallel. A shard that has ended has no connections and gives no answer.
    async fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> ShardCommand) -> Vec<T> {
        let mut replies = Vec::new();
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            if shard.send(question(reply)).is_ok() {
                replies.push(answer);
            }
        }
        let mut answers = Vec::new();
        for reply in replies {
            answers.extend(reply.await);
        }
        answers
    }
}

/// The text of a list, until it has been sent.
struct List {
    json: Vec<u8>,
    freed: Freed,
    _permit: OwnedSemaphorePermit,
}

impl Drop for List {
    fn drop(&mut self) {
        self.freed.add(self.json.capacity());
    }
}

impl AsRef<[u8]> for List {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

fn parse(query: &[(String, String)]) -> Option<(Order, usize)> {
    let (mut order, mut limit) = (Order::Backlog, LIMIT);
    for (name, value) in query {
        match (name.as_str(), value.as_str()) {
            ("sort", "backlog") => order = Order::Backlog,
            ("sort", "age") => order = Order::Age,
            ("limit", number) => {
                limit = number
                    .parse()
                    .ok()
                    .filter(|limit| (1..=LIMIT_MAX).contains(limit))?;
            }
            _ => return None,
        }
    }
    Some((order, limit))
}

/// Encodes the first `limit` connections of all shards.
fn encode(
    answers: Vec<Vec<Listed>>,
    order: Order,
    limit: usize,
    admission: &Admission,
) -> io::Result<Vec<u8>> {
    let mut listed: Vec<Listed> = answers.into_iter().flatten().collect();
    listed.sort_by_key(|one| (Reverse(one.rank(order)), one.id));
    let mut json = vec![b'['];
    for (index, one) in listed.iter().take(limit).enumerate() {
        if index > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut json, &Shown::new(one, admission))?;
        if index % ENCODED_AT_ONCE == 0 {
            thread::yield_now();
        }
    }
    json.push(b']');
    Ok(json)
}

/// A connection in the form in which it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    peer: std::net::SocketAddr,
    identity: Option<&'a str>,
    client_id: Option<&'a str>,
    client_version: Option<&'a str>,
    certificate: Option<ShownCertificate<'a>>,
    subscribed: bool,
    mode: Option<String>,
    ahead: bool,
    age_s: u64,
    backlog_frames: u64,
}

#[derive(Serialize)]
struct ShownCertificate<'a> {
    subject: &'a str,
    serial: &'a str,
}

impl<'a> Shown<'a> {
    fn new(listed: &'a Listed, admission: &Admission) -> Self {
        let client = listed.client.as_ref();
        let certificate = listed.certificate.as_ref();
        Self {
            id: admission.connection_id(listed.id).to_string(),
            peer: listed.peer,
            identity: client.map(|client| client.identity.as_str()),
            client_id: client.map(|client| client.id.as_str()),
            client_version: client.map(|client| client.version.as_str()),
            certificate: certificate.map(|certificate| ShownCertificate {
                subject: &certificate.subject,
                serial: &certificate.serial,
            }),
            subscribed: listed.subscribed,
            mode: listed.mode.map(|mode| mode.name().to_uppercase()),
            ahead: listed.ahead,
            age_s: listed.age.as_secs(),
            backlog_frames: listed.backlog_frames,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operators() -> Arc<Operators> {
        let health = Arc::new(EdgeHealth::unserved());
        Arc::new(Operators::new(Handles::new(), Duration::ZERO, health))
    }

    fn ask_for_list(operators: &Arc<Operators>) -> impl Future<Output = Response> + use<> {
        let state = State(Arc::clone(operators));
        list(state, RequestId::random(), Query(Vec::new()))
    }

    fn parse_pairs(pairs: &[(&str, &str)]) -> Option<(Order, usize)> {
        let owned = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn a_query_may_set_the_order_and_the_limit() {
        assert_eq!(parse_pairs(&[]), Some((Order::Backlog, LIMIT)));
        let both = [("limit", "1"), ("sort", "age")];
        assert_eq!(parse_pairs(&both), Some((Order::Age, 1)));
        let most = [("sort", "backlog"), ("limit", "10000")];
        assert_eq!(parse_pairs(&most), Some((Order::Backlog, LIMIT_MAX)));
    }

    #[test]
    fn any_other_query_is_invalid() {
        for pair in [
            ("sort", "id"),
            ("sort", ""),
            ("limit", "0"),
            ("limit", "10001"),
            ("limit", "-1"),
            ("limit", "ten"),
            ("order", "age"),
        ] {
            assert_eq!(parse_pairs(&[pair]), None, "{pair:?}");
        }
    }

    #[tokio::test]
    async fn lists_that_are_not_read_are_bounded_and_lists_are_not_made_back_to_back() {
        let operators = operators();
        let began = Instant::now();
        let mut unread = Vec::new();
        for _ in 0..LISTS_MAX {
            let answer = ask_for_list(&operators).await;
            assert_eq!(answer.status(), StatusCode::OK);
            unread.push(answer);
        }
        let pauses = u32::try_from(LISTS_MAX - 1).unwrap();
        assert!(began.elapsed() >= PAUSE * pauses, "{:?}", began.elapsed());
        let refused = ask_for_list(&operators).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key("retry-after"));
        let freed = operators.freed.clone();
        assert_eq!(freed.take(), 0, "all lists are still in memory");
        unread.pop();
        assert!(freed.take() > 0);
        let answer = ask_for_list(&operators).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn lists_that_are_abandoned_are_not_made_more_often() {
        let operators = operators();
        let last = || async { *operators.listed.lock().await };
        let began = Instant::now();
        let (mut made, mut before) = (0, None);
        while made < 4 {
            let request = ask_for_list(&operators);
            let request = tokio::spawn(request);
            tokio::time::sleep(Duration::from_millis(1)).await;
            request.abort();
            let now = last().await;
            made += u32::from(now != before);
            before = now;
        }
        let took = began.elapsed();
        assert!(took >= PAUSE * 3, "{took:?}");
    }
}
