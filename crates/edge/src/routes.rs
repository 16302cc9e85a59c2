//! Operators' view of the connections: `/connections` lists them, `DELETE /connections/<id>` closes
//! one. Shards are asked by message and answer for themselves.

use std::cmp::Reverse;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::shard::{Listed, Order, ShardCommand, ShardHandle};

/// Connections in an answer, unless the query says otherwise.
const LIMIT: usize = 100;
/// Connections in an answer at most: some 3 MB of JSON.
const LIMIT_MAX: usize = 10_000;

/// Control's ends of the shards, to ask them.
type Handles = Vec<ShardHandle>;

/// The routes. They are for operators on this machine: who serves them lets nobody else in.
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
        let allowed = format!("allowed are sort=backlog or sort=age, and limit=1 to {LIMIT_MAX}");
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
        let allowed = "an id is a number, as /connections shows it";
        return (StatusCode::BAD_REQUEST, allowed).into_response();
    };
    let answers = ask(&shards, |reply| ShardCommand::Close(id, reply)).await;
    if !answers.contains(&true) {
        return (StatusCode::NOT_FOUND, format!("no connection {id}")).into_response();
    }
    tracing::info!(connection = id, "an operator closed a connection");
    StatusCode::NO_CONTENT.into_response()
}

/// Asks all shards at once. One that has ended has no connections.
async fn ask<T>(shards: &Handles, question: impl Fn(oneshot::Sender<T>) -> ShardCommand) -> Vec<T> {
    let mut replies = Vec::new();
    for shard in shards {
        let (reply, answer) = oneshot::channel();
        if shard.tell(question(reply)).is_ok() {
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
    fn a_query_says_order_and_limit_or_leaves_them_out() {
        assert_eq!(parse_pairs(&[]), Some((Order::Backlog, LIMIT)));
        let both = [("limit", "1"), ("sort", "age")];
        assert_eq!(parse_pairs(&both), Some((Order::Age, 1)));
        let most = [("sort", "backlog"), ("limit", "10000")];
        assert_eq!(parse_pairs(&most), Some((Order::Backlog, LIMIT_MAX)));
    }

    #[test]
    fn anything_else_is_no_query() {
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
