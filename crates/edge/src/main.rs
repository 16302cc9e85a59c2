//! `tickstorm-edge`: runs one edge as a daemon, with NATS as the bus. The edge itself is in the
//! library.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_bus::NatsBus;
use tickstorm_edge::settings::{self, DEFAULTS, EDGE_ID, LISTEN_ADDR};
use tickstorm_edge::{Config, Edge};
use tickstorm_service::admin::register_ready;
use tickstorm_service::daemon::{Bound, Daemon, Failure, Process, report_listening};
use tickstorm_service::env::Section;
use tickstorm_service::exit;
use tickstorm_service::file_watch::reread_at_hangups;
use tickstorm_service::nats::{self, NATS, NatsFiles};
use tickstorm_service::nats_link;
use tickstorm_service::settings::COMMON;
use tickstorm_service::traces::settings::TRACES;

const DAEMON: Daemon = Daemon {
    name: "tickstorm-edge",
    about: "A TickStorm edge: sends every tick to all its clients at the tick's authority time.",
    sections: &SECTIONS,
    defaults: &DEFAULTS,
    id: |settings| settings.get(&EDGE_ID),
};

const SECTIONS: [Section; 8] = {
    let [edge, login, credentials, limits, tls] = settings::SECTIONS;
    [COMMON, TRACES, NATS, edge, login, credentials, limits, tls]
};

/// The time allowed for stopping everything else, once the drain is over and no clients are left.
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
        tracer,
    } = process;
    let config = Config::from_settings(&settings);
    let nats = nats::options(&settings, format!("{} {}", DAEMON.name, config.id));
    let nats_files = NatsFiles::load(&settings, &nats, &registry)?;
    let bus = NatsBus::start(nats).map_err(|error| Failure::new(exit::CONFIG, error))?;
    let bus = Arc::new(bus);
    nats_link::register(&registry, Arc::clone(&bus) as _)
        .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    let edge = Edge::start_traced(config, Arc::clone(&bus) as _, &registry, tracer)
        .await
        .map_err(|error| Failure::new(error.exit_code(), error))?;
    let listen_addr = Bound {
        asked: settings.get(&LISTEN_ADDR),
        addr: edge.listen_addr(),
    };
    register_ready(&registry, edge.health())
        .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    // Wipes the secrets that the settings contain.
    drop(settings);
    report_listening(Some(listen_addr), &admin);
    let admin = admin
        .with_routes(edge.routes())
        .with_routes(edge.drain_route())
        .with_watched_files(edge.watched_files())
        .with_watched_files([nats_files.access()])
        .with_spare_files(edge.spare_files());
    let files = admin.watched_files();
    tasks.spawn(reread_at_hangups(hangups, files, tasks.stopping()));
    let links = Arc::clone(&bus);
    let publish = move |secrets| links.use_secrets(secrets);
    tasks.spawn(nats_files.run(publish, tasks.stopping()));
    tasks.spawn(admin.serve(registry, edge.health(), tasks.stopping()));
    let is_asked_by_signal = tokio::select! {
        _ = signals.next() => true,
        () = edge.drain_requested() => false,
    };
    // An orchestrator sends its signal even if an operator has already asked for the drain, and
    // must not cut it short.
    let ended_at_once = async {
        if !is_asked_by_signal {
            signals.next().await;
            tracing::info!("already draining: another signal ends the edge at once");
        }
        signals.next().await
    };
    let ended = async {
        edge.drain().await;
        let stopped = async {
            edge.stop().await;
            bus.stop().await;
            // Tasks that are still running after that end with the process.
            let _ = tasks.stop(STOP_TIME_MAX).await;
        };
        let _ = tokio::time::timeout(STOP_TIME_MAX, stopped).await;
    };
    tokio::select! {
        () = ended => Ok(()),
        _ = ended_at_once => Err(Failure::second_signal()),
    }
}
