//! `tickstorm-clock`: one clock replica as a daemon on NATS. The library implements the clock.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_bus::NatsBus;
use tickstorm_clock::settings::{CLOCK, CLOCK_ID, DEFAULTS};
use tickstorm_clock::{Config, Replica};
use tickstorm_service::admin::register_ready;
use tickstorm_service::daemon::{Daemon, Failure, Process, report_listening};
use tickstorm_service::exit;
use tickstorm_service::fd_limit;
use tickstorm_service::file_watch::reread_at_hangups;
use tickstorm_service::nats::{self, NATS, NatsFiles};
use tickstorm_service::nats_link;
use tickstorm_service::settings::COMMON;
use tickstorm_service::traces::settings::TRACES;

const DAEMON: Daemon = Daemon {
    name: "tickstorm-clock",
    about: "A TickStorm clock. It announces every tick ahead of its time and answers edges' time \
            requests.",
    sections: &[COMMON, TRACES, NATS, CLOCK],
    defaults: &DEFAULTS,
    id: |settings| settings.get(&CLOCK_ID).to_string(),
};

/// The open files that a clock needs apart from spare ones: far more than it ever has.
const FILES_NEEDED: u64 = 256;

/// The time limit for an orderly stop, which takes milliseconds: a clock has nothing to finish, and
/// the other clocks continue.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    DAEMON.main(run)
}

async fn run(process: Process) -> Result<(), Failure> {
    let Process {
        settings,
        registry,
        admin,
        mut signals,
        hangups,
        tasks,
        // The spans of clocks are tracing's, which need no tracer.
        tracer: _,
    } = process;
    let config = Config::from_settings(&settings);
    let nats = nats::options(&settings, format!("{} {}", DAEMON.name, config.id));
    let nats_files = NatsFiles::load(&settings, &nats, &registry)?;
    let bus = NatsBus::start(nats).map_err(|error| Failure::new(exit::CONFIG, error))?;
    let bus = Arc::new(bus);
    nats_link::register(&registry, Arc::clone(&bus) as _)
        .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    let clock = Replica::start(config, Arc::clone(&bus) as _, &registry)
        .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    register_ready(&registry, clock.health())
        .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    // Wipes the secrets that the settings contain.
    drop(settings);
    report_listening(None, &admin);
    let admin = admin
        .with_watched_files([nats_files.access()])
        .with_spare_files(fd_limit::spare(FILES_NEEDED).unwrap_or_default());
    let files = admin.watched_files();
    tasks.spawn(reread_at_hangups(hangups, files, tasks.stopping()));
    let links = Arc::clone(&bus);
    let publish = move |secrets| links.use_secrets(secrets);
    tasks.spawn(nats_files.run(publish, tasks.stopping()));
    tasks.spawn(admin.serve(registry, clock.health(), tasks.stopping()));
    signals.next().await;
    let stopped = async {
        clock.stop().await;
        bus.stop().await;
        // Tasks that are still running afterwards end with the process.
        let _ = tasks.stop(STOP_TIME_MAX).await;
    };
    let _ = tokio::time::timeout(STOP_TIME_MAX, stopped).await;
    Ok(())
}
