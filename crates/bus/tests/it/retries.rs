//! How often a bus retries a server that turns it away. The server here implements just enough of
//! NATS's protocol for that.

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

/// Long enough that only a defect exceeds it.
const PATIENCE: Duration = Duration::from_secs(60);

const INFO: &str = concat!(
    r#"INFO {"server_id":"A","server_name":"a","version":"2.15.0","go":"go","host":"127.0.0.1","#,
    r#""port":4222,"proto":1,"max_payload":1048576,"headers":true}"#,
);

/// How a server refuses a subscription.
const DENIED: &str = r#"Permissions Violation for Subscription to "tickstorm.v1.tick.minute.*""#;

/// The server's treatment of connections.
#[derive(Clone, Copy)]
enum Treatment {
    /// It rejects the login.
    Refuse,
    /// It accepts the login, then closes the connection.
    Drop,
    /// It accepts the login and keeps the connection.
    Keep,
    /// It keeps the connection, and with each answer refuses a subscription.
    Deny,
    /// It says nothing.
    Mute,
}

/// A fake server that only handles logins.
struct FakeServer {
    addr: SocketAddr,
    treatment: Arc<Mutex<Treatment>>,
    arrivals: Arc<Mutex<Vec<Mono>>>,
}

impl FakeServer {
    async fn new(treatment: Treatment) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self {
            addr: listener
                .local_addr()
                .expect("the address of a bound listener"),
            treatment: Arc::new(Mutex::new(treatment)),
            arrivals: Arc::default(),
        };
        let (treatment, arrivals) = (Arc::clone(&server.treatment), Arc::clone(&server.arrivals));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                arrivals
                    .lock()
                    .expect("the lock is not poisoned")
                    .push(SystemClock.now());
                tokio::spawn(greet(
                    stream,
                    *treatment.lock().expect("the lock is not poisoned"),
                ));
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("nats://edge:wr0ngone@{}", self.addr)
    }

    fn bus(&self) -> (NatsBus, BusLog) {
        bus(self.url())
    }

    /// Returns the time from the first connection to the one that is `count` later.
    async fn time_of(&self, count: usize) -> Duration {
        poll_until_async("the bus keeps retrying", PATIENCE, || {
            self.arrivals
                .lock()
                .expect("the lock is not poisoned")
                .len()
                > count
        })
        .await;
        let arrivals = self.arrivals.lock().expect("the lock is not poisoned");
        arrivals[count].since(arrivals[0])
    }
}

/// Starts a bus that connects to these servers.
fn bus(urls: String) -> (NatsBus, BusLog) {
    let log = BusLog::default();
    let _guard = set_default(&log.subscriber());
    let bus = NatsBus::start(NatsOptions {
        urls,
        subject_prefix: "tickstorm".into(),
        ..NatsOptions::default()
    });
    (bus.expect("valid options"), log)
}

