//! [`TraceCollector`]: makes spans of the reports of shards and the timekeeper.
//!
//! A tick's spans form a chain: the clock's announcement, its arrival, and for each feed of each
//! shard the release, from the moment at which the tick was due, with the fan-out inside it. The
//! links of a release lead to the announcements of other clocks.

use tickstorm_service::traces::{self, FinishedSpan, KeyValue, SpanContext, SpanKind, Tracer};
use tickstorm_timebase::{
    Authority, Clock as _, Epoch, HostClock as _, Mode, Mono, Quality, SystemClock, SystemHost,
    UnixTime,
};
use tokio::sync::{mpsc, watch};

use super::heard_ticks::{HeardTick, HeardTicks, Place};
use super::{HANDSHAKE, Handshake, HandshakeOutcome, HeardAnnouncement, Report, SentTick};

/// The names of the spans of ticks.
const RECEIVE: &str = "tick receive";
const RELEASE: &str = "tick release";
const FAN_OUT: &str = "tick fan-out";

/// Makes spans of reports.
pub(crate) struct TraceCollector {
    tracer: Tracer,
    reports: mpsc::Receiver<Report>,
    authority: watch::Receiver<Option<Authority>>,
    ticks: HeardTicks,
}

impl TraceCollector {
    pub(super) fn new(
        tracer: Tracer,
        reports: mpsc::Receiver<Report>,
        authority: watch::Receiver<Option<Authority>>,
    ) -> Self {
        Self {
            tracer,
            reports,
            authority,
            ticks: HeardTicks::default(),
        }
    }

    /// Runs until the returned future is dropped.
    pub(crate) async fn run(mut self) {
        while let Some(report) = self.reports.recv().await {
            match report {
                Report::Announced(heard) => self.announced(&heard),
                Report::Sent(sent) => self.sent(&sent),
                Report::Handshake(handshake) => self.handshake(*handshake),
            }
        }
    }

    /// Makes the span of an announcement's arrival. A followed clock that does not trace leaves it
    /// to the edge to start a trace.
    fn announced(&mut self, heard: &HeardAnnouncement) {
        let HeardAnnouncement {
            announcement,
            trace,
            is_followed,
            at,
        } = heard;
        let (mode, epoch) = (announcement.mode, announcement.epoch);
        let parent = trace.as_ref().map(traces::span_context);
        let tick = self.ticks.tick(mode, epoch);
        let is_decided = tick.place != Place::Open;
        if !is_followed && parent.is_none() || *is_followed && is_decided {
            // A clock that was disconnected announces again.
            return;
        }
        let context = self
            .tracer
            .sample(parent.as_ref(), RECEIVE, &SpanKind::Consumer);
        if *is_followed {
            tick.place = context.clone().into();
        } else if let Some(context) = &context {
            tick.add_other(context.clone());
        }
        let Some(context) = context else { return };
        let _entered = traces::enter(&context);
        tracing::debug!(
            mode = mode.name(),
            epoch_ms = epoch.as_ms(),
            clock_id = %announcement.clock_id,
            "announcement heard"
        );
        let mut attributes = of_tick(mode, epoch);
        attributes.extend([
            KeyValue::new("tickstorm.clock_id", announcement.clock_id.to_string()),
            KeyValue::new("tickstorm.followed", *is_followed),
        ]);
        let at = self.unix_time(*at);
        self.tracer.record(FinishedSpan {
            context,
            parent,
            links: Vec::new(),
            name: RECEIVE,
            kind: SpanKind::Consumer,
            start: at,
            end: at,
            attributes,
            error: None,
        });
    }

