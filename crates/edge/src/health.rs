//! An edge's health: liveness and readiness for load balancers and orchestrators, and /status for
//! people.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tickstorm_bus::{Bus, LinkReport};
use tickstorm_service::admin::Health;
use tickstorm_service::nats_link;
use tickstorm_timebase::{
    Alarm, Authority, Clock, ClockStatus, HostClock as _, Mono, SystemClock, SystemHost, TimeStatus,
};
use tokio::sync::watch;

use crate::accept_queue::AcceptQueueStatus;
use crate::admission::Admission;
use crate::auth::Logins;
use crate::memory::Memory;
use crate::no_time::NO_TIME;
use crate::shard::Vitals;
use crate::timekeeper::ppm;
use crate::tls::TlsState;

/// A shard that last turned longer ago than this is considered dead.
const LIVE_WITHIN: Duration = Duration::from_secs(10);
/// An edge whose last SECOND tick was released longer ago than this is not ready.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

/// The time since the beginning of a fan-out in which it must not share the CPU with requests. A
/// longer one, to some thousands of clients, has to.
const PRESSED_FOR: Duration = Duration::from_millis(20);

/// The state from which the admin port's requests are answered.
pub(crate) struct EdgeHealth {
    pub(crate) id: String,
    pub(crate) listen_addr: SocketAddr,
    pub(crate) connections_max: usize,
    pub(crate) time_error_max: Duration,
    pub(crate) admission: Arc<Admission>,
    pub(crate) logins: Arc<Logins>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) authority: watch::Receiver<Option<Authority>>,
    pub(crate) time: watch::Receiver<Option<TimeStatus>>,
    pub(crate) accept_queue: watch::Receiver<AcceptQueueStatus>,
    /// The files of TLS; `None` if clients connect without TLS.
    pub(crate) tls: Option<watch::Receiver<TlsState>>,
    pub(crate) shards: Vec<Arc<Vitals>>,
    pub(crate) draining: AtomicBool,
    /// Whether the edge sends clients away because it does not know the time.
    pub(crate) no_time: Arc<AtomicBool>,
    pub(crate) bus: Arc<dyn Bus>,
}

impl EdgeHealth {
    /// Returns the current authority, if the time is known at `now`.
    fn authority(&self, now: Mono) -> Option<Authority> {
        self.authority
            .borrow()
            .filter(|authority| authority.is_valid(now))
            .filter(|authority| authority.outlasts(SystemClock.suspended()))
    }

    fn time_reason(&self, now: Mono) -> Option<String> {
        let Some(authority) = self.authority(now) else {
            return Some("the time is unknown: no clock is accepted".to_owned());
        };
        let bound = Duration::from_micros(authority.bound_us(now).into());
        (bound > self.time_error_max).then(|| {
            format!(
                "the error bound of the time is {bound:?}, more than TIME_ERROR_MAX_MS ({:?})",
                self.time_error_max
            )
        })
    }

    fn alarms(&self, time: Option<&TimeStatus>, link: &LinkReport) -> Vec<Value> {
        let no_time = self.no_time.load(Ordering::Relaxed);
        let no_time =
            no_time.then(|| alarm_of_edge(NO_TIME.label, NO_TIME.message, NO_TIME.action));
        let of_clocks = time.map_or_else(Vec::new, alarms);
        let of_link = nats_link::alarms(link)
            .map(|alarm| alarm_of_edge(alarm.label(), alarm.message(), alarm.action()));
        of_clocks
            .into_iter()
            .chain(no_time)
            .chain(of_link)
            .chain(self.logins.alarm())
            .collect()
    }

    fn accept_queue_status(&self, now: Mono) -> Value {
        let status = *self.accept_queue.borrow();
        json!({
            "length": status.len,
            "overflows": status.overflows,
            "overflowed_in_last_minute": status.is_overflowing(now),
        })
    }

    fn tls_status(&self) -> Value {
        match &self.tls {
            Some(state) => state.borrow().status(SystemHost::new(0).read().unix),
            None => json!({ "enabled": false }),
        }
    }
}

