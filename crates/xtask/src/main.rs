//! What people and CI run, by the same commands: `cargo xtask test`, `cargo xtask compose-test` and
//! `cargo xtask rollout-test`.
//!
//! Owns the command line. It is no part of the product: nothing depends on it, and it knows the
//! other crates by their names only.

mod command;
mod compose_test;
mod dependencies;
mod nats;
mod portable;
mod preflight;
mod process_tree;
mod prose;
mod python_tool;
mod rollout_test;
mod stand_in;
mod step;
mod stopwatch;
mod test;
mod tool;
mod weight;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::test::Check;

/// TickStorm's development tasks
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check everything that a change must pass, installing the tools that are missing
    #[command(after_help = "Examples:\n  \
            cargo xtask test                everything, as CI runs it\n  \
            cargo xtask test fmt clippy     only these, in this order\n\n\
        TICKSTORM_TEST_NATS=container or =process says how tests run NATS servers; without it they are\n\
        containers if an engine answers. Where CI is set, nothing is skipped.")]
    Test {
        /// Checks to run; without any, all of them in the order listed, but for `nats`
        #[arg(value_enum, value_name = "CHECK")]
        checks: Vec<Check>,
    },
    /// Build the images and test the whole cluster that compose/ describes, in containers of its
    /// own
    #[command(
        after_help = "It takes a Docker engine, and Docker Compose 1.29 or 2. Where images can't be pulled,\n\
            TICKSTORM_STAND_INS=1 makes local stand-ins for them."
    )]
    ComposeTest,
    /// Build the images, run the pods that k8s/ describes in containers, and replace them while
    /// clients watch
    #[command(
        after_help = "It takes a Docker engine and Python 3, and no cluster. Where images can't be pulled,\n\
            TICKSTORM_STAND_INS=1 makes local stand-ins for them."
    )]
    RolloutTest,
    /// Count the instructions and allocations of the hot path, against the baseline
    #[command(after_help = "Examples:\n  \
            cargo xtask weight            fails where a piece is heavier than its baseline\n  \
            cargo xtask weight --renew    writes the baseline, to be committed with what explains it")]
    Weight {
        /// Write the baseline instead
        #[arg(long)]
        renew: bool,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Test { checks } => test::run(&checks),
        Task::ComposeTest => compose_test::run(),
        Task::RolloutTest => rollout_test::run(),
        Task::Weight { renew } => match weight::run(renew) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("xtask: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
