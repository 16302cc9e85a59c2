//! `/debug`: logs the events of single clients for some time, whatever the level of the log is.
//! `POST` adds a client, `GET` lists them, and `DELETE` ends it early. The shards get a new list
//! whenever it changes, also when a client's time is over.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use serde_json::{Value, json};
use tickstorm_service::admin::RequestId;
use tickstorm_service::duration::{self, Written};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::Operators;
use crate::admission::{Admission, ConnectionIdError};
use crate::networks::{Networks, parse_network};
use crate::shard::{DebuggedClient, DebuggedConnections, ShardCommand};

/// The most clients that are debugged at the same time. Each event of a connection is compared with
/// all of them.
const CLIENTS_MAX: usize = 16;
/// The shortest time for which a client is debugged.
const FOR_MIN: Duration = Duration::from_secs(1);
/// The longest one. A network of many clients writes many lines.
const FOR_MAX: Duration = Duration::from_secs(3_600);

/// The clients that are debugged, and when each of them ends.
#[derive(Default)]
pub(super) struct Debugged {
    clients: Vec<(DebuggedClient, Instant)>,
    /// The task that waits for the first of them to end.
    ending: Option<AbortHandle>,
}

/// The reason that a request is refused.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    text: String,
}

pub(super) async fn list(State(operators): State<Arc<Operators>>) -> Response {
    Json(operators.debugged.lock().await.state()).into_response()
}

pub(super) async fn start(
    State(operators): State<Arc<Operators>>,
    request_id: RequestId,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let request = parse_start(&query, &operators.health.admission);
    let (client, time) = match request {
        Ok(request) => request,
        Err(refused) => return refused.into_response(),
    };
    // A task of its own: even if the client leaves, all shards get the same list.
    let starting = tokio::spawn(async move {
        let mut debugged = operators.debugged.lock().await;
        let now = Instant::now();
        let name = Arc::clone(&client.name);
        if !debugged.start(client, now, now + time) {
            return Err(Refused {
                status: StatusCode::CONFLICT,
                text: format!(
                    "{CLIENTS_MAX} clients are debugged already: end one by DELETE /debug?client=…"
                ),
            });
        }
        let for_s = time.as_secs();
        tracing::info!(client = %name, for_s, %request_id, "a client is debugged");
        operators.pass_on(&mut debugged).await;
        Ok(debugged.state())
    });
    answer(starting.await)
}

pub(super) async fn end(
    State(operators): State<Arc<Operators>>,
    request_id: RequestId,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let name = match query.as_slice() {
        [] => None,
        [(key, text)] if key == "client" => match parse_client(text, &operators.health.admission) {
            Ok(client) => Some(client.name),
            Err(refused) => return refused.into_response(),
        },
        _ => {
            let text = "invalid query: allowed is client, as in client=192.0.2.7, or none, which \
                        ends all";
            return Refused::invalid(text).into_response();
        }
    };
    let ending = tokio::spawn(async move {
        let mut debugged = operators.debugged.lock().await;
        let ended = debugged.end(|client, _| name.as_ref().is_none_or(|name| *name == client.name));
        if let Some(name) = name.filter(|_| ended.is_empty()) {
            return Err(Refused {
                status: StatusCode::NOT_FOUND,
                text: format!("the client {name} is not debugged"),
            });
        }
        for name in ended {
            tracing::info!(client = %name, %request_id, "a client is no longer debugged");
        }
        operators.pass_on(&mut debugged).await;
        Ok(debugged.state())
    });
    answer(ending.await)
}

