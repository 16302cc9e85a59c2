//! `POST /rebalance`: moves a share of the clients to other edges, chosen at random and spread over
//! a time. A new edge has no clients otherwise, until others leave their edges. One rebalance is
//! under way at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tickstorm_service::admin::RequestId;
use tickstorm_service::duration::{self, Written};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{DRAINING, Operators};
use crate::shard::{Chosen, RebalanceOrder, ShardCommand};

/// The shortest time over which clients are moved, so that each has a second to leave.
const OVER_MIN: Duration = Duration::from_secs(2);
/// The longest one. What takes longer is better divided into several steps, with a look at the
/// edges in between.
const OVER_MAX: Duration = Duration::from_secs(3_600);

/// A rebalance that was started. Shards hold its counter until they have moved their clients.
pub(super) struct Rebalance {
    share: f64,
    over: Duration,
    chosen: usize,
    began: Instant,
    told: Arc<AtomicUsize>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Request {
    share: f64,
    over: Duration,
}

pub(super) async fn rebalance(
    State(operators): State<Arc<Operators>>,
    request_id: RequestId,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let request = match parse(&query) {
        Ok(request) => request,
        Err(text) => return (StatusCode::BAD_REQUEST, text).into_response(),
    };
    let mut rebalance = Arc::clone(&operators.rebalance).lock_owned().await;
    if operators.is_draining() {
        return (StatusCode::CONFLICT, DRAINING).into_response();
    }
    if let Some(earlier) = rebalance.as_ref().filter(|earlier| earlier.is_under_way()) {
        let text = "a rebalance is under way: wait until it has ended";
        let answer = json!({ "error": text, "rebalance": earlier.state() });
        return (StatusCode::CONFLICT, Json(answer)).into_response();
    }
    // A task of its own: even if the client leaves, the rebalance is known to the next one.
    let starting = tokio::spawn(async move {
        let started = start(&operators, request, &request_id).await;
        let state = started.state();
        *rebalance = Some(started);
        state
    });
    match starting.await {
        Ok(state) => (StatusCode::ACCEPTED, Json(state)).into_response(),
        Err(error) => {
            let text = format!("clients can't be moved: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// Lets one shard after the other choose its clients, so that all together move the share of all
/// clients, rounded, however few a shard has.
async fn start(operators: &Operators, request: Request, request_id: &RequestId) -> Rebalance {
    let Request { share, over } = request;
    let began = Instant::now();
    let told = Arc::new(AtomicUsize::new(0));
    let (mut chosen, mut carry) = (0, 0.5);
    for shard in &operators.shards {
        let (reply, answer) = oneshot::channel();
        let order = RebalanceOrder {
            share,
            carry,
            over,
            grace: operators.grace().min(over / 2),
            told: Arc::clone(&told),
            reply,
        };
        // A shard that has ended or drains gives no answer.
        let _ = shard.send(ShardCommand::Rebalance(order));
        if let Ok(Chosen {
            connections,
            carry: left,
        }) = answer.await
        {
            chosen += connections;
            carry = left;
        }
    }
    tracing::info!(
        share,
        ?over,
        connections = chosen,
        %request_id,
        "an operator moves clients to other edges"
    );
    Rebalance {
        share,
        over,
        chosen,
        began,
        told,
    }
}

impl Rebalance {
    fn is_under_way(&self) -> bool {
        Arc::strong_count(&self.told) > 1
    }

    fn state(&self) -> Value {
        let left = self.over.saturating_sub(self.began.elapsed());
        json!({
            "share": self.share,
            "over": Written(self.over).to_string(),
            "connections": self.chosen,
            "told": self.told.load(Ordering::Relaxed),
            "ends_in_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

fn parse(query: &[(String, String)]) -> Result<Request, String> {
    let (mut share, mut over) = (None, None);
    for (name, value) in query {
        match name.as_str() {
            "share" if share.is_none() => share = Some(parse_share(value)?),
            "over" if over.is_none() => over = Some(parse_over(value)?),
            "share" | "over" => return Err(format!("invalid query: {name} is there twice")),
            _ => {
                return Err("invalid query: allowed are share and over, as in \
                            share=0.2&over=60s"
                    .to_owned());
            }
        }
    }
    let share = share.ok_or("share is missing: it is above 0 and at most 1, as in share=0.2")?;
    let over = over.ok_or_else(|| format!("over is missing: it is {}", allowed_over()))?;
    Ok(Request { share, over })
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| *share > 0.0 && *share <= 1.0)
        .ok_or_else(|| "invalid share: it must be a number above 0 and at most 1".to_owned())
}

fn parse_over(text: &str) -> Result<Duration, String> {
    let over = duration::parse(text).ok();
    over.filter(|over| (OVER_MIN..=OVER_MAX).contains(over))
        .ok_or_else(|| format!("invalid over: it must be {}", allowed_over()))
}

fn allowed_over() -> String {
    format!(
        "a duration from {} to {}, in {}",
        Written(OVER_MIN),
        Written(OVER_MAX),
        duration::FORM
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(query: &str) -> Result<Request, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        parse(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn a_query_has_a_share_and_a_time() {
        for (query, share, over_s) in [
            ("share=0.2&over=60s", 0.2, 60),
            ("over=1h&share=1", 1.0, 3_600),
            ("share=0.0001&over=2s", 0.0001, 2),
            ("share=2e-1&over=1m30s", 0.2, 90),
        ] {
            let over = Duration::from_secs(over_s);
            assert_eq!(parse_text(query), Ok(Request { share, over }), "{query}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_query_is_named() {
        for (query, named) in [
            ("", "share is missing"),
            ("over=60s", "share is missing"),
            ("share=0.2", "over is missing"),
            ("share=0&over=60s", "invalid share"),
            ("share=-0.1&over=60s", "invalid share"),
            ("share=1.01&over=60s", "invalid share"),
            ("share=NaN&over=60s", "invalid share"),
            ("share=inf&over=60s", "invalid share"),
            ("share=20%25&over=60s", "invalid share"),
            ("share=&over=60s", "invalid share"),
            ("share=0.2&over=60", "invalid over"),
            ("share=0.2&over=1s", "invalid over"),
            ("share=0.2&over=61m", "invalid over"),
            ("share=0.2&over=", "invalid over"),
            ("share=0.2&share=0.3&over=60s", "share is there twice"),
            ("share=0.2&over=60s&over=61s", "over is there twice"),
            ("share=0.2&over=60s&force", "allowed are share and over"),
        ] {
            let error = parse_text(query).unwrap_err();
            assert!(error.contains(named), "{query}: {error}");
        }
        let error = parse_text("share=1&over=1s").unwrap_err();
        assert!(error.contains("from 2s to 1h"), "{error}");
    }
}
