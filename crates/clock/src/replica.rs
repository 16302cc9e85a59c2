//! [`Replica`]: the task that drives an [`Announcer`]. It polls the announcer when an announcement
//! is due, passes it edges' requests, and reads the host's clock before either. It makes no
//! decisions about time and listens to no other clock.

use std::sync::Arc;

use prometheus::Registry;
use tickstorm_bus::{Bus, ClockEvent, DropReason, Events, ReplyTo, Unavailable};
use tickstorm_service::admin::Health;
use tickstorm_service::metrics::RegisterError;
use tickstorm_service::traces;
use tickstorm_timebase::{Announcement, Announcer};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::alarms::{AlarmLog, ClockAlarm};
use crate::config::Config;
use crate::discipline::Discipline;
use crate::health::{ClockHealth, ReplicaState};
use crate::machine::{Machine, ThisMachine};
use crate::metrics::Metrics;

/// The reason why a clock could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The registry already serves another clock.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
}

/// A running clock. Dropping it stops the clock.
pub struct Replica {
    health: Arc<ClockHealth>,
    task: TaskTracker,
    stop: DropGuard,
}

impl Replica {
    /// Starts a clock on this host's time. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the registry already serves another clock.
    pub fn start(
        config: Config,
        bus: Arc<dyn Bus>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let machine = Arc::new(ThisMachine::new(config.skew_ms));
        Self::start_on(machine, config, bus, registry)
    }

    /// Starts a clock on `machine`'s time, to which no skew is added. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// Returns an error if the registry already serves another clock.
    pub fn start_on(
        machine: Arc<dyn Machine>,
        config: Config,
        bus: Arc<dyn Bus>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::register(registry)?;
        let Config {
            id,
            rank,
            lead,
            require_sync,
            skew_ms,
        } = config;
        let (host, now) = (machine.read(), machine.now());
        let announcer = Announcer::new(id.clone(), rank, lead, rand::random(), host, now);
        let state = ReplicaState {
            last_turn: now,
            connected: false,
            timeline: announcer.timeline(),
            discipline: machine.discipline(),
            last_announced: None,
            twin_heard: None,
        };
        let timeline = state.timeline;
        tracing::info!(
            clock_id = %id, rank, ?lead, require_sync, skew_ms, timeline,
            "starting the clock"
        );
        let events = bus.clock_events(&id);
        let health = Arc::new(ClockHealth::new(
            id,
            require_sync,
            Arc::clone(&machine),
            Arc::clone(&bus),
            state,
        ));
        let driver = AnnouncerDriver {
            machine,
            bus,
            announcer,
            metrics,
            health: Arc::clone(&health),
            alarm_log: AlarmLog::default(),
        };
        let (stop, task) = (CancellationToken::new(), TaskTracker::new());
        task.spawn(driver.run(events, stop.clone()));
        task.close();
        Ok(Self {
            health,
            task,
            stop: stop.drop_guard(),
        })
    }

    /// Returns the clock's health, for the admin port.
    #[must_use]
    pub fn health(&self) -> Arc<dyn Health> {
        Arc::clone(&self.health) as Arc<dyn Health>
    }

    /// Stops the clock and waits until it has stopped. Edges need no notice, since the other clocks
    /// continue.
    pub async fn stop(self) {
        drop(self.stop);
        self.task.wait().await;
    }
}

struct AnnouncerDriver {
    machine: Arc<dyn Machine>,
    bus: Arc<dyn Bus>,
    announcer: Announcer,
    metrics: Metrics,
    health: Arc<ClockHealth>,
    alarm_log: AlarmLog,
}

