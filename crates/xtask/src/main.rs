//! The development tasks, which people and CI run with the same commands: `cargo xtask test`,
//! `cargo xtask compose-test`, `cargo xtask rollout-test` and `cargo xtask weight`.
//!
//! This file owns the command line. xtask is not part of the product: nothing depends on it, and it
//! refers to the other crates by name only.

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

/// Run TickStorm's development tasks
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the checks that every change must pass, and install the tools that they need
    #[command(after_help = "Examples:\n  \
            cargo xtask test                run all checks, as CI does\n  \
            cargo xtask test fmt clippy     run only these two, in this order\n\n\
        TICKSTORM_TEST_NATS=container or TICKSTORM_TEST_NATS=process sets how tests run NATS\n\
        servers. By default they are containers if a container engine answers, and processes\n\
        otherwise. If CI is set, checks that would be skipped because a tool is missing fail,\n\
        except `portable`.")]
    Test {
        /// Checks to run, in the order given [default: all except `nats`, in the order listed]
        #[arg(value_enum, value_name = "CHECK")]
        checks: Vec<Check>,
    },
    /// Build the images and test the cluster of compose/ in a separate Compose project
    #[command(
        after_help = "Requires a Docker engine and Docker Compose 1.29 or 2. If images can't be\n\
            pulled, set TICKSTORM_STAND_INS=1 to build local stand-ins for them."
    )]
    ComposeTest,
    /// Build the images, run the pods of k8s/ in containers, and replace them while clients watch
    #[command(
        after_help = "Requires a Docker engine and Python 3, but no Kubernetes cluster. If images\n\
            can't be pulled, set TICKSTORM_STAND_INS=1 to build local stand-ins for them."
    )]
    RolloutTest,
    /// Compare the hot path's instructions and allocations with the baseline
    #[command(after_help = "Examples:\n  \
            cargo xtask weight            fail if a piece is heavier than its baseline\n  \
            cargo xtask weight --renew    write a new baseline, to commit with the change")]
    Weight {
        /// Write a new baseline instead of comparing
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
