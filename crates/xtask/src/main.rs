//! The development tasks, which people and CI run with the same commands: `cargo xtask test`,
//! `cargo xtask compose-test`, `cargo xtask rollout-test`, `cargo xtask abuse`, `cargo xtask sbom`,
//! `cargo xtask monitoring`, `cargo xtask dashboards` and `cargo xtask weight`.
//!
//! This file owns the command line. xtask is not part of the product: nothing depends on it, and it
//! refers to the other crates by name only.

mod abuse;
mod advisories;
mod checkov;
mod clients;
mod command;
mod compose_test;
mod dependencies;
mod monitoring;
mod nats;
mod oldest_compiler;
mod portable;
mod preflight;
mod process_tree;
mod prose;
mod python_tool;
mod rollout_test;
mod sbom;
mod stand_in;
mod step;
mod stopwatch;
mod test;
mod tool;
mod unsafe_code;
mod weight;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{monitoring::dashboards::Recording, test::Check};

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
        except `portable` and `advisories`.")]
    Test {
        /// Checks to run, in the order given [default: all except `nats` and `abuse`, in the order
        /// listed]
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
    /// Attack an edge, and measure what honest clients notice of it
    #[command(disable_help_flag = true)]
    Abuse {
        /// Options of the program; `--help` lists them
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTION"
        )]
        options: Vec<String>,
    },
    /// Write the software bills of materials of the programs, in CycloneDX's JSON format
    #[command(
        after_help = "Writes target/sbom/PROGRAM.cdx.json for each program. The same sources\n\
            yield the same bytes."
    )]
    Sbom,
    /// Write Prometheus' rules as objects of Kubernetes, and the dashboards as Grafana's JSON, to
    /// commit with a change of their sources
    Monitoring,
    /// Draw panels of the dashboards for docs/dashboards.md, from what a Prometheus has recorded
    Dashboards(Recording),
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
        Task::Abuse { options } => abuse::run(&options),
        Task::Sbom => exit_code(sbom::write()),
        Task::Monitoring => exit_code(monitoring::write()),
        Task::Dashboards(recording) => exit_code(monitoring::dashboards::draw(&recording)),
        Task::Weight { renew } => exit_code(weight::run(renew)),
    }
}

fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
