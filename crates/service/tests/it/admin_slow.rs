//! Clients of the admin port that are slow, each of which comes again as soon as it is closed, and
//! a process without file descriptors. Health must be answered all the while.

use std::{fs::File, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
    time::TimeValLike,
};
use tickstorm_service::{
    admin::{Admin, CONNECTIONS_MIN},
    metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    time::{Instant, sleep, timeout},
};

use crate::admin::{Component, PATIENCE, Port, Response};

/// The numbers of slow clients, with the spare files of the port: more clients than it has places,
/// or fewer.
pub(crate) const CROWDS: [(usize, usize); 2] = [(100, 0), (400, 10_000)];

/// The number of probes beside each kind of slow clients.
pub(crate) const PROBES: usize = 20;

/// The pause between two probes.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// Clients on threads of their own that send `first`, and then wait until they are closed.
pub(crate) struct SlowClients(Option<Runtime>);

impl SlowClients {
    pub(crate) fn start(count: usize, addr: SocketAddr, first: &[u8]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        for _ in 0..count {
            let first = first.to_owned();
            runtime.spawn(async move {
                loop {
                    let _ = Box::pin(hold(addr, &first)).await;
                }
            });
        }
        Self(Some(runtime))
    }
}

impl Drop for SlowClients {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn hold(addr: SocketAddr, first: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(first).await?;
    let mut received = [0; 4_096];
    while stream.read(&mut received).await? > 0 {}
    Ok(())
}

/// Calls `probe` beside slow clients until it returns true, and asserts that this always happens.
/// On a busy machine, a probe may be too slow itself, and is then closed. `cargo xtask abuse`
/// judges the time that it takes.
pub(crate) async fn assert_answered(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let mut longest = Duration::ZERO;
    for _ in 0..PROBES {
        let started = Instant::now();
        let answered = async { while !probe().await {} };
        let answered = timeout(PATIENCE, answered).await;
        assert!(answered.is_ok(), "no answer beside {what}");
        longest = longest.max(started.elapsed());
        sleep(PAUSE).await;
    }
    println!("{what}: the longest probe took {longest:?}");
}

/// Asks for health. Returns false if the connection is closed without an answer.
async fn is_live(addr: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream
            .write_all(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = asked.await.unwrap_or_default();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 200 "),
        "{answer}"
    );
    !answer.is_empty()
}

async fn port_with(spare_files: usize) -> Port {
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let admin = admin.with_spare_files(spare_files);
    let registry = metrics::registry().unwrap();
    Port::serve(admin, Arc::new(Component::default()), registry)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_answered_beside_slow_clients_however_few_places_there_are() {
    for (clients, spare_files) in CROWDS {
        for first in [
            "",
            "GET /metrics HTTP/1.1\r\nX: ",
            "GET /status HTTP/1.1\r\n\r\n",
        ] {
            let port = port_with(spare_files).await;
            let slow = SlowClients::start(clients, port.addr, first.as_bytes());
            let what = format!("{clients} clients that send {first:?}");
            assert_answered(&what, async || is_live(port.addr).await).await;
            drop(slow);
            port.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_long_answers_leave_room_for_others() {
    const BYTES: usize = 20_000_000;
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let long = Router::new().route("/long", get(|| async { "x".repeat(BYTES) }));
    let registry = metrics::registry().unwrap();
    let admin = admin.with_routes(long);
    let port = Port::serve(admin, Arc::new(Component::default()), registry);
    let mut readers = Vec::new();
    for _ in 0..CONNECTIONS_MIN / 2 {
        let mut stream = TcpStream::connect(port.addr).await.unwrap();
        let request = b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.readable().await.unwrap();
        readers.push(stream);
    }
    assert_answered("clients that do not read", async || {
        is_live(port.addr).await
    })
    .await;
    // Once the answers that are never read are slow, they give way to others.
    let is_answered = async { while port.get("/metrics").await.code != 200 {} };
    timeout(PATIENCE, is_answered)
        .await
        .expect("metrics are answered");
    drop(readers);
    port.stop().await;
}

/// Uses up all file descriptors of this process, which runs no other test.
fn use_up_files() -> Vec<File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 512, hard).unwrap();
    let mut files = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::EMFILE), "{error}");
                return files;
            }
        }
    }
}

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(micros.try_into().unwrap())
}

async fn connect(socket: TcpSocket, addr: SocketAddr, first: &str) -> TcpStream {
    let mut stream = timeout(PATIENCE, socket.connect(addr))
        .await
        .unwrap()
        .unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_answered_without_file_descriptors() {
    let port = port_with(0).await;
    assert_eq!(port.get("/health/live").await.code, 200);
    // The clients are in this process, and stay open: what they give up would be used at once.
    let sockets = |count| {
        let sockets = std::iter::repeat_with(|| TcpSocket::new_v4().unwrap());
        sockets.take(count).collect::<Vec<_>>()
    };
    let (slow, idle, probes) = (sockets(100), sockets(2), sockets(PROBES * 2));
    let files = use_up_files();
    let mut open = Vec::new();
    let mut probes = probes.into_iter();
    let mut probe = async |open: &mut Vec<TcpStream>| {
        let socket = probes.next().unwrap();
        let request = "GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut stream = connect(socket, port.addr, request).await;
        assert_eq!(Response::read(&mut stream).await.code, 200);
        open.push(stream);
        true
    };
    assert_answered("no descriptors", async || probe(&mut open).await).await;

    let before = cpu_time();
    sleep(Duration::from_millis(500)).await;
    let used = cpu_time() - before;
    assert!(
        used < Duration::from_millis(250),
        "{used:?} of 500 ms while nothing happens"
    );

    for socket in slow {
        open.push(connect(socket, port.addr, "GET /").await);
    }
    for socket in idle {
        open.push(connect(socket, port.addr, "").await);
    }
    assert_answered("no descriptors, and slow clients", async || {
        probe(&mut open).await
    })
    .await;
    drop(files);
    drop(open);
    assert_eq!(port.get("/metrics").await.code, 200);
    port.stop().await;
}
