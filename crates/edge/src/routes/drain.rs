//! `POST /drain`: asks the process to drain the edge and to end, as SIGTERM does.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;
use tickstorm_service::admin::RequestId;
use tokio_util::sync::CancellationToken;

/// Returns the route, which cancels `request` to ask for a drain. It changes something, so the
/// caller must serve it behind the guard.
pub(crate) fn drain_route(request: CancellationToken) -> Router {
    Router::new()
        .route("/drain", post(drain))
        .with_state(request)
}

async fn drain(State(request): State<CancellationToken>, request_id: RequestId) -> Response {
    if !request.is_cancelled() {
        tracing::info!(%request_id, "an operator asked for a drain");
        request.cancel();
    }
    (StatusCode::ACCEPTED, Json(json!({ "draining": true }))).into_response()
}
