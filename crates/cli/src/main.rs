//! `tickstorm`, the command-line tool for people. This file lists the commands; each of them has
//! its own module or crate.

mod check;
mod dev;
mod follow;
mod line;
mod status;
mod summary;
mod tail;

use std::panic;
use std::process::{self, ExitCode};

use clap::Parser;
use tickstorm_bench::{Bench, BenchEdge, CHILD_COMMAND};
use tickstorm_command::command_line;
use tickstorm_service::{private_memory, stderr};

/// The exit codes of all commands, as `--help` lists them.
const EXIT_CODES: &str = "\
Exit codes:
  0   Success, or ended by a closed pipe
      dev, tail: ended by Ctrl-C
  1   tail: a tick was later than --max-late
      check: a case failed
      dev --scenario: the client broke a rule of the protocol, or a signal came before the
      end
      status: something is wrong
      bench: the edge broke a promise (a tick lost, duplicated, early, …)
  64  Invalid command line
  69  The first connection to the edge failed
      tail --within: too few ticks in that time, or the connection ended
      dev: cannot listen on an address
      dev --scenario: no client came within 60 s
      status: a port does not answer
  70  Internal error
  74  Cannot write the output
  75  bench: the results are invalid, since the load generator was the bottleneck
      check: some cases could not be tried
  76  Protocol violation by either side
  77  Refused by the edge: wrong credentials, invalid subscription, or no capacity
  78  Invalid settings in the environment
  130 bench: ended by Ctrl-C (129 by SIGHUP, 143 by SIGTERM)";

/// TickStorm pushes a tick to TCP clients at every second or minute, at that instant.
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
    Check(check::Check),
    Status(status::Status),
    Bench(Bench),
    #[command(name = CHILD_COMMAND, hide = true)]
    BenchEdge(BenchEdge),
}

fn main() -> ExitCode {
    end_on_panic();
    command_line::run("tickstorm", |cli: Cli| {
        protect_memory(&cli.command);
        match cli.command {
            Command::Dev(dev) => dev.run(),
            Command::Tail(tail) => tail.run(),
            Command::Check(check) => check.run(),
            Command::Status(status) => status.run(),
            Command::Bench(bench) => bench.run(),
            Command::BenchEdge(edge) => edge.run(),
        }
    })
}

/// Protects passwords and tokens in the memory of this process. `bench` is left out: it reads the
/// files in /proc of the edge that it measures. `status` has no secrets.
fn protect_memory(command: &Command) {
    match command {
        Command::Dev(_) | Command::Tail(_) | Command::Check(_) => {
            if let Err(error) = private_memory::protect() {
                stderr::notice(format_args!(
                    "tickstorm: warning: {}: {error}",
                    private_memory::UNPROTECTED
                ));
            }
        }
        Command::Status(_) | Command::Bench(_) | Command::BenchEdge(_) => {}
    }
}

/// Makes a panic in any thread or task end the process, as it does in a release build. A build that
/// unwinds would continue without the thread.
fn end_on_panic() {
    let show = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        show(panic);
        process::abort();
    }));
}
