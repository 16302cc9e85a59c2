use std::time::Duration;

use tickstorm_bus::TraceParent;
use tickstorm_timebase::{Announcement, Tick};
use tokio::sync::watch;

use super::super::{TraceReporter, channel};
use super::*;
use crate::feed::FeedId;

/// A tick, and a moment before it.
const EPOCH: Epoch = Epoch::from_ms(1_700_000_001_000);

/// A span, as far as these tests look at it.
#[derive(Debug)]
struct Seen {
    name: String,
    trace_id: [u8; 16],
    id: [u8; 8],
    parent_id: [u8; 8],
    links: Vec<[u8; 8]>,
}

fn parent(number: u8, is_sampled: bool) -> TraceParent {
    TraceParent::new([number; 16], [number; 8], is_sampled).unwrap()
}

fn hear(reporter: &TraceReporter, clock: &str, trace: Option<TraceParent>, is_followed: bool) {
    let announcement = Announcement {
        mode: Mode::Second,
        epoch: EPOCH,
        clock_id: clock.parse().unwrap(),
        rank: 0,
        sent_unix_us: 0,
        timeline: 1,
    };
    reporter.announced(&announcement, trace, is_followed, SystemClock.now());
}

fn send(reporter: &TraceReporter, shard: usize) {
    let due = SystemClock.now();
    reporter.report(Report::Sent(SentTick {
        feed: FeedId::at_time(Mode::Second),
        shard,
        first: Tick {
            epoch: EPOCH,
            quality: Quality::Normal,
        },
        due,
        released: due + Duration::from_millis(1),
        ended: due + Duration::from_millis(5),
        frames: 7,
    }));
}

/// Returns the spans of what `report` reports.
async fn spans(report: impl FnOnce(&TraceReporter)) -> Vec<Seen> {
    let (tracer, mut spans) = Tracer::unsent(100);
    let (_authority, watched) = watch::channel(None);
    let (reporter, collector) = channel(tracer, watched);
    report(&reporter);
    // The collector ends with its last reporter.
    drop(reporter);
    collector.run().await;
    let mut seen = Vec::new();
    while let Ok(span) = spans.try_recv() {
        assert!(span.start_time <= span.end_time, "{span:?}");
        let links = span.links.links.iter();
        seen.push(Seen {
            name: span.name.to_string(),
            trace_id: span.span_context.trace_id().to_bytes(),
            id: span.span_context.span_id().to_bytes(),
            parent_id: span.parent_span_id.to_bytes(),
            links: links
                .map(|link| link.span_context.span_id().to_bytes())
                .collect(),
        });
    }
    seen
}

fn named<'a>(spans: &'a [Seen], name: &str) -> Vec<&'a Seen> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test]
async fn a_tick_is_a_part_of_the_trace_of_the_clock_that_the_edge_follows() {
    let spans = spans(|reporter| {
        hear(reporter, "clock-1", Some(parent(1, true)), false);
        hear(reporter, "clock-0", Some(parent(7, true)), true);
        send(reporter, 0);
        send(reporter, 1);
    })
    .await;
    let received = named(&spans, RECEIVE);
    let [other, followed] = &received[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!((other.parent_id, followed.parent_id), ([1; 8], [7; 8]));
    let (releases, fan_outs) = (named(&spans, RELEASE), named(&spans, FAN_OUT));
    assert_eq!((releases.len(), fan_outs.len()), (2, 2));
    for (release, fan_out) in releases.iter().zip(fan_outs) {
        assert_eq!((release.trace_id, fan_out.trace_id), ([7; 16], [7; 16]));
        assert_eq!(release.parent_id, followed.id);
        assert_eq!(fan_out.parent_id, release.id);
        assert_eq!(release.links, [other.id]);
    }
}

#[tokio::test]
async fn a_tick_that_the_clock_does_not_trace_is_not_traced() {
    let spans = spans(|reporter| {
        hear(reporter, "clock-0", Some(parent(7, false)), true);
        send(reporter, 0);
    })
    .await;
    assert!(spans.is_empty(), "{spans:#?}");
}

#[tokio::test]
async fn without_a_trace_of_the_clock_the_edge_starts_one() {
    let spans = spans(|reporter| {
        hear(reporter, "clock-1", None, false);
        hear(reporter, "clock-0", None, true);
        send(reporter, 0);
    })
    .await;
    let received = named(&spans, RECEIVE);
    let [root] = &received[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(root.parent_id, [0; 8]);
    assert_eq!(named(&spans, RELEASE)[0].parent_id, root.id);
}

#[tokio::test]
async fn in_holdover_all_shards_share_one_trace() {
    let spans = spans(|reporter| {
        for shard in 0..3 {
            send(reporter, shard);
        }
    })
    .await;
    let releases = named(&spans, RELEASE);
    let [root, others @ ..] = &releases[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!((root.parent_id, others.len()), ([0; 8], 2));
    assert!(others.iter().all(|other| other.parent_id == root.id));
    assert!(spans.iter().all(|span| span.trace_id == root.trace_id));
}

#[tokio::test]
async fn a_repeated_announcement_changes_nothing() {
    let spans = spans(|reporter| {
        hear(reporter, "clock-0", Some(parent(7, true)), true);
        hear(reporter, "clock-0", Some(parent(8, true)), true);
        send(reporter, 0);
    })
    .await;
    assert_eq!(named(&spans, RECEIVE).len(), 1);
    assert!(
        spans.iter().all(|span| span.trace_id == [7; 16]),
        "{spans:#?}"
    );
}
