//! An edge that only counts the answers to its time requests.

use std::time::Duration;

use tickstorm_bus::{Bus as _, EdgeEvent, NatsBus, NatsOptions};
use tickstorm_testkit::Nats;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::CLOCKS;
use super::messages::id;
use crate::tickstorm::PATIENCE;

/// An edge that only asks for the time, once per second, and counts the answers of each clock.
pub(super) struct Rounds {
    stop: oneshot::Sender<()>,
    task: JoinHandle<(u64, [u64; 3])>,
}

impl Rounds {
    pub(super) fn start(nats: &Nats) -> Self {
        let bus = NatsBus::start(NatsOptions {
            urls: nats.url(),
            user: "edge".into(),
            password: "edge".into(),
            subject_prefix: "tickstorm".into(),
            ..NatsOptions::default()
        });
        let bus = bus.unwrap();
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut events = bus.edge_events(&CLOCKS.map(id));
            while timeout(PATIENCE, events.next()).await.unwrap() != Some(EdgeEvent::Connected) {}
            let (mut rounds, mut answers) = (0, [0; 3]);
            let mut count = |event: EdgeEvent| {
                if let EdgeEvent::Reply(reply) = event {
                    let clock = reply.clock_id.as_str();
                    answers[CLOCKS.iter().position(|id| *id == clock).unwrap()] += 1;
                }
            };
            while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                rounds += 1;
                bus.ask(rounds).unwrap();
                let second = sleep(Duration::from_secs(1));
                let listen = async {
                    while let Some(event) = events.next().await {
                        count(event);
                    }
                };
                tokio::select! {
                    () = second => {}
                    () = listen => panic!("the bus has ended"),
                }
            }
            // On a busy machine, an answer may take longer than a round.
            let late = async {
                while let Some(event) = events.next().await {
                    count(event);
                }
            };
            let _ = timeout(Duration::from_secs(2), late).await;
            (rounds, answers)
        });
        Self { stop, task }
    }

    /// Returns the number of rounds, and of answers from each clock.
    pub(super) async fn finish(self) -> (u64, [u64; 3]) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}