impl Health for EdgeHealth {
    fn live(&self) -> Vec<String> {
        let now = SystemClock.now();
        let turned = self
            .shards
            .iter()
            .map(|shard| shard.turned.load(Ordering::Relaxed));
        let dead = turned
            .enumerate()
            .filter(|(_, at)| now.since(Mono::from_nanos(*at)) > LIVE_WITHIN);
        dead.map(|(shard, _)| format!("shard {shard} is stuck: its loop has not run for 10 s"))
            .collect()
    }

    fn ready(&self) -> Vec<String> {
        let now = SystemClock.now();
        let mut reasons = Vec::from_iter(self.time_reason(now));
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("draining".to_owned());
        }
        let accepts = |shard: &Arc<Vitals>| shard.accepting.load(Ordering::Relaxed);
        if !self.shards.iter().all(accepts) {
            reasons.push(
                "connections are not accepted: the system is out of file descriptors or memory"
                    .to_owned(),
            );
        }
        let released = self
            .shards
            .iter()
            .map(|shard| shard.released.load(Ordering::Relaxed))
            .min();
        let released = released.map_or(Mono::ZERO, Mono::from_nanos);
        if now.since(released) > RELEASED_WITHIN {
            reasons.push("the last SECOND tick was released more than 2 s ago".to_owned());
        }
        reasons
    }

    fn is_pressed(&self) -> bool {
        let now = SystemClock.now();
        let mut since = self
            .shards
            .iter()
            .map(|shard| shard.sending_since.load(Ordering::Relaxed));
        since.any(|since| since != 0 && now.since(Mono::from_nanos(since)) < PRESSED_FOR)
    }

    fn status(&self) -> Value {
        let now = SystemClock.now();
        let authority = self.authority(now);
        let time = self.time.borrow();
        let following = time.as_ref().and_then(|time| time.following.as_ref());
        let clocks = time.as_ref().map_or(&[][..], |time| &time.clocks);
        let rate_ppb = time.as_ref().and_then(|time| time.rate_ppb);
        let link = self.bus.link_report();
        json!({
            "id": self.id,
            "listen_addr": self.listen_addr.to_string(),
            "draining": self.draining.load(Ordering::Relaxed),
            "holdover": time.as_ref().is_some_and(|time| time.holdover),
            "max_connections": self.connections_max,
            "connections": self.admission.connections(),
            "shards": self.shards.len(),
            "accept_queue": self.accept_queue_status(now),
            "clocks": clocks.iter().map(clock).collect::<Vec<_>>(),
            "alarms": self.alarms(time.as_ref(), &link),
            "nats_link": nats_link::status(&link),
            "logins": self.logins.status(now),
            "authority": authority.map(|authority| json!({
                "unix_us": authority.time_at(now).as_micros(),
                "bound_us": authority.bound_us(now),
                "following": following.map(ToString::to_string),
                "rate_ppm": rate_ppb.map(ppm),
            })),
            "tls": self.tls_status(),
            "memory": self.memory.status(now),
        })
    }
}

/// Returns the alarms of the clocks, each with a sentence that says what it means, what to do, and
/// the clocks that it concerns.
fn alarms(time: &TimeStatus) -> Vec<Value> {
    let alarm = |alarm: &Alarm| {
        let clocks = time.clocks.iter().filter(|clock| clock.is_raised(*alarm));
        let clocks: Vec<_> = clocks.map(|clock| clock.id.to_string()).collect();
        json!({
            "reason": alarm.label(),
            "message": alarm.message(),
            "action": alarm.action(),
            "clocks": clocks,
        })
    };
    time.alarms.iter().map(alarm).collect()
}

/// Returns an alarm in the same form that concerns no clock.
fn alarm_of_edge(label: &str, message: &str, action: &str) -> Value {
    let clocks: [&str; 0] = [];
    json!({ "reason": label, "message": message, "action": action, "clocks": clocks })
}