/// Serves one connection, which the bus may close at any time.
async fn greet(mut stream: TcpStream, treatment: Treatment) -> std::io::Result<()> {
    if matches!(treatment, Treatment::Mute) {
        return std::future::pending().await;
    }
    let (input, mut output) = stream.split();
    output.write_all(format!("{INFO}\r\n").as_bytes()).await?;
    let mut lines = BufReader::new(input).split(b'\n');
    // Requests for the time are not text.
    while let Some(line) = lines.next_segment().await? {
        if line != b"PING\r" {
            continue;
        }
        match treatment {
            Treatment::Refuse => {
                output
                    .write_all(b"-ERR 'Authorization Violation'\r\n")
                    .await?;
                return Ok(());
            }
            Treatment::Drop => {
                output.write_all(b"PONG\r\n").await?;
                return Ok(());
            }
            Treatment::Keep => output.write_all(b"PONG\r\n").await?,
            Treatment::Deny => {
                output.write_all(b"PONG\r\n").await?;
                output
                    .write_all(format!("-ERR '{DENIED}'\r\n").as_bytes())
                    .await?;
            }
            Treatment::Mute => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_is_tried_less_and_less_often_until_it_accepts() {
    let server = FakeServer::new(Treatment::Refuse).await;
    let (bus, log) = server.bus();
    let mut events = bus.edge_events(&[]);
    // Half of 100, 200, 400, 800, 1,600 and 3,200 ms, with a margin since the first connection
    // takes time.
    let took = server.time_of(6).await;
    assert!(
        took > Duration::from_millis(3_000),
        "six further connections came within {took:?}"
    );
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");

    *server.treatment.lock().expect("the lock is not poisoned") = Treatment::Keep;
    let next = tokio::time::timeout(PATIENCE, events.next()).await;
    assert_eq!(next, Ok(Some(EdgeEvent::Connected)));
}

#[tokio::test]
async fn a_server_that_drops_connections_is_tried_less_often_and_soon_not_logged() {
    let server = FakeServer::new(Treatment::Drop).await;
    let (bus, log) = server.bus();
    // Half of 100, 200, 400, 800 ms and six times 1 s, with a margin.
    let took = server.time_of(10).await;
    assert!(
        took > Duration::from_millis(3_500),
        "ten further connections came within {took:?}"
    );
    bus.stop().await;
    let text = log.text();
    for message in ["connected to NATS", "connection to NATS is lost"] {
        let lines = text.lines().filter(|line| line.contains(message)).count();
        assert_eq!(lines, 3, "{message} in {text}");
    }
    assert_eq!(text.lines().count(), 6, "{text}");
}

#[tokio::test]
async fn servers_that_say_nothing_hide_none_that_works() {
    const MUTE: u32 = 12;
    let mut servers = vec![FakeServer::new(Treatment::Keep).await];
    for _ in 0..MUTE {
        servers.push(FakeServer::new(Treatment::Mute).await);
    }
    let urls: Vec<_> = servers.iter().map(FakeServer::url).collect();
    let began = SystemClock.now();
    let (bus, log) = bus(urls.join(","));
    let mut events = bus.edge_events(&[]);
    let next = tokio::time::timeout(PATIENCE, events.next()).await;
    assert_eq!(next, Ok(Some(EdgeEvent::Connected)), "{}", log.text());
    // The order is random, so all of them may have been tried before. Each has 2 s.
    let took = SystemClock.now().since(began);
    assert!(took < Duration::from_secs(2) * (MUTE - 3), "{took:?}");
}

/// Asks for the time every half a second, as long as `bus` is connected, until `is_over`.
async fn ask_until(bus: &NatsBus, is_over: impl Fn() -> bool) {
    let began = SystemClock.now();
    while !is_over() {
        assert!(SystemClock.now().since(began) < PATIENCE);
        // This fails between connections.
        let _ = bus.ask(7);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn a_server_over_which_no_clock_answers_is_left_for_the_next_but_never_more_often() {
    let servers = [
        FakeServer::new(Treatment::Deny).await,
        FakeServer::new(Treatment::Deny).await,
    ];
    let urls = servers.each_ref().map(FakeServer::url);
    let (bus, log) = bus(urls.join(","));
    let _events = bus.edge_events(&[]);
    let arrivals = || {
        let mut all = Vec::new();
        for (index, server) in servers.iter().enumerate() {
            let arrivals = server.arrivals.lock().expect("the lock is not poisoned");
            all.extend(arrivals.iter().map(|at| (*at, index)));
        }
        all.sort_unstable();
        all
    };
    ask_until(&bus, || arrivals().len() >= 4).await;
    let arrivals = arrivals();
    let order: Vec<_> = arrivals.iter().map(|(_, server)| *server).collect();
    assert!(
        order.windows(2).all(|pair| pair[0] != pair[1]),
        "each is the next of the other: {order:?}: {}",
        log.text()
    );
    let pauses: Vec<_> = arrivals
        .windows(2)
        .map(|pair| pair[1].0.since(pair[0].0).as_secs())
        .collect();
    for (pause, at_least) in pauses.iter().zip([5, 5, 10]) {
        assert!(*pause >= at_least, "{pauses:?}: {}", log.text());
    }
    let report = bus.link_report();
    assert!(report.is_silent && !report.is_heard, "{report:?}");
    assert_eq!(report.silent_links, 3, "{report:?}");
    let text = log.text();
    for server in &servers {
        let lines = text.lines().filter(|line| {
            line.contains("no clock of CLOCKS answers over this connection")
                && line.contains(&format!("server={}", server.addr))
        });
        assert_eq!(lines.count(), 1, "{text}");
    }
    // Each connection is refused the same subscription, again and again.
    let errors = text
        .lines()
        .filter(|line| line.contains("NATS reported an error"));
    assert_eq!(errors.count(), 1, "{text}");
}

#[tokio::test]
async fn a_connection_over_which_nothing_was_asked_is_kept() {
    let server = FakeServer::new(Treatment::Keep).await;
    let (bus, _log) = server.bus();
    let _events = bus.edge_events(&[]);
    poll_until_async("a connection", PATIENCE, || bus.is_connected()).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(bus.link_report().silent_links, 0);
    assert_eq!(
        server
            .arrivals
            .lock()
            .expect("the lock is not poisoned")
            .len(),
        1
    );
}
