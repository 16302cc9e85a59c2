//! `tickstorm-clock`: one clock replica as a daemon, on NATS. What a clock does, the library knows.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_bus::{NatsBus, NatsOptions};
use tickstorm_clock::{Config, Replica};
use tickstorm_service::daemon::{Daemon, Failure, Process, say_listening};
use tickstorm_service::env::{Group, Secret, Settings, table};
use tickstorm_service::lifecycle::exit;

const DAEMON: Daemon = Daemon {
    name: "tickstorm-clock",
    about: "One clock of TickStorm: announces every tick ahead of its time and tells edges the time.",
    groups: &[Group::Common, Group::Nats, Group::Clock],
};

/// What the parts have for stopping, of which they need milliseconds: a clock has nothing to finish, the others go on.
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
        tasks,
    } = process;
    let config =
        Config::from_settings(&settings).map_err(|error| Failure::new(exit::CONFIG, error))?;
    let bus = NatsBus::start(nats(&settings)).map_err(|error| Failure::new(exit::CONFIG, error))?;
    let bus = Arc::new(bus);
    let clock = Replica::start(config, Arc::clone(&bus) as _, &registry)
        .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    say_listening(&settings, None, admin.local_addr());
    tasks.spawn(admin.serve(registry, clock.health(), tasks.stopping()));
    signals.next().await;
    let stopped = async {
        clock.stop().await;
        bus.stop().await;
        // Whatever still runs after that ends with the process.
        let _ = tasks.stop(STOP_TIME_MAX).await;
    };
    let _ = tokio::time::timeout(STOP_TIME_MAX, stopped).await;
    Ok(())
}

fn nats(settings: &Settings) -> NatsOptions {
    let secret = |secret: Option<Secret>| secret.map(|secret| secret.expose().into());
    NatsOptions {
        urls: settings.get(&table::NATS_URL),
        user: settings.get(&table::NATS_USER),
        password: secret(settings.get(&table::NATS_PASSWORD)),
        token: secret(settings.get(&table::NATS_TOKEN)),
        credentials_file: settings.get(&table::NATS_CREDS_FILE),
        ca_file: settings.get(&table::NATS_CA_FILE),
        certificate_file: settings.get(&table::NATS_CERT_FILE),
        key_file: settings.get(&table::NATS_KEY_FILE),
        subject_prefix: settings.get(&table::NATS_SUBJECT_PREFIX),
        name: format!("{} {}", DAEMON.name, settings.get(&table::CLOCK_ID)),
    }
}
