//! How often a bus tries a server that turns it away. The server here speaks just enough of NATS's
//! protocol for that.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tickstorm_bus::{Bus, EdgeEvent, NatsBus, NatsOptions};
use tickstorm_testkit::poll_until_async;
use tickstorm_timebase::{Clock, Mono, SystemClock};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tracing::dispatcher::set_default;

use crate::log::BusLog;

/// So long that only a defect takes it.
const PATIENCE: Duration = Duration::from_secs(60);

const INFO: &str = concat!(
    r#"INFO {"server_id":"A","server_name":"a","version":"2.15.0","go":"go","host":"127.0.0.1","#,
    r#""port":4222,"proto":1,"max_payload":1048576,"headers":true}"#,
);

/// How the server treats connections.
#[derive(Clone, Copy)]
enum Manner {
    /// Says that the login is wrong.
    Refuses,
    /// Takes the login, and ends the connection.
    Drops,
    /// Takes the login.
    Keeps,
}

/// A server that is none behind its greeting.
struct Doorkeeper {
    addr: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    came: Arc<Mutex<Vec<Mono>>>,
}

impl Doorkeeper {
    async fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let doorkeeper = Self {
            addr: listener.local_addr().expect("it is bound"),
            manner: Arc::new(Mutex::new(manner)),
            came: Arc::default(),
        };
        let (manner, came) = (Arc::clone(&doorkeeper.manner), Arc::clone(&doorkeeper.came));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                came.lock().expect("no panic").push(SystemClock.now());
                tokio::spawn(greet(stream, *manner.lock().expect("no panic")));
            }
        });
        doorkeeper
    }

    fn bus(&self) -> (NatsBus, BusLog) {
        let log = BusLog::default();
        let _guard = set_default(&log.subscriber());
        let bus = NatsBus::start(NatsOptions {
            urls: format!("nats://edge:wr0ngone@{}", self.addr),
            subject_prefix: "tickstorm".into(),
            ..NatsOptions::default()
        });
        (bus.expect("sound options"), log)
    }

    /// The time from the first connection to the one that is `count` later.
    async fn time_of(&self, count: usize) -> Duration {
        poll_until_async("it is tried again and again", PATIENCE, || {
            self.came.lock().expect("no panic").len() > count
        })
        .await;
        let came = self.came.lock().expect("no panic");
        came[count].since(came[0])
    }
}

/// Serves one connection, which the bus may end at any time.
async fn greet(mut stream: TcpStream, manner: Manner) -> std::io::Result<()> {
    let (input, mut output) = stream.split();
    output.write_all(format!("{INFO}\r\n").as_bytes()).await?;
    let mut lines = BufReader::new(input).lines();
    while let Some(line) = lines.next_line().await? {
        if line != "PING" {
            continue;
        }
        match manner {
            Manner::Refuses => {
                output
                    .write_all(b"-ERR 'Authorization Violation'\r\n")
                    .await?;
                return Ok(());
            }
            Manner::Drops => {
                output.write_all(b"PONG\r\n").await?;
                return Ok(());
            }
            Manner::Keeps => output.write_all(b"PONG\r\n").await?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_is_asked_less_and_less_often_until_it_lets_in() {
    let server = Doorkeeper::new(Manner::Refuses).await;
    let (bus, log) = server.bus();
    let mut events = bus.edge_events();
    // Half of 100, 200, 400, 800, 1,600 and 3,200 ms, less a little, since connecting takes time.
    let took = server.time_of(6).await;
    assert!(
        took > Duration::from_millis(3_000),
        "six more within {took:?}"
    );
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");

    *server.manner.lock().expect("no panic") = Manner::Keeps;
    let next = tokio::time::timeout(PATIENCE, events.next()).await;
    assert_eq!(next, Ok(Some(EdgeEvent::Connected)));
}

#[tokio::test]
async fn a_server_that_lets_in_and_drops_is_asked_less_often_too_and_soon_no_news() {
    let server = Doorkeeper::new(Manner::Drops).await;
    let (bus, log) = server.bus();
    // Half of 100, 200, 400, 800 ms and six seconds, less a little.
    let took = server.time_of(10).await;
    assert!(
        took > Duration::from_millis(3_500),
        "ten more within {took:?}"
    );
    bus.stop().await;
    let text = log.text();
    for said in ["connected to NATS", "connection to NATS is lost"] {
        let lines = text.lines().filter(|line| line.contains(said)).count();
        assert_eq!(lines, 3, "{said} in {text}");
    }
    assert_eq!(text.lines().count(), 6, "{text}");
}
