//! `tickstorm-abuse`: attacks on an edge, with an honest crowd beside them. It measures what honest
//! clients notice of an attack, and fails if a promise was broken. `cargo xtask abuse` builds and
//! runs it; it is not part of the product.
//!
//! The edge under attack is a process with the in-memory bus, as in `tickstorm bench`. The hostile
//! clients are another process. For attacks on the bus there are a NATS server, clocks and edges,
//! each as a process. All traffic stays on loopback, if possible in a network namespace of its own.

mod addresses;
mod arrivals;
mod attacks;
mod bus;
mod crowd;
mod equipment;
mod file_limit;
mod hostile;
mod http;
mod matrix;
mod options;
mod ordered_process;
mod pacer;
mod probes;
mod process;
mod report;
mod restart;
mod run;
mod script;
mod stage;
mod surroundings;
mod swarm;
mod table;
mod verdict;
mod wire;

use std::process::ExitCode;

use clap::Parser;
use tickstorm_bench::{BenchEdge, CHILD_COMMAND};
use tickstorm_command::command_line;

/// Attack an edge, and measure what honest clients notice of it.
#[derive(Debug, Parser)]
#[command(name = "tickstorm-abuse")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(options::Options),
    #[command(name = CHILD_COMMAND, hide = true)]
    BenchEdge(BenchEdge),
    /// The clients of a swarm (internal)
    #[command(name = hostile::COMMAND, hide = true)]
    Swarm,
    /// An attacker with a stolen login of NATS (internal)
    #[command(name = bus::COMMAND, hide = true)]
    Thief,
}

fn main() -> ExitCode {
    command_line::run("abuse", |cli: Cli| match cli.command {
        Command::Run(options) => matrix::run(&options),
        Command::BenchEdge(edge) => edge.run(),
        Command::Swarm => hostile::run(),
        Command::Thief => bus::run_thief(),
    })
}
