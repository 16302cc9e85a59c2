//! `tickstorm`, the command for people. Here stands what commands there are and how they end; what each does, its module knows.

mod bench;
mod credentials;
mod dev;
mod exit;
mod follow;
mod line;
mod logs;
mod mode;
mod pair;
mod summary;
mod tail;

use std::process::ExitCode;

use clap::Parser;
use tickstorm_service::exit::{OK, USAGE};

use crate::exit::EXIT_CODES;

/// TickStorm tells TCP clients what second and what minute it is, at that second.
#[derive(Debug, Parser)]
#[command(name = "tickstorm", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Dev(dev::Dev),
    Tail(tail::Tail),
    Bench(bench::Bench),
    #[command(hide = true)]
    BenchEdge(bench::BenchEdge),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where not even this can be printed, the exit code has to do.
            let _ = error.print();
            let code = if error.use_stderr() { USAGE } else { OK };
            return ExitCode::from(code);
        }
    };
    let outcome = match cli.command {
        Command::Dev(dev) => dev.run(),
        Command::Tail(tail) => tail.run(),
        Command::Bench(bench) => bench.run(),
        Command::BenchEdge(edge) => edge.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tickstorm: {:#}", failure.error);
            ExitCode::from(failure.code)
        }
    }
}
