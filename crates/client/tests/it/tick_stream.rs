//! A stream of ticks only, and the log of everything else.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tickstorm_client::Options;
use tickstorm_protocol::ErrorCode;
use tracing::subscriber;

use crate::edge::{Net, dial, epoch};

/// A log that a test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn only_ticks_are_yielded_and_the_rest_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let format = tracing_subscriber::fmt().with_writer(move || writer.clone());
    let _guard = subscriber::set_default(format.with_ansi(false).finish());
    let (events, mut edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
    let mut ticks = events.into_tick_stream();
    edge.ticks([1_000, 4_000]).await;
    for at_ms in [1_000, 4_000] {
        assert_eq!(ticks.next().await.unwrap().epoch, epoch(at_ms));
    }
    edge.connection_id = "4821-k7m2q9xd";
    edge.refuse(ErrorCode::ServerDraining, "until\nlater", 500)
        .await;
    let mut edge = net.edge().await;
    edge.connection_id = "9-second";
    edge.limits.edge_id = "edge\n7".into();
    edge.subscribe().await;
    edge.ticks([5_000]).await;
    let tick = StreamExt::next(&mut ticks).await.unwrap();
    assert_eq!(tick.epoch, epoch(5_000));
    assert!(ticks.end().is_none() && ticks.subscription().edge_id() == "edge\n7");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = log.lines().collect();
    let expected = [
        ("INFO", "subscribed address=\"a\""),
        ("WARN", "ticks are missing"),
        ("WARN", "reconnecting"),
        ("INFO", "subscribed again"),
    ];
    assert_eq!(lines.len(), expected.len(), "{log}");
    for (line, (level, text)) in lines.into_iter().zip(expected) {
        assert!(line.contains(level) && line.contains(text), "{line}");
    }
    assert!(
        log.contains("SERVER_DRAINING") && log.contains("9-second"),
        "{log}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_reconnecting_the_stream_ends_with_the_reason() {
    let (client, mut edge) = dial(Options::new("unused"));
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    let mut ticks = client.await.unwrap().unwrap().into_tick_stream();
    edge.ticks([1_000]).await;
    assert_eq!(ticks.next().await.unwrap().epoch, epoch(1_000));
    assert!(ticks.end().is_none());
    edge.refuse(ErrorCode::ServerDraining, "a test", 0).await;
    assert!(ticks.next().await.is_none());
    let end = ticks.end().unwrap().to_string();
    assert!(end.contains("SERVER_DRAINING"), "{end}");
}
