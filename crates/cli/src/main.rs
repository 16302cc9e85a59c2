//! `tickstorm`, the command for people. Here stands what commands there are and how they end; what each does, its module knows.

mod dev;
mod follow;
mod line;
mod summary;
mod tail;

use std::panic;
use std::process::{self, ExitCode};

use clap::Parser;
use tickstorm_bench::{Bench, BenchEdge, CHILD_COMMAND};
use tickstorm_service::exit::{OK, USAGE};

/// What `--help` says about exit codes: those of every command.
const EXIT_CODES: &str = "\
Exit codes:
  0   done, or ended by Ctrl-C or a closed pipe
  1   tail: a tick was later than --max-late; bench: the edge did not do what it
      promises (a tick lost, twice, early …)
  64  the command line is wrong
  69  the edge can't be reached at first; with --within: not in that time, or the
      connection ended; dev: an address can't be listened on
  70  a defect of the program
  74  the output can't be written
  75  bench: the figures are void, since the load generator was the bottleneck
  76  one side broke the protocol
  77  the edge refused: wrong credentials, an impossible subscription, no room
  78  a setting in the environment is wrong";

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
    Bench(Bench),
    #[command(name = CHILD_COMMAND, hide = true)]
    BenchEdge(BenchEdge),
}

fn main() -> ExitCode {
    end_on_panic();
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

/// Makes a panic of any thread or task end the process, as it does in a release. A build that
/// unwinds would go on without the thread.
fn end_on_panic() {
    let show = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        show(panic);
        process::abort();
    }));
}
