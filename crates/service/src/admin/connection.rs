//! One connection to the admin port: its TLS handshake, its one request, and the limits in time for
//! both. Errors are ignored: they only concern the client, and nothing can be done about them.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::pin,
    sync::Arc,
    task::ready,
    time::Duration,
};

use axum::{Router, extract::Request, http::StatusCode};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::{
    CONNECTION_TIME_MAX, HANDSHAKE_TIME_MAX, HEADER_TIME_MAX,
    places::{Answer, Place},
    request_id::RequestId,
    roster::Busy,
};
use crate::excerpt::Excerpt;

/// The time that requests in progress have to finish after the port is stopped.
const STOP_TIME_MAX: Duration = Duration::from_secs(1);

/// The maximum size of a request's header in bytes.
const HEADER_BYTES_MAX: usize = 16_384;

/// The client that sent a request.
#[derive(Clone, Debug)]
pub(super) struct Client {
    peer: IpAddr,
    answer: Answer,
}

impl Client {
    /// Returns the address from which the client is connected. What headers say does not count.
    pub(super) const fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Announces that the answer takes work or may be long.
    ///
    /// # Errors
    /// Returns an error if too many such answers are in progress.
    pub(super) fn start_answer(&self) -> Result<(), Busy> {
        self.answer.start()
    }
}

/// An accepted connection, and what it is served with.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: IpAddr,
    /// `None` if the port has no TLS.
    pub(super) tls: Option<ConnectionTls>,
    pub(super) router: Router,
    pub(super) stop: CancellationToken,
}

/// The means of a TLS handshake.
pub(super) struct ConnectionTls {
    pub(super) config: Arc<ServerConfig>,
    /// A permit for each handshake that may compute now.
    pub(super) computing: Arc<Semaphore>,
}

impl Connection {
    /// Serves one request, unless the connection has to give way to another.
    pub(super) async fn serve(self, place: Place) {
        let answer = place.answer();
        // Boxed, because rustls' state is large.
        let served = Box::pin(self.serve_request(answer));
        tokio::select! {
            // A request that has arrived by now is still answered.
            biased;
            () = served => {}
            () = place.close.cancelled() => {}
        }
    }

    async fn serve_request(self, answer: Answer) {
        let Self {
            stream,
            peer,
            tls,
            router,
            stop,
        } = self;
        let client = Client { peer, answer };
        let Some(ConnectionTls { config, computing }) = tls else {
            return serve_http(stream, router, &stop, client).await;
        };
        let handshake = timeout(HANDSHAKE_TIME_MAX, async {
            if is_plain_text(&stream).await {
                return Handshake::PlainText(stream);
            }
            // Boxed, because it is a large future.
            let accepting = Box::pin(TlsAcceptor::from(config).accept(stream));
            let accepted = compute_with_permit(computing, &client.answer, accepting).await;
            accepted.map_or_else(Handshake::Failed, |stream| {
                Handshake::Done(Box::new(stream))
            })
        });
        match stop.run_until_cancelled(handshake).await {
            Some(Ok(Handshake::Done(stream))) => serve_http(stream, router, &stop, client).await,
            Some(Ok(Handshake::PlainText(stream))) => {
                let refusal = (StatusCode::BAD_REQUEST, "this port serves HTTPS only\n");
                let router = Router::new().fallback(async move || refusal);
                serve_http(stream, router, &stop, client).await;
            }
            Some(Ok(Handshake::Failed(error))) => {
                let error = Excerpt(error);
                tracing::debug!(%peer, %error, "a TLS handshake on the admin port failed");
            }
            Some(Err(_)) => {
                tracing::debug!(%peer, "a TLS handshake on the admin port took too long");
            }
            None => {}
        }
    }
}

/// The outcome of a TLS handshake.
enum Handshake {
    Done(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// The client sends HTTP without TLS.
    PlainText(TcpStream),
    Failed(std::io::Error),
}

/// Waits for `work`, which computes only while it has a permit. While it waits for its peer, it has
/// none, so that silent peers keep nobody waiting. While it waits for its permit, its connection
/// need not give way.
async fn compute_with_permit<T>(
    permits: Arc<Semaphore>,
    answer: &Answer,
    work: impl Future<Output = T>,
) -> T {
    let mut permits = PollSemaphore::new(permits);
    let mut work = pin!(work);
    poll_fn(|context| {
        answer.wait_for_client(false);
        let permit = ready!(permits.poll_acquire(context));
        let progress = work.as_mut().poll(context);
        drop(permit);
        answer.wait_for_client(true);
        progress
    })
    .await
}

/// Returns whether the client's first byte is that of an HTTP request: a record of a TLS handshake
/// starts with 22.
async fn is_plain_text(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)) && first[0].is_ascii_uppercase()
}

/// Serves one request.
async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    stop: &CancellationToken,
    client: Client,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false);
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let id = RequestId::of(request.headers());
        request.extensions_mut().insert(client.clone());
        request.extensions_mut().insert(id.clone());
        let answering = service.call(request);
        async move {
            let mut answer = answering.await?;
            id.add_to(answer.headers_mut());
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let until_stopped = stop.run_until_cancelled(connection.as_mut());
    if let Ok(None) = timeout(CONNECTION_TIME_MAX, until_stopped).await {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(STOP_TIME_MAX, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicBool, Ordering},
        task::Poll,
        thread,
    };

    use tokio::task::JoinSet;

    use super::{super::places::Places, *};

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn work_computes_one_at_a_time_and_waits_without_a_permit() {
        let permits = Arc::new(Semaphore::new(1));
        let places = Places::new(2, Duration::ZERO);
        let place = places.take([127, 0, 0, 1].into()).await;
        let mut waiting = JoinSet::new();
        for _ in 0..8 {
            let permits = Arc::clone(&permits);
            let answer = place.answer();
            waiting.spawn(async move {
                compute_with_permit(permits, &answer, pending::<()>()).await;
            });
        }
        let is_computing = Arc::new(AtomicBool::new(false));
        let mut computing = JoinSet::new();
        for _ in 0..8 {
            let (permits, is_computing) = (Arc::clone(&permits), Arc::clone(&is_computing));
            let mut steps = 100;
            let work = poll_fn(move |context| {
                assert!(!is_computing.swap(true, Ordering::SeqCst), "two at a time");
                thread::yield_now();
                is_computing.store(false, Ordering::SeqCst);
                steps -= 1;
                if steps == 0 {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            });
            let answer = place.answer();
            computing.spawn(async move { compute_with_permit(permits, &answer, work).await });
        }
        while let Some(ended) = computing.join_next().await {
            ended.unwrap();
        }
        assert_eq!(waiting.len(), 8);
        waiting.shutdown().await;
        assert_eq!(permits.available_permits(), 1);
    }
}