impl AnnouncerDriver {
    async fn run(mut self, mut events: Events<ClockEvent>, stop: CancellationToken) {
        let mut due = Vec::new();
        loop {
            self.announce_due(&mut due);
            self.report_alarms();
            let wait = self.announcer.next_deadline().since(self.machine.now());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = events.next() => match event {
                    Some(event) => self.handle(&event),
                    None => return tracing::error!("the bus has ended; stopping this clock"),
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn handle(&mut self, event: &ClockEvent) {
        match event {
            ClockEvent::Request { nonce, reply_to } => self.answer(*nonce, reply_to),
            ClockEvent::Connected => {
                // A bus over a network logs this itself, unless a server flaps.
                tracing::debug!("connected to the bus");
                self.health.state().connected = true;
                self.announcer.announce_again();
            }
            ClockEvent::Disconnected => {
                tracing::debug!("not connected to the bus; no edge can hear this clock");
                self.health.state().connected = false;
            }
            ClockEvent::Dropped { reason, count } => {
                tracing::debug!(reason = reason.label(), count, "messages dropped");
                self.metrics.dropped(*reason).inc_by(*count);
                if *reason == DropReason::SharedId {
                    self.health.state().twin_heard = Some(self.machine.now());
                }
            }
        }
    }

    fn announce_due(&mut self, due: &mut Vec<Announcement>) {
        self.update_discipline();
        let (host, now) = (self.machine.read(), self.machine.now());
        let timeline = self.announcer.timeline();
        self.announcer.handle_host(host, now);
        self.report_step(timeline);
        self.announcer.poll(due);
        let silenced = self.health.is_silenced();
        let connected = self.health.state().connected;
        if !due.is_empty() {
            let known = self.bus.known_reply_subjects();
            let known = i64::try_from(known).unwrap_or(i64::MAX);
            self.metrics.known_reply_subjects.set(known);
            for time in self.bus.take_echo_times() {
                self.metrics.round_trips.observe(time.as_secs_f64());
            }
        }
        let mut last_announced = None;
        for announcement in due.drain(..) {
            // An announcement that is not sent now is repeated once there is a connection and the
            // clock may send.
            if connected && !silenced && self.announce(&announcement).is_ok() {
                self.metrics.announcements(announcement.mode).inc();
                last_announced = Some(announcement.epoch);
            }
        }
        let mut state = self.health.state();
        state.last_turn = now;
        state.last_announced = last_announced.or(state.last_announced);
    }

    /// Announces a tick. If traces are sent, this is where the tick's trace begins.
    fn announce(&self, announcement: &Announcement) -> Result<(), Unavailable> {
        let (mode, epoch_ms) = (announcement.mode.name(), announcement.epoch.as_ms());
        let span = tracing::info_span!(
            target: traces::TARGET,
            "tick announce",
            otel.kind = "producer",
            tickstorm.mode = mode,
            tickstorm.epoch_ms = epoch_ms,
            tickstorm.clock_id = %announcement.clock_id,
        );
        let _entered = span.enter();
        let trace = (!span.is_disabled()).then(traces::current).flatten();
        let announced = self.bus.announce_traced(announcement, trace.as_ref());
        if announced.is_ok() {
            tracing::debug!(mode, epoch_ms, "announced");
        }
        announced
    }

    fn answer(&mut self, nonce: u64, reply_to: &ReplyTo) {
        let received = self.machine.read();
        let discipline = self.update_discipline();
        if self.health.is_silenced() {
            return;
        }
        let timeline = self.announcer.timeline();
        let (sent, now) = (self.machine.read(), self.machine.now());
        let reply = self.announcer.answer(
            nonce,
            received,
            sent,
            now,
            discipline.clock_error_us,
            discipline.synchronized,
        );
        // Without a connection the edge receives no answer, and treats it as lost.
        if self.bus.answer(reply_to, &reply).is_ok() {
            self.metrics.answers.inc();
        }
        self.report_step(timeline);
    }

    /// Queries the kernel's report on the host's clock. With REQUIRE_SYNC, a change in it silences
    /// the clock or makes it send again.
    fn update_discipline(&mut self) -> Discipline {
        let before = self.health.is_silenced();
        let discipline = self.machine.discipline();
        self.health.state().discipline = discipline;
        self.metrics.set_discipline(discipline);
        match (before, self.health.is_silenced()) {
            (false, true) => {
                tracing::warn!(
                    "the host's clock is no longer disciplined; this clock is now silent"
                );
            }
            (true, false) => {
                tracing::info!("the host's clock is disciplined; this clock is no longer silent");
                self.announcer.announce_again();
            }
            (true, true) | (false, false) => {}
        }
        discipline
    }

    /// Reports the alarms in the metrics, and in the log if it is time to.
    fn report_alarms(&mut self) {
        let now = self.machine.now();
        let raised = self.health.alarms(now);
        for alarm in ClockAlarm::ALL {
            let is_raised = raised.contains(&alarm);
            self.metrics.alarm(alarm).set(i64::from(is_raised));
        }
        for alarm in self.alarm_log.note(&raised, now) {
            alarm.log();
        }
    }

    /// Logs and counts a step of the host's clock if the timeline is no longer `before`.
    fn report_step(&self, before: u64) {
        let timeline = self.announcer.timeline();
        if timeline != before {
            tracing::warn!(
                timeline,
                "the host's clock was stepped; starting a new timeline"
            );
            self.metrics.steps.inc();
            self.health.state().timeline = timeline;
        }
    }
}