fn clock(status: &ClockStatus) -> Value {
    json!({
        "id": status.id.to_string(),
        "rank": status.rank,
        "state": status.state.label(),
        "offset_us": status.offset_us,
        "bound_us": status.bound_us,
    })
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tickstorm_service::nats_link::LinkAlarm;

    use super::*;
    use crate::admission::{AdmissionGauges, AdmissionLimits};
    use crate::auth::logins;
    use crate::ip_lists::IpLists;
    use crate::memory::{
        BUFFERS_FULL_ACTION, BUFFERS_FULL_MESSAGE, KERNEL_MEMORY_ACTION, KERNEL_MEMORY_MESSAGE,
        KernelBound, MemoryMetrics,
    };

    #[test]
    fn each_alarm_in_status_has_sentences() {
        let of_edge = [
            NO_TIME.message,
            NO_TIME.action,
            logins::MESSAGE,
            logins::ACTION,
            BUFFERS_FULL_MESSAGE,
            BUFFERS_FULL_ACTION,
            KERNEL_MEMORY_MESSAGE,
            KERNEL_MEMORY_ACTION,
        ];
        let of_clocks = Alarm::ALL
            .iter()
            .flat_map(|alarm| [alarm.message(), alarm.action()]);
        let of_link = LinkAlarm::ALL;
        let of_link = of_link
            .iter()
            .flat_map(|alarm| [alarm.message(), alarm.action()]);
        let messages = of_clocks.chain(of_link).chain(of_edge);
        for message in messages {
            assert!(message.ends_with('.'), "{message}");
            assert!(message.starts_with(char::is_uppercase), "{message}");
        }
    }

    impl EdgeHealth {
        /// Creates the health of an edge that has no clients and does not know the time.
        pub(crate) fn unserved() -> Self {
            let now = SystemClock.now();
            let vitals = || {
                let vitals = Vitals::new(now);
                vitals.released.store(now.as_nanos(), Ordering::Relaxed);
                Arc::new(vitals)
            };
            Self {
                id: "edge-0".to_owned(),
                listen_addr: SocketAddr::from(([127, 0, 0, 1], 8_080)),
                connections_max: 1,
                time_error_max: Duration::from_millis(250),
                admission: Admission::new(
                    AdmissionLimits::NONE,
                    watch::channel(IpLists::default()).1,
                    AdmissionGauges::unregistered(),
                ),
                logins: Arc::default(),
                memory: Memory::new(
                    &MemoryMetrics::register(&Registry::new()).unwrap(),
                    1,
                    KernelBound::none(),
                ),
                authority: watch::channel(None).1,
                time: watch::channel(None).1,
                accept_queue: watch::channel(AcceptQueueStatus::default()).1,
                tls: None,
                shards: vec![vitals(), vitals()],
                draining: AtomicBool::new(false),
                no_time: Arc::default(),
                bus: Arc::new(tickstorm_bus::MemoryBus::new().link("edge-0")),
            }
        }
    }

    #[test]
    fn one_shard_that_does_not_accept_makes_the_edge_not_ready() {
        let health = EdgeHealth::unserved();
        let is_reported = || {
            let reasons = health.ready();
            reasons
                .iter()
                .any(|reason| reason.contains("connections are not accepted"))
        };
        assert!(!is_reported());
        health.shards[1].accepting.store(false, Ordering::Relaxed);
        assert!(is_reported());
        assert!(health.live().is_empty());
        health.shards[1].accepting.store(true, Ordering::Relaxed);
        assert!(!is_reported());
    }

    #[test]
    fn an_edge_is_pressed_for_20_ms_after_any_shard_began_to_send() {
        let health = EdgeHealth::unserved();
        assert!(!health.is_pressed());
        let now = SystemClock.now();
        let sends_since = |since: Mono| {
            let shard = &health.shards[1].sending_since;
            shard.store(since.as_nanos(), Ordering::Relaxed);
            health.is_pressed()
        };
        // As if the fan-out began in a minute, so that the test may take its time.
        assert!(sends_since(now + Duration::from_secs(60)));
        let long_ago = now.as_nanos().saturating_sub(20_000_000);
        assert!(!sends_since(Mono::from_nanos(long_ago.max(1))));
        assert!(!sends_since(Mono::ZERO));
    }
}
