//! The promises, and whether a run has kept them. No I/O: figures in, broken promises out.

use serde::Serialize;

use crate::bus::BusFigures;
use crate::crowd::Harm;
use crate::crowd::NewClientCounts;
use crate::probes::ProbeCounts;

/// The most by which an attack may raise [`Lateness::tick_p99_ms`]: by less than a fifth.
const P99_RATIO_MAX: f64 = 1.2;
/// A difference below this is noise, in milliseconds: on two cores, the clients that are measured
/// and hostile ones share a CPU, and the network code that runs for a packet can't be interrupted.
const P99_FLOOR_MS: f64 = 1.0;
/// The share of new clients that must be served within two seconds, in percent.
const SERVED_PERCENT_MIN: u64 = 98;
/// The same in a short run, on a machine that may be busy with other work.
const SERVED_PERCENT_MIN_SHORT: u64 = 75;
/// The most memory after an attack, in percent of that before it.
const MEMORY_PERCENT_MAX: u64 = 110;
/// The memory that may remain in any case, in bytes: code that has run for the first time, and
/// tables of connections that have grown to the size of the attack.
const MEMORY_FLOOR: u64 = 4 << 20;
/// The most time that a crowd may take to come back after a restart, in seconds.
const BACK_WITHIN_S: f64 = 10.0;
/// The same in a short run.
const BACK_WITHIN_S_SHORT: f64 = 25.0;

/// The most time that an answer about health may take, in milliseconds.
const HEALTH_MS_MAX: f64 = 200.0;
/// The same in a short run.
const HEALTH_MS_MAX_SHORT: f64 = 1_000.0;

/// Arrivals after a tick's time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Lateness {
    pub(crate) ticks: u32,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The median over all ticks of each tick's 99th percentile, so that a few late ticks do not
    /// decide it.
    pub(crate) tick_p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// Memory of the edge in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) before: u64,
    pub(crate) height: u64,
    pub(crate) after: u64,
    /// The rise of the TCP buffers of the machine.
    pub(crate) kernel_rise: u64,
}

/// The crowd that came back after a restart.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Return {
    pub(crate) clients: u64,
    pub(crate) back: u64,
    pub(crate) seconds: f64,
}

/// The figures of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) baseline: Option<Lateness>,
    pub(crate) attacked: Option<Lateness>,
    /// Ticks that honest clients did not get.
    pub(crate) missing: u64,
    /// Ticks that they got more than once, out of order, or early.
    pub(crate) wrong: u64,
    pub(crate) disconnected: u64,
    pub(crate) new_clients: Option<NewClientCounts>,
    /// CPU time of the edge, in percent of a CPU.
    pub(crate) baseline_cpu_percent: f64,
    pub(crate) cpu_percent: f64,
    pub(crate) memory: Option<Memory>,
    pub(crate) returned: Option<Return>,
    /// The answers about health during the attack.
    pub(crate) probes: Option<ProbeCounts>,
    /// Requests of the attack that the admin port should have refused, and has granted.
    pub(crate) wrongly_granted: u64,
    pub(crate) bus: Option<BusFigures>,
    /// How the edge ended, if it did.
    pub(crate) edge_ended: Option<String>,
    /// Why the attack did not take place, if it did not.
    pub(crate) void: Option<String>,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    pub(crate) p99: bool,
    /// Whether the run is a short one, whose times are judged generously.
    pub(crate) is_short: bool,
    /// Whether new clients must be served. Otherwise they must be refused promptly.
    pub(crate) new_clients_are_served: bool,
    /// Whether health must be answered in time.
    pub(crate) probes: bool,
}

impl Lateness {
    /// Returns the ratio of the median ticks' 99th percentiles.
    pub(crate) fn ratio(&self, baseline: &Self) -> f64 {
        self.tick_p99_ms / baseline.tick_p99_ms.max(f64::MIN_POSITIVE)
    }
}

impl Memory {
    /// Returns the most memory that may be left.
    pub(crate) fn bound(before: u64) -> u64 {
        before * MEMORY_PERCENT_MAX / 100 + MEMORY_FLOOR
    }
}