    /// Makes the spans of a tick's release and of its fan-out.
    fn sent(&mut self, sent: &SentTick) {
        let SentTick {
            feed,
            shard,
            first,
            due,
            released,
            ended,
            frames,
        } = *sent;
        let tick = self.ticks.tick(feed.mode, first.epoch);
        let Some((context, parent)) = begin_release(&self.tracer, tick) else {
            return;
        };
        let links = tick.others.clone();
        let _entered = traces::enter(&context);
        let late = released.since(due);
        tracing::debug!(
            mode = feed.mode.name(),
            delivery = feed.delivery.label(),
            epoch_ms = first.epoch.as_ms(),
            shard,
            ?late,
            lasted = ?ended.since(released),
            frames,
            "tick sent"
        );
        let late_us = i64::try_from(late.as_micros()).unwrap_or(i64::MAX);
        let frames = i64::try_from(frames).unwrap_or(i64::MAX);
        let shard = i64::try_from(shard).unwrap_or(i64::MAX);
        let mut attributes = of_tick(feed.mode, first.epoch);
        attributes.extend([
            KeyValue::new("tickstorm.delivery", feed.delivery.label()),
            KeyValue::new("tickstorm.shard", shard),
        ]);
        let of_fan_out = [KeyValue::new("tickstorm.frames", frames)];
        let of_fan_out = attributes.iter().cloned().chain(of_fan_out).collect();
        attributes.extend([
            KeyValue::new("tickstorm.quality", quality(first.quality)),
            KeyValue::new("tickstorm.late_us", late_us),
        ]);
        let [due, released, ended] = [due, released, ended].map(|mono| self.unix_time(mono));
        let fan_out = self
            .tracer
            .sample(Some(&context), FAN_OUT, &SpanKind::Internal);
        if let Some(fan_out) = fan_out {
            self.tracer.record(FinishedSpan {
                context: fan_out,
                parent: Some(context.clone()),
                links: Vec::new(),
                name: FAN_OUT,
                kind: SpanKind::Internal,
                start: released,
                end: ended,
                attributes: of_fan_out,
                error: None,
            });
        }
        self.tracer.record(FinishedSpan {
            context,
            parent,
            links,
            name: RELEASE,
            kind: SpanKind::Internal,
            start: due,
            end: ended,
            attributes,
            error: None,
        });
    }

    fn handshake(&self, handshake: Handshake) {
        let Handshake {
            context,
            connection,
            peer,
            has_tls,
            accepted,
            ended,
            outcome,
        } = handshake;
        let mut attributes = vec![
            KeyValue::new("tickstorm.connection_id", connection.to_string()),
            KeyValue::new("client.address", peer.ip().to_string()),
            KeyValue::new("client.port", i64::from(peer.port())),
            KeyValue::new("tickstorm.tls", has_tls),
        ];
        let error = match outcome {
            HandshakeOutcome::Served {
                identity,
                client_id,
                client_version,
                has_cookie,
            } => {
                attributes.extend([
                    KeyValue::new("tickstorm.identity", String::from(identity)),
                    KeyValue::new("tickstorm.client_id", String::from(client_id)),
                    KeyValue::new("tickstorm.client_version", String::from(client_version)),
                    KeyValue::new("tickstorm.cookie", has_cookie),
                ]);
                None
            }
            HandshakeOutcome::Closed(reason) => {
                attributes.push(KeyValue::new("tickstorm.reason", reason));
                Some(reason)
            }
        };
        self.tracer.record(FinishedSpan {
            context,
            parent: None,
            links: Vec::new(),
            name: HANDSHAKE,
            kind: SpanKind::Server,
            start: self.unix_time(accepted),
            end: self.unix_time(ended),
            attributes,
            error,
        });
    }

    /// Returns authority time at `mono`, or the host's while the edge does not know the time.
    fn unix_time(&self, mono: Mono) -> UnixTime {
        if let Some(authority) = *self.authority.borrow() {
            return authority.time_at(mono);
        }
        let (now, host) = (SystemClock.now(), SystemHost::new(0).read().unix);
        if mono < now {
            host.saturating_sub(now.since(mono))
        } else {
            host.saturating_add(mono.since(now))
        }
    }
}

/// Returns the place of a release's span, and of the one that it is a part of; `None` if the tick
/// is not traced. If no clock has announced the tick, as in holdover, the first release starts a
/// trace, of which those of the other shards and feeds are a part.
fn begin_release(
    tracer: &Tracer,
    tick: &mut HeardTick,
) -> Option<(SpanContext, Option<SpanContext>)> {
    let parent = match &tick.place {
        Place::Open => None,
        Place::NotSampled => return None,
        Place::PartOf(context) => Some(context.clone()),
    };
    let context = tracer.sample(parent.as_ref(), RELEASE, &SpanKind::Internal);
    if tick.place == Place::Open {
        tick.place = context.clone().into();
    }
    Some((context?, parent))
}

fn of_tick(mode: Mode, epoch: Epoch) -> Vec<KeyValue> {
    vec![
        KeyValue::new("tickstorm.mode", mode.name()),
        KeyValue::new("tickstorm.epoch_ms", epoch.as_ms()),
    ]
}

const fn quality(quality: Quality) -> &'static str {
    match quality {
        Quality::Normal => "normal",
        Quality::Holdover => "holdover",
        Quality::Replay => "replay",
    }
}

#[cfg(test)]
mod tests;
