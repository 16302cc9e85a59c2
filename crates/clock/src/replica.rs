//! [`Replica`]: the task that drives an [`Announcer`]: it wakes it when an announcement is due, hands it what edges ask, and looks at
//! the host's clock before either. It decides nothing about time by itself and hears no other clock.

use std::sync::Arc;

use prometheus::Registry;
use tickstorm_bus::{Bus, ClockEvent, Events, ReplyTo};
use tickstorm_service::admin::Health;
use tickstorm_service::metrics::RegisterError;
use tickstorm_timebase::{Announcement, Announcer};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::discipline::Discipline;
use crate::health::{ClockHealth, ReplicaState};
use crate::machine::{Machine, ThisMachine};
use crate::metrics::Metrics;

/// Why a clock could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The registry serves another clock already.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
}

/// A running clock. Dropping it ends it, too.
pub struct Replica {
    health: Arc<ClockHealth>,
    task: TaskTracker,
    stop: DropGuard,
}

impl Replica {
    /// Starts a clock that tells this host's time; inside a tokio runtime.
    ///
    /// # Errors
    /// Where the registry serves another clock already.
    pub fn start(
        config: Config,
        bus: Arc<dyn Bus>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let machine = Arc::new(ThisMachine::new(config.skew_ms));
        Self::start_on(machine, config, bus, registry)
    }

    /// Starts a clock that tells `machine`'s time, to which no skew is added.
    ///
    /// # Errors
    /// Where the registry serves another clock already.
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
            turned: now,
            connected: false,
            timeline: announcer.timeline(),
            discipline: machine.discipline(),
            last_announced: None,
        };
        tracing::info!(clock_id = %id, rank, ?lead, require_sync, skew_ms, timeline = state.timeline, "clock");
        if require_sync && !state.discipline.synchronized {
            tracing::warn!("the host's clock is not disciplined: this clock is silent until it is");
        }
        let health = Arc::new(ClockHealth::new(
            id,
            require_sync,
            Arc::clone(&machine),
            state,
        ));
        let events = bus.clock_events();
        let driver = AnnouncerDriver {
            machine,
            bus,
            announcer,
            metrics,
            health: Arc::clone(&health),
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

    /// How the clock is, for the admin port.
    #[must_use]
    pub fn health(&self) -> Arc<dyn Health> {
        Arc::clone(&self.health) as Arc<dyn Health>
    }

    /// Ends the clock and waits until it has ended. Nobody needs to be told: the other clocks go on.
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
}

impl AnnouncerDriver {
    async fn run(mut self, mut events: Events<ClockEvent>, stop: CancellationToken) {
        let mut due = Vec::new();
        loop {
            self.announce_due(&mut due);
            let wait = self.announcer.next_deadline().since(self.machine.now());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = events.next() => match event {
                    Some(event) => self.handle(event),
                    None => return tracing::error!("the bus is gone: this clock ends"),
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn handle(&mut self, event: ClockEvent) {
        match event {
            ClockEvent::Request { nonce, reply_to } => self.answer(nonce, &reply_to),
            ClockEvent::Connected => {
                tracing::info!("connected to the bus");
                self.health.state().connected = true;
                self.announcer.reannounce();
            }
            ClockEvent::Disconnected => {
                tracing::warn!("not connected to the bus: nobody hears this clock");
                self.health.state().connected = false;
            }
            ClockEvent::Dropped { reason, count } => {
                tracing::debug!(reason = reason.label(), count, "messages dropped");
                self.metrics.dropped(reason).inc_by(count);
            }
        }
    }

    fn announce_due(&mut self, due: &mut Vec<Announcement>) {
        self.note_discipline();
        let (host, now) = (self.machine.read(), self.machine.now());
        let timeline = self.announcer.timeline();
        self.announcer.handle_host(host, now);
        self.note_step(timeline);
        self.announcer.poll(due);
        let silenced = self.health.is_silenced();
        let connected = self.health.state().connected;
        let mut last_announced = None;
        for announcement in due.drain(..) {
            // What is not sent now is announced anew once there is a connection and the clock may speak.
            if connected && !silenced && self.bus.announce(&announcement).is_ok() {
                self.metrics.announcements(announcement.mode).inc();
                last_announced = Some(announcement.epoch);
            }
        }
        let mut state = self.health.state();
        state.turned = now;
        state.last_announced = last_announced.or(state.last_announced);
    }

    fn answer(&mut self, nonce: u64, reply_to: &ReplyTo) {
        let received = self.machine.read();
        let discipline = self.note_discipline();
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
        // Without a connection the edge hears nothing, which it takes for a lost answer.
        if self.bus.answer(reply_to, &reply).is_ok() {
            self.metrics.answers.inc();
        }
        self.note_step(timeline);
    }

    /// Asks the kernel how far the host's clock can be trusted, which REQUIRE_SYNC may make a reason to fall silent or to speak.
    fn note_discipline(&mut self) -> Discipline {
        let before = self.health.is_silenced();
        let discipline = self.machine.discipline();
        self.health.state().discipline = discipline;
        match (before, self.health.is_silenced()) {
            (false, true) => {
                tracing::warn!("the host's clock is not disciplined: this clock falls silent");
            }
            (true, false) => {
                tracing::info!("the host's clock is disciplined: this clock speaks");
                self.announcer.reannounce();
            }
            (true, true) | (false, false) => {}
        }
        discipline
    }

    /// Tells of a step where the timeline is not `before` any more.
    fn note_step(&self, before: u64) {
        let timeline = self.announcer.timeline();
        if timeline != before {
            tracing::warn!(
                timeline,
                "the host's clock was stepped: this is another timeline"
            );
            self.metrics.steps.inc();
            self.health.state().timeline = timeline;
        }
    }
}