impl Figures {
    pub(crate) fn take_harm(&mut self, harm: Harm) {
        let Harm {
            missing,
            wrong,
            disconnected,
        } = harm;
        self.missing = missing;
        self.wrong = wrong;
        self.disconnected = disconnected;
    }

    /// Returns the p99 under attack as a multiple of the baseline, or 0 if one of them is missing.
    pub(crate) fn ratio(&self) -> f64 {
        let both = self.baseline.zip(self.attacked);
        both.map_or(0.0, |(baseline, attacked)| attacked.ratio(&baseline))
    }

    /// Returns whether ticks arrived too late under attack.
    fn is_late(&self) -> bool {
        let both = self.baseline.zip(self.attacked);
        both.is_some_and(|(baseline, attacked)| {
            attacked.ratio(&baseline) >= P99_RATIO_MAX
                && attacked.tick_p99_ms - baseline.tick_p99_ms >= P99_FLOOR_MS
        })
    }

    /// Returns whether late ticks are the only broken promise.
    pub(crate) fn is_only_late(&self, judged: Judged) -> bool {
        judged.p99 && self.is_late() && self.broken(judged).len() == 1
    }

    /// Returns the broken promises.
    pub(crate) fn broken(&self, judged: Judged) -> Vec<String> {
        let mut broken = Vec::new();
        if let Some(ended) = &self.edge_ended {
            broken.push(format!("the edge ended: {ended}"));
        }
        for (count, what) in [
            (self.missing, "missing ticks"),
            (self.wrong, "wrong ticks"),
            (self.disconnected, "honest clients disconnected"),
            (
                self.wrongly_granted,
                "requests granted that only an operator may send",
            ),
        ] {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        }
        if judged.p99 && self.is_late() {
            broken.push(format!("p99 is {:.2} times the baseline", self.ratio()));
        }
        broken.extend(self.new_clients_broken(judged));
        broken.extend(self.probes_broken(judged));
        if let Some(bus) = &self.bus {
            broken.extend(bus.broken(judged.is_short));
        }
        if let Some(memory) = self.memory
            && memory.after > Memory::bound(memory.before)
        {
            broken.push("memory was not given back".into());
        }
        let back_within_s = if judged.is_short {
            BACK_WITHIN_S_SHORT
        } else {
            BACK_WITHIN_S
        };
        if let Some(returned) = self.returned
            && (returned.back < returned.clients || returned.seconds > back_within_s)
        {
            let Return {
                clients,
                back,
                seconds,
            } = returned;
            broken.push(format!(
                "{back} of {clients} clients back after {seconds:.1} s"
            ));
        }
        if let Some(void) = &self.void {
            broken.push(format!("the attack did not take place: {void}"));
        }
        broken
    }

    fn new_clients_broken(&self, judged: Judged) -> Option<String> {
        let new = self.new_clients?;
        let (good, what) = if judged.new_clients_are_served {
            (new.served, "served")
        } else {
            (new.served + new.refused, "answered")
        };
        let percent_min = if judged.is_short {
            SERVED_PERCENT_MIN_SHORT
        } else {
            SERVED_PERCENT_MIN
        };
        let is_broken = good * 100 < new.all * percent_min || new.all == 0;
        is_broken.then(|| format!("{good} of {} new clients {what}", new.all))
    }

