//! The command line of `tickstorm-abuse run`.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::attacks::{self, Attack};

/// Run attacks beside honest clients, and fail if a promise was broken
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct Options {
    /// Each attack once, for a few seconds, with few clients; latencies are not judged
    #[arg(long)]
    pub(crate) short: bool,
    /// Attacks to run, separated by commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = attack)]
    pub(crate) only: Vec<&'static str>,
    /// Source addresses of hostile clients [default: both; with --short, one of them in turn]
    #[arg(long, value_enum, value_name = "ADDRESSES")]
    pub(crate) from: Option<From>,
    /// Transport of all clients [default: both; with --short, one of them in turn]
    #[arg(long, value_enum, value_name = "TRANSPORT")]
    pub(crate) transport: Option<Transport>,
    /// Number of honest clients [default: 1000; with --short: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000))]
    clients: Option<u32>,
    /// Number of hostile clients; some attacks have more or fewer in proportion [default: 5000;
    /// with --short: 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=9_000))]
    hostile: Option<u32>,
    /// Duration of the baseline and of the attack, in seconds [default: 20; with --short: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..=3_600))]
    seconds: Option<u32>,
    /// Write the results to FILE as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// The source addresses of hostile clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum From {
    /// All have the same address
    One,
    /// Each has its own address
    Many,
    /// Each attack runs both ways
    Both,
}

/// The transport of all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// TCP without TLS
    Plain,
    /// TLS 1.3
    Tls,
    /// Each attack runs both ways
    Both,
}

impl Options {
    pub(crate) fn clients(&self) -> u32 {
        self.clients.unwrap_or(if self.short { 200 } else { 1_000 })
    }

    pub(crate) fn hostile(&self) -> u32 {
        self.hostile.unwrap_or(if self.short { 500 } else { 5_000 })
    }

    pub(crate) fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.short { 4 } else { 20 })
    }

    /// Returns the attacks to run, in the order of the catalogue.
    pub(crate) fn attacks(&self) -> impl Iterator<Item = &'static Attack> {
        let wanted = |attack: &&Attack| self.only.is_empty() || self.only.contains(&attack.name);
        attacks::ALL.iter().filter(wanted)
    }
}

fn attack(name: &str) -> Result<&'static str, String> {
    match Attack::named(name) {
        Some(attack) => Ok(attack.name),
        None => Err("no such attack; --help lists them".to_owned()),
    }
}

fn after_help() -> String {
    let attacks = attacks::ALL
        .iter()
        .map(|attack| format!("  {:<16} {}", attack.name, attack.about));
    let attacks: Vec<String> = attacks.collect();
    format!(
        "Attacks:\n{}\n\nExit codes:\n  0   All promises were kept\n  1   A promise was broken, or \
         an attack did not take place\n  64  Invalid command line\n  69  The edge or its clients \
         could not be started\n\nExamples:\n  cargo xtask abuse --short\n  cargo xtask abuse \
         --only silent,churn --from one --transport plain",
        attacks.join("\n")
    )
}
