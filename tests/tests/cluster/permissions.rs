//! What NATS lets whom do, by the configuration that is shipped, in the cluster that runs with it: a client like any other tries, with
//! the logins that clocks and edges have.

use async_nats::{Client, ConnectError, ConnectOptions, Event, ServerError};
use futures_util::StreamExt as _;
use tickstorm_testkit::PATIENCE;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::engine::{NATS, be_ready, container};

const SECOND: &str = "tickstorm.v1.tick.second";
const MINUTE: &str = "tickstorm.v1.tick.minute";
const TIME: &str = "tickstorm.v1.time";
const FORGED: &[u8] = b"forged";

#[tokio::test]
async fn an_edges_login_can_neither_announce_ticks_nor_answer_for_a_clock() {
    be_ready();
    let mut edge = Intruder::like("edge").await;
    let mut announcements = edge.client.subscribe(SECOND).await.unwrap();
    for subject in [SECOND, MINUTE, "_INBOX.of.another.edge"] {
        edge.publish(subject).await;
        edge.is_refused(&format!("Publish to \"{subject}\"")).await;
    }
    edge.subscribe_to(TIME).await;
    edge.is_refused(&format!("Subscription to \"{TIME}\""))
        .await;
    edge.subscribe_to(">").await;
    edge.is_refused("Subscription to \">\"").await;
    // What came through meanwhile, and comes next, is the clocks'.
    for _ in 0..3 {
        let announcement = timeout(PATIENCE, announcements.next()).await;
        let announcement = announcement.expect("clocks announce").unwrap();
        assert_ne!(&*announcement.payload, FORGED);
    }
}

#[tokio::test]
async fn a_clocks_login_can_neither_ask_nor_answer_who_did_not() {
    be_ready();
    let mut clock = Intruder::like("clock-0").await;
    for subject in [TIME, "_INBOX.of.an.edge"] {
        clock.publish(subject).await;
        clock.is_refused(&format!("Publish to \"{subject}\"")).await;
    }
    for subject in [SECOND, "_INBOX.>"] {
        clock.subscribe_to(subject).await;
        clock
            .is_refused(&format!("Subscription to \"{subject}\""))
            .await;
    }
    // The same attempt where it is allowed: what was refused was so for a reason. Edges drop and count what is no announcement.
    clock.publish(MINUTE).await;
    clock.client.flush().await.unwrap();
    assert!(clock.complaints.is_empty());
}

#[tokio::test]
async fn without_a_login_nobody_gets_in() {
    be_ready();
    let clock = container("clock-0");
    let password = clock.env("NATS_PASSWORD");
    let with = |user: &str, password: &str| {
        ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
    };
    for options in [
        ConnectOptions::new(),
        with("clock", "no"),
        with("edge", &password),
        // The servers' own, which is for their routes.
        with("route", "route_pass"),
    ] {
        let attempt = connect(options).await;
        let error = attempt.expect_err("no connection").to_string();
        assert!(error.contains("authorization violation"), "{error}");
    }
    connect(with("clock", &password)).await.unwrap();
}

/// A client of NATS with somebody's login.
struct Intruder {
    client: Client,
    complaints: UnboundedReceiver<String>,
}

impl Intruder {
    async fn like(service: &str) -> Self {
        let owner = container(service);
        let (user, password) = (owner.env("NATS_USER"), owner.env("NATS_PASSWORD"));
        let (tell, complaints) = unbounded_channel();
        let options = ConnectOptions::with_user_and_password(user, password);
        let client = connect(options.event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                tell.send(text).unwrap();
            }
            std::future::ready(())
        }));
        Self {
            client: client.await.unwrap(),
            complaints,
        }
    }

    async fn publish(&self, subject: &str) {
        let payload = FORGED.into();
        self.client
            .publish(subject.to_owned(), payload)
            .await
            .unwrap();
    }

    async fn subscribe_to(&self, subject: &str) {
        // Its end says nothing more than the complaint does.
        drop(self.client.subscribe(subject.to_owned()).await.unwrap());
    }

    /// Waits for the server's word that this was not permitted.
    async fn is_refused(&mut self, what: &str) {
        let complaint = timeout(PATIENCE, self.complaints.recv()).await;
        let complaint = complaint.unwrap_or_else(|_| panic!("{what} is permitted"));
        let complaint = complaint.unwrap();
        let expected = format!("permissions violation for {what}");
        assert!(
            complaint.to_lowercase().contains(&expected.to_lowercase()),
            "{complaint}"
        );
    }
}

async fn connect(options: ConnectOptions) -> Result<Client, ConnectError> {
    let url = format!("nats://{}:4222", container(NATS[0]).ip());
    Box::pin(options.connect(url)).await
}
