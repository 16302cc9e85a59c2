//! What people and CI run, by the same command: `cargo xtask test`.
//!
//! Owns the command line. It is no part of the product: nothing depends on it, and it knows the other crates by their
//! names only.

mod command;
mod dependencies;
mod stand_in;
mod test;
mod tool;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::test::Step;

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
            cargo xtask test fmt clippy     only these steps, in this order")]
    Test {
        /// Steps to run; without any, all of them in the order listed
        #[arg(value_enum, value_name = "STEP")]
        steps: Vec<Step>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Test { steps } => test::run(&steps),
    }
}
