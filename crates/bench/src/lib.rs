//! `tickstorm bench`: the load generator. It starts an edge in a child process (`child`), is many clients of it (`generator`), and
//! measures what a `scenario` asks for, beside the yardstick: what plain sockets cost on this machine. Results are a `report`.
//!
//! It measures nothing that it does not verify: every frame of every client is checked, and a tick that is lost, early, out of order or
//! there twice fails the run.

mod child;
mod edge_process;
mod figure;
mod frame;
mod generator;
mod machine;
mod memory;
mod options;
mod orders;
mod progress;
mod releasing;
mod report;
mod run;
mod scenario;
mod tick_arrivals;

use tickstorm_command::Failure;

use self::scenario::{auth, burst, churn, connect, fanout, idle, slow};

pub use self::child::BenchEdge;
pub use self::edge_process::CHILD_COMMAND;

const AFTER_HELP: &str = "\
The edge under test is a child process: an edge, a clock and the in-memory bus in it. It
takes all settings of tickstorm-edge from the environment; SHARDS is 1 unless set. Then
the edge has the first CPU and the clients the second. With --addr the edge at that
address is tested, of which CPU time and memory are not known.

With --with-limit each round has one of the yardstick beside it: a bare loop of send(2) (or
accept, or recv and send) in the same process, over the same sockets where it sends. Every
figure then also stands as a ratio, which holds where absolute figures drift.

Latencies count from when a tick was due. Every frame is checked. Where the load
generator's own user CPU is over 3 % of the time in which ticks come, the run is void.

For more clients than a process may open files: FD_TABLES=per-shard and SHARDS=6 or more;
the load generator does the like by itself. A network namespace of one's own is the quiet
place to measure in:
  ip netns add bench; ip netns exec bench ip link set lo up
  ip netns exec bench tickstorm bench fanout -n 19000 --ticks 21 --with-limit

Examples:
  tickstorm bench fanout -n 10000 --ticks 21 --with-limit --html fanout.html
  SHARDS=6 FD_TABLES=per-shard tickstorm bench fanout -n 100000 --for 10m
  tickstorm bench fanout -n 19000 --for 30m --json soak.json
  tickstorm bench fanout -n 1000 --addr edge.example:8080
  tickstorm bench fanout -n 1000 --ahead --released 200
  tickstorm bench connect -n 19000 --with-limit
  tickstorm bench burst -n 1000 --rate 10000 --with-limit
  tickstorm bench idle -n 19000 --for 2m --with-limit
  tickstorm bench slow -n 1000 --share 1
  tickstorm bench churn -n 10000 --per-second 500 --for 10m
  tickstorm bench auth -n 100 --tokens 10000 --auths 200 --ticks 240";

/// Measures an edge: how late ticks come, what they cost, what connections cost.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Bench {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, clap::Subcommand)]
enum Scenario {
    Fanout(fanout::FanoutScenario),
    Connect(connect::ConnectScenario),
    Burst(burst::BurstScenario),
    Idle(idle::IdleScenario),
    Slow(slow::SlowScenario),
    Churn(churn::ChurnScenario),
    Auth(auth::AuthScenario),
}

impl Bench {
    /// Measures, and gives the results.
    pub fn run(self) -> Result<(), Failure> {
        let (report, common) = match self.scenario {
            Scenario::Fanout(fanout) => (fanout.run()?, fanout.common),
            Scenario::Connect(connect) => (connect.run()?, connect.common),
            Scenario::Burst(bursts) => (bursts.run()?, bursts.common),
            Scenario::Idle(idle) => (idle.run()?, idle.common),
            Scenario::Slow(slow) => (slow.run()?, slow.common),
            Scenario::Churn(churn) => (churn.run()?, churn.common),
            Scenario::Auth(auth) => (auth.run()?, auth.common),
        };
        report.give(&common)
    }
}
