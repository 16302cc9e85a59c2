//! The operators' view of the connections: `GET /connections` lists them, and
//! `DELETE /connections/<id>` closes one. Each request is sent to all shards as a message, and each
//! shard answers for its own connections.

use std::cmp::Reverse;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::shard::{Listed, Order, ShardCommand, ShardHandle};

/// The most connections in an answer if the query does not set `limit`.
const LIMIT: usize = 100;
/// The highest allowed `limit`: about 3 MB of JSON.
const LIMIT_MAX: usize = 10_000;

/// Handles for sending commands to the shards.
type Handles = Vec<ShardHandle>;

/// Returns the routes. They are for operators on this machine, so the caller must serve them only
/// to loopback peers.
pub(crate) fn routes(shards: Handles) -> Router {
    Router::new()
        .route("/connections", get(list))
        .route("/connections/{id}", delete(close))
        .with_state(shards)
}

async fn list(
    State(shards): State<Handles>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let Some((order, limit)) = parse(&query) else {
        let allowed = format!(
            "invalid query: allowed are sort=backlog or sort=age, and limit=N with N from 1 to \
             {LIMIT_MAX}"
        );
        return (StatusCode::BAD_REQUEST, allowed).into_response();
    };
    let answers = ask(&shards, |reply| ShardCommand::List(order, limit, reply)).await;
    let mut listed: Vec<Listed> = answers.into_iter().flatten().collect();
    listed.sort_by_key(|one| (Reverse(one.rank(order)), one.id));
    listed.truncate(limit);
    Json(listed.iter().map(show).collect::<Vec<_>>()).into_response()
}

async fn close(State(shards): State<Handles>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else {
        let allowed = "invalid connection id: it must be a number, as listed by /connections";
        return (StatusCode::BAD_REQUEST, allowed).into_response();
    };
    let answers = ask(&shards, |reply| ShardCommand::Close(id, reply)).await;
    if !answers.contains(&true) {
        return (
            StatusCode::NOT_FOUND,
            format!("no connection has the id {id}"),
        )
            .into_response();
    }
    tracing::info!(connection = id, "an operator closed a connection");
    StatusCode::NO_CONTENT.into_response()
}

/// Asks all shards in parallel. A shard that has ended has no connections and gives no answer.
async fn ask<T>(shards: &Handles, question: impl Fn(oneshot::Sender<T>) -> ShardCommand) -> Vec<T> {
    let mut replies = Vec::new();
    for shard in shards {
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

fn show(listed: &Listed) -> Value {
    let client = listed.client.as_ref();
    json!({
        "id": listed.id,
        "peer": listed.peer.to_string(),
        "identity": client.map(|client| &client.identity),
        "client_id": client.map(|client| &client.id),
        "client_version": client.map(|client| &client.version),
        "certificate": listed.certificate.as_ref().map(|certificate| json!({
            "subject": certificate.subject,
            "serial": certificate.serial,
        })),
        "subscribed": listed.subscribed,
        "mode": listed.mode.map(|mode| mode.name().to_uppercase()),
        "ahead": listed.ahead,
        "age_s": listed.age.as_secs(),
        "backlog_frames": listed.backlog_frames,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
