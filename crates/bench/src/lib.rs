//! `tickstorm bench`: the load generator. It starts an edge in a child process (`child`), connects
//! many clients to it (`generator`), runs one `scenario`, and compares the edge with a baseline:
//! what plain sockets cost on the same machine. The results form a `report`.
//!
//! Nothing is measured without being verified: every frame of every client is checked, and a tick
//! that is lost, early, out of order or duplicated fails the run.
//!
//! The child process and the generator are also available to other programs that put an edge under
//! load, and the charts to the example that draws those of docs/dashboards.md.

mod child;
mod edge_process;
mod figure;
mod frame;
mod generator;
pub mod machine;
mod memory;
mod options;
mod orders;
mod progress;
mod releasing;
mod report;
mod run;
mod scenario;
mod tick_arrivals;
mod tls;

use tickstorm_command::{Failure, private_dir};
use tickstorm_service::exit;

use self::scenario::{auth, burst, churn, connect, drain, fanout, idle, slow};

pub use self::child::BenchEdge;
pub use self::edge_process::{CHILD_COMMAND, ChildOptions, EdgeProcess};
pub use self::generator::account::Faults;
pub use self::generator::{
    ClientSetup, ClientSources, EndKind, Generator, GeneratorShared, Greeting, Harvest,
};
pub use self::orders::{EdgeFacts, ProcessSample};
pub use self::report::{ChartLine, XAxis, draw_chart};
pub use self::tls::ClientTls;

const AFTER_HELP: &str = "\
Edge under test:
  The edge runs in a child process, together with a clock and the in-memory bus. It reads
  all tickstorm-edge settings from the environment. SHARDS defaults to 1; with a single
  shard, the edge runs on the first CPU and the clients on the second. With --addr, the
  edge at that address is tested instead, and its CPU time and memory are not measured.

Baseline:
  With --with-limit, each round is paired with a round of a bare loop of send(2) (or accept,
  or recv and send) in the edge's process. For fan-out and bursts, the loop uses the edge's
  own sockets. Figures are then also shown as ratios to the bare loop, which stay
  comparable on machines where absolute figures drift.

TLS:
  With --tls, clients connect over TLS 1.3, and the edge in the child process has a
  throw-away certificate. An edge at --addr is checked like in `tickstorm tail`: see
  --tls-ca, --tls-name and --tls-cert.
  With --tls and --with-limit, the bare loop of fan-out and bursts seals each frame with
  the connection's own key. `fanout` then also runs an edge without TLS, which has as many
  clients and sends in turn with the first one, and shows the ratio of the two.

Results:
  Latencies count from when a tick was due. Every frame is verified. The run is void (exit
  code 75) if the load generator's own user CPU time exceeds 3 % of the time in which ticks
  arrive.

More clients than the limit of open files:
  Set FD_TABLES=per-shard and SHARDS=6 or more. The load generator splits its own
  descriptors between threads in the same way.

Measuring without interference, in a separate network namespace:
  ip netns add bench; ip netns exec bench ip link set lo up
  ip netns exec bench tickstorm bench fanout -n 19000 --ticks 21 --with-limit

Examples:
  tickstorm bench fanout -n 10000 --ticks 21 --with-limit --html fanout.html
  SHARDS=6 FD_TABLES=per-shard tickstorm bench fanout -n 100000 --for 10m
  tickstorm bench fanout -n 19000 --for 30m --json soak.json
  tickstorm bench fanout -n 1000 --addr edge.example:8080
  tickstorm bench fanout -n 10000 --ticks 21 --tls --with-limit
  tickstorm bench fanout -n 1000 --addr edge.example:8443 --tls --tls-ca ca.pem
  tickstorm bench fanout -n 1000 --ahead --released 200
  tickstorm bench connect -n 19000 --with-limit
  tickstorm bench connect -n 5000 --present 10000 --storms 11 --rounds 1 --tls
  tickstorm bench burst -n 1000 --rate 10000 --with-limit
  tickstorm bench idle -n 19000 --for 2m --with-limit
  tickstorm bench slow -n 1000 --share 1
  tickstorm bench churn -n 10000 --per-second 500 --for 10m
  tickstorm bench auth -n 100 --tokens 10000 --auths 200 --ticks 240
  tickstorm bench drain -n 19000 --ticks 20";

/// Measure how late an edge delivers ticks, and what ticks and connections cost
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
    Drain(drain::DrainScenario),
}

impl Bench {
    /// Runs the scenario, then prints and writes its report.
    pub fn run(self) -> Result<(), Failure> {
        private_dir::remove_at_signals().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let (report, common) = match self.scenario {
            Scenario::Fanout(fanout) => (fanout.run()?, fanout.common),
            Scenario::Connect(connect) => (connect.run()?, connect.common),
            Scenario::Burst(bursts) => (bursts.run()?, bursts.common),
            Scenario::Idle(idle) => (idle.run()?, idle.common),
            Scenario::Slow(slow) => (slow.run()?, slow.common),
            Scenario::Churn(churn) => (churn.run()?, churn.common),
            Scenario::Auth(auth) => (auth.run()?, auth.common),
            Scenario::Drain(drain) => (drain.run()?, drain.common),
        };
        report.publish(&common)
    }
}