    fn probes_broken(&self, judged: Judged) -> Option<String> {
        let probes = self.probes.filter(|_| judged.probes)?;
        let ProbeCounts {
            asked,
            failed,
            worst_ms,
        } = probes;
        let ms_max = if judged.is_short {
            HEALTH_MS_MAX_SHORT
        } else {
            HEALTH_MS_MAX
        };
        if failed > 0 || asked == 0 {
            return Some(format!("{failed} of {asked} probes failed"));
        }
        (worst_ms > ms_max).then(|| format!("a probe took {worst_ms:.0} ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Judged = Judged {
        p99: true,
        is_short: false,
        new_clients_are_served: true,
        probes: true,
    };

    fn lateness(tick_p99_ms: f64) -> Option<Lateness> {
        Some(Lateness {
            tick_p99_ms,
            ..Lateness::default()
        })
    }

    fn good() -> Figures {
        Figures {
            baseline: lateness(4.0),
            attacked: lateness(4.7),
            new_clients: Some(NewClientCounts {
                all: 100,
                served: 98,
                refused: 0,
            }),
            memory: Some(Memory {
                before: 100 << 20,
                height: 300 << 20,
                after: 110 << 20,
                kernel_rise: 0,
            }),
            returned: Some(Return {
                clients: 10,
                back: 10,
                seconds: 9.9,
            }),
            probes: Some(ProbeCounts {
                asked: 200,
                failed: 0,
                worst_ms: 200.0,
            }),
            ..Figures::default()
        }
    }

    #[test]
    fn figures_within_all_bounds_break_nothing() {
        assert_eq!(good().broken(ALL), [""; 0]);
    }

    #[test]
    fn each_promise_about_clients_and_probes_can_be_broken_alone() {
        let new_clients = |all, served| {
            Some(NewClientCounts {
                all,
                served,
                refused: all - served,
            })
        };
        let probes = good().probes.unwrap();
        let cases = [
            Figures {
                missing: 1,
                ..good()
            },
            Figures { wrong: 1, ..good() },
            Figures {
                disconnected: 1,
                ..good()
            },
            Figures {
                wrongly_granted: 1,
                ..good()
            },
            Figures {
                probes: Some(ProbeCounts {
                    failed: 1,
                    ..probes
                }),
                ..good()
            },
            Figures {
                probes: Some(ProbeCounts {
                    worst_ms: 201.0,
                    ..probes
                }),
                ..good()
            },
            Figures {
                attacked: lateness(5.1),
                ..good()
            },
            Figures {
                new_clients: new_clients(100, 97),
                ..good()
            },
            Figures {
                new_clients: new_clients(0, 0),
                ..good()
            },
        ];
        for case in cases {
            assert_eq!(case.broken(ALL).len(), 1, "{case:?}");
        }
    }

    #[test]
    fn each_promise_about_the_edge_can_be_broken_alone() {
        let memory = good().memory.unwrap();
        let returned = good().returned.unwrap();
        let cases = [
            Figures {
                memory: Some(Memory {
                    after: 115 << 20,
                    ..memory
                }),
                ..good()
            },
            Figures {
                returned: Some(Return {
                    back: 9,
                    ..returned
                }),
                ..good()
            },
            Figures {
                returned: Some(Return {
                    seconds: 10.1,
                    ..returned
                }),
                ..good()
            },
            Figures {
                edge_ended: Some("killed".into()),
                ..good()
            },
            Figures {
                void: Some("no port".into()),
                ..good()
            },
        ];
        for case in cases {
            assert_eq!(case.broken(ALL).len(), 1, "{case:?}");
        }
    }

    #[test]
    fn small_differences_and_latencies_that_are_not_judged_break_nothing() {
        let noise = Figures {
            baseline: lateness(0.5),
            attacked: lateness(1.4),
            ..good()
        };
        assert_eq!(noise.broken(ALL), [""; 0]);
        let late = Figures {
            attacked: lateness(50.0),
            ..good()
        };
        let judged = Judged { p99: false, ..ALL };
        assert_eq!(late.broken(judged), [""; 0]);
    }

    #[test]
    fn a_short_run_gives_new_clients_and_a_restart_more_time() {
        let slow = |served, seconds| Figures {
            new_clients: Some(NewClientCounts {
                all: 100,
                served,
                refused: 0,
            }),
            returned: Some(Return {
                seconds,
                ..good().returned.unwrap()
            }),
            ..good()
        };
        let short = Judged {
            is_short: true,
            ..ALL
        };
        assert_eq!(slow(75, 24.9).broken(short), [""; 0]);
        assert_eq!(slow(75, 24.9).broken(ALL).len(), 2);
        assert_eq!(slow(74, 25.1).broken(short).len(), 2);
    }

    #[test]
    fn on_a_full_edge_new_clients_must_be_refused_promptly() {
        let judged = Judged {
            new_clients_are_served: false,
            ..ALL
        };
        let counts = |refused| NewClientCounts {
            all: 100,
            served: 1,
            refused,
        };
        let figures = |refused| Figures {
            new_clients: Some(counts(refused)),
            ..good()
        };
        assert_eq!(figures(99).broken(judged), [""; 0]);
        assert_eq!(figures(50).broken(judged).len(), 1);
    }
}