fn answer(outcome: Result<Result<Value, Refused>, tokio::task::JoinError>) -> Response {
    match outcome {
        Ok(Ok(state)) => Json(state).into_response(),
        Ok(Err(refused)) => refused.into_response(),
        Err(error) => {
            let text = format!("the list of debugged clients can't be changed: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

impl Operators {
    /// Gives all shards the list, waits until they have it, and lets the next client end in time.
    async fn pass_on(self: &Arc<Self>, debugged: &mut Debugged) {
        self.ask(|reply| {
            let clients = debugged.clients.iter();
            ShardCommand::Debug(clients.map(|(client, _)| client.clone()).collect(), reply)
        })
        .await;
        if let Some(earlier) = debugged.ending.take() {
            earlier.abort();
        }
        let ends = debugged.clients.iter().map(|(_, until)| *until).min();
        debugged.ending = ends.map(|until| {
            let ending = Arc::clone(self).end_at(until);
            tokio::spawn(ending).abort_handle()
        });
    }

    /// Waits until `until`, and ends the debugging of the clients whose time is over by then. It is
    /// boxed, because it starts its own successor.
    fn end_at(self: Arc<Self>, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            sleep_until(until).await;
            let mut debugged = self.debugged.lock().await;
            // This task waits no more, and must not be aborted.
            debugged.ending = None;
            let now = Instant::now();
            for name in debugged.end(|_, until| until <= now) {
                tracing::info!(client = %name, "a client is no longer debugged: its time is over");
            }
            self.pass_on(&mut debugged).await;
        })
    }
}

impl Debugged {
    /// Adds a client, or changes its time. Returns false if there are too many already.
    fn start(&mut self, client: DebuggedClient, now: Instant, until: Instant) -> bool {
        self.clients
            .retain(|(known, until)| *until > now && known.name != client.name);
        let has_room = self.clients.len() < CLIENTS_MAX;
        if has_room {
            self.clients.push((client, until));
        }
        has_room
    }

    /// Removes the clients for which `is_over` returns true, and returns their names.
    fn end(&mut self, is_over: impl Fn(&DebuggedClient, Instant) -> bool) -> Vec<Arc<str>> {
        let over = self
            .clients
            .extract_if(.., |(client, until)| is_over(client, *until));
        over.map(|(client, _)| client.name).collect()
    }

    fn state(&self) -> Value {
        let now = Instant::now();
        let clients = self.clients.iter().map(|(client, until)| {
            let left = until.saturating_duration_since(now).as_millis();
            json!({
                "client": &*client.name,
                "ends_in_ms": u64::try_from(left).unwrap_or(u64::MAX),
            })
        });
        json!({ "clients": clients.collect::<Vec<_>>(), "clients_max": CLIENTS_MAX })
    }
}

impl Drop for Debugged {
    fn drop(&mut self) {
        if let Some(ending) = &self.ending {
            ending.abort();
        }
    }
}

impl Refused {
    fn invalid(text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text: text.into(),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, self.text).into_response()
    }
}

fn parse_start(
    query: &[(String, String)],
    admission: &Admission,
) -> Result<(DebuggedClient, Duration), Refused> {
    let (mut client, mut time) = (None, None);
    for (name, value) in query {
        match name.as_str() {
            "client" if client.is_none() => client = Some(parse_client(value, admission)?),
            "for" if time.is_none() => time = Some(parse_time(value)?),
            "client" | "for" => {
                let text = format!("invalid query: {name} is there twice");
                return Err(Refused::invalid(text));
            }
            _ => {
                let text = "invalid query: allowed are client and for, as in \
                            client=192.0.2.7&for=60s";
                return Err(Refused::invalid(text));
            }
        }
    }
    let client = client.ok_or_else(|| {
        let text = format!("client is missing: it is {}", allowed_client());
        Refused::invalid(text)
    })?;
    let time = time.ok_or_else(|| {
        let text = format!("for is missing: it is {}", allowed_time());
        Refused::invalid(text)
    })?;
    Ok((client, time))
}

/// Parses an address, a network, or the id of a connection.
fn parse_client(text: &str, admission: &Admission) -> Result<DebuggedClient, Refused> {
    if text.contains('/') {
        let network = parse_network(text).map_err(|problem| {
            let text = format!("invalid client: {problem}");
            Refused::invalid(text)
        })?;
        return Ok(DebuggedClient {
            name: network.to_string().into(),
            connections: DebuggedConnections::From(Networks::from_iter([network])),
        });
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return Ok(DebuggedClient {
            name: address.to_string().into(),
            connections: DebuggedConnections::From(Networks::from_iter([IpNet::from(address)])),
        });
    }
    match admission.number_of(text) {
        Ok(number) => Ok(DebuggedClient {
            name: text.into(),
            connections: DebuggedConnections::One(number),
        }),
        Err(ConnectionIdError::Form) => {
            let text = format!("invalid client: it must be {}", allowed_client());
            Err(Refused::invalid(text))
        }
        Err(error @ ConnectionIdError::Foreign) => Err(Refused {
            status: StatusCode::NOT_FOUND,
            text: error.to_string(),
        }),
    }
}

const fn allowed_client() -> &'static str {
    "an address such as 192.0.2.7 or 2001:db8::7, a network such as 192.0.2.0/24, or the id of a \
     connection such as 4821-k7m2q9xd"
}

fn parse_time(text: &str) -> Result<Duration, Refused> {
    let time = duration::parse(text).ok();
    time.filter(|time| (FOR_MIN..=FOR_MAX).contains(time))
        .ok_or_else(|| Refused::invalid(format!("invalid for: it must be {}", allowed_time())))
}

fn allowed_time() -> String {
    format!(
        "a duration from {} to {}, in {}",
        Written(FOR_MIN),
        Written(FOR_MAX),
        duration::FORM
    )
}

#[cfg(test)]
mod tests;
