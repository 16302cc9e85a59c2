//! [`Stage`]: an edge with its honest clients, on which attacks take place, and the figures of a
//! time on it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tickstorm_bench::machine::KernelMemory;
use tickstorm_bench::{ClientTls, EdgeProcess};
use tickstorm_command::Failure;
use tickstorm_command::throw_away_certificate::{KeyType, ThrowAwayCertificate};
use tickstorm_service::{exit, fd_limit};
use tickstorm_timebase::{Clock as _, Mono, SystemClock};

use crate::arrivals::Arrivals;
use crate::attacks::Kind;
use crate::crowd::{Crowd, Harm, LATE_MAX, NewClients};
use crate::equipment::{AdminToken, Equipment, login};
use crate::http::{self, Answer};
use crate::probes::{HealthProbes, ProbeCounts};
use crate::process::Watched;
use crate::surroundings::{Confinement, Surroundings};
use crate::swarm::Login;
use crate::verdict::Lateness;

/// The error of reading authority time, beyond the bound that the edge itself reports, in
/// nanoseconds.
const READING_ERROR_NS: u64 = 10_000;
/// The moments of a second, in milliseconds after its tick: from the first to the third, honest
/// clients may send heartbeats, so that their thread only reads when a tick arrives. At the second,
/// the edge is sampled, and phases begin and end.
const HEARTBEATS_FROM_MS: i64 = 350;
const BOUNDARY_MS: i64 = 600;
const HEARTBEATS_UNTIL_MS: i64 = 850;
/// The time that the admin port may take to list connections before an attack.
const LISTS_WITHIN: Duration = Duration::from_secs(10);
/// The number of connections that are listed.
const LISTED: u32 = 20;

/// An edge and its honest clients.
pub(crate) struct Stage {
    pub(crate) edge: EdgeProcess,
    pub(crate) watched: Watched,
    pub(crate) new_clients: NewClients,
    probes: HealthProbes,
    pub(crate) login: Login,
    crowd: Crowd,
    certificate: Option<ThrowAwayCertificate>,
    confinement: Option<Confinement>,
    token: Option<AdminToken>,
    /// The highest memory in TCP buffers since the last call of [`Stage::take_kernel_height`].
    kernel_height: u64,
}

/// The figures of a number of seconds.
pub(crate) struct Phase {
    pub(crate) lateness: Lateness,
    /// CPU time of the edge, in percent of a CPU.
    pub(crate) cpu_percent: f64,
    pub(crate) probes: ProbeCounts,
    /// The time between the phase's boundaries.
    pub(crate) from: Mono,
    pub(crate) until: Mono,
}

impl Stage {
    /// Starts an edge, the crowd, and new clients. The second value says what the system has
    /// refused.
    pub(crate) fn start(
        equipment: &Equipment,
        surroundings: &Surroundings,
    ) -> Result<(Self, Option<String>), Failure> {
        let unavailable = |error: anyhow::Error| Failure::new(exit::UNAVAILABLE, error);
        let files = fd_limit::raise().map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
        let certificate = match equipment.tls {
            true => Some(
                ThrowAwayCertificate::new(&["localhost"], KeyType::EcdsaP256)
                    .map_err(|error| Failure::new(exit::UNAVAILABLE, error))?,
            ),
            false => None,
        };
        let token = (equipment.kind == Kind::Guarded).then(AdminToken::new);
        let token = token
            .transpose()
            .map_err(|error| unavailable(error.into()))?;
        let certified = certificate.as_ref();
        let mut edge = equipment.start_guarded(surroundings, certified, None, token.as_ref())?;
        let (mut confinement, mut note) = (None, None);
        if equipment.kind == Kind::Confined {
            match Confinement::of(edge.pid()) {
                Ok(made) => confinement = Some(made),
                Err(error) => note = Some(format!("{error:#}: memory has no limit")),
            }
        }
        let tls = match &certificate {
            Some(made) => Some(ClientTls::trusting(&made.authority_file())?),
            None => None,
        };
        let (addr, login) = (edge.ready.addr, login());
        let crowd = Crowd::start(
            equipment.clients,
            addr,
            tls.clone(),
            &login,
            surroundings.honest_cpus.clone(),
            files.after,
        )
        .map_err(unavailable)?;
        let sample = edge.sample(false).map_err(unavailable)?;
        take_time(&crowd, sample.offset_ns, sample.bound_us);
        let new_clients = NewClients::start(
            equipment.new_per_second,
            addr,
            tls,
            login.clone(),
            surroundings.honest_cpus.clone(),
        )
        .map_err(unavailable)?;
        let probes = admin_addr(&edge)
            .and_then(|admin| {
                Ok(HealthProbes::start(
                    admin,
                    surroundings.honest_cpus.clone(),
                )?)
            })
            .map_err(unavailable)?;
        let stage = Self {
            watched: Watched::new(edge.pid()),
            edge,
            new_clients,
            probes,
            login,
            crowd,
            certificate,
            confinement,
            token,
            kernel_height: 0,
        };
        Ok((stage, note))
    }

    /// Returns the file with the certificate of the edge's authority; `None` without TLS.
    pub(crate) fn authority_file(&self) -> Option<PathBuf> {
        let certificate = self.certificate.as_ref();
        certificate.map(ThrowAwayCertificate::authority_file)
    }

    /// Returns the address of the admin port.
    pub(crate) fn admin(&self) -> anyhow::Result<SocketAddr> {
        admin_addr(&self.edge)
    }

    /// Returns the ids of some connections, as an operator sees them.
    pub(crate) fn connection_ids(&self) -> anyhow::Result<Vec<String>> {
        let path = format!("/connections?sort=age&limit={LISTED}");
        let header = self.token.as_ref();
        let header = header.map_or_else(String::new, |token| {
            format!("Authorization: Bearer {}\r\n", token.token)
        });
        let answer = http::get_with(self.admin()?, &path, &header, LISTS_WITHIN)
            .context("an operator can't list connections")?;
        let Answer { status, body } = answer;
        anyhow::ensure!(
            status == 200,
            "an operator's listing is refused: {status} {body}"
        );
        let listed: Vec<Value> = serde_json::from_str(&body).context("the listing")?;
        let ids = listed.iter().map(|connection| {
            let id = &connection["id"];
            id.as_str().map_or_else(|| id.to_string(), str::to_owned)
        });
        Ok(ids.collect())
    }

    /// Measures for this many ticks, and calls `each_second` in each second with its number.
    ///
    /// # Errors
    /// The edge has ended, or does not answer.
    pub(crate) fn phase(
        &mut self,
        ticks: u32,
        mut each_second: impl FnMut(u32) -> anyhow::Result<()>,
    ) -> anyhow::Result<Phase> {
        let start_ms = self.next_second_ms()?;
        self.wait_until(start_ms + BOUNDARY_MS)?;
        self.crowd.harvest()?;
        let (from, cpu) = (SystemClock.now(), self.watched.cpu_time()?);
        let mut arrivals = Arrivals::default();
        for second in 0..ticks {
            let tick_ms = start_ms + i64::from(second) * 1_000;
            self.wait_until(tick_ms + HEARTBEATS_UNTIL_MS)?;
            self.crowd.shared().allow_heartbeats(false);
            self.wait_until(tick_ms + 1_000 + HEARTBEATS_FROM_MS)?;
            self.crowd.shared().allow_heartbeats(true);
            each_second(second)?;
            self.wait_until(tick_ms + 1_000 + BOUNDARY_MS)?;
            arrivals.add_tick(self.crowd.harvest()?.arrivals())?;
            self.sample()?;
        }
        let (until, cpu_after) = (SystemClock.now(), self.watched.cpu_time()?);
        let cpu = cpu_after.saturating_sub(cpu).as_secs_f64();
        Ok(Phase {
            lateness: arrivals.lateness(),
            cpu_percent: 100.0 * cpu / until.since(from).as_secs_f64(),
            probes: self.probes.counts(from, until),
            from,
            until,
        })
    }

    /// Updates authority time and the height of the kernel's memory.
    ///
    /// # Errors
    /// The edge has ended, or does not answer.
    pub(crate) fn sample(&mut self) -> anyhow::Result<()> {
        self.kernel_height = self.kernel_height.max(KernelMemory::read().tcp_bytes);
        let sample = self.edge.sample(false)?;
        take_time(&self.crowd, sample.offset_ns, sample.bound_us);
        Ok(())
    }

    /// Returns the highest memory in TCP buffers since the last call.
    pub(crate) fn take_kernel_height(&mut self) -> u64 {
        std::mem::take(&mut self.kernel_height)
    }

    /// Returns the highest memory of a confined edge, in bytes.
    pub(crate) fn confined_height(&self) -> Option<u64> {
        self.confinement.as_ref()?.height()
    }

    /// Returns authority time in milliseconds.
    pub(crate) fn now_ms(&self) -> anyhow::Result<i64> {
        let offset_ns = self.offset_ns()?;
        let now_ns = SystemClock.now().as_nanos();
        Ok(offset_ns.saturating_add_unsigned(now_ns) / 1_000_000)
    }

    /// Returns what the crowd has suffered since the last call. A tick that is late is waited for.
    pub(crate) fn take_harm(&mut self) -> anyhow::Result<Harm> {
        let due_ms = self.now_ms()?.div_euclid(1_000) * 1_000;
        self.crowd.take_harm(due_ms, SystemClock.now() + LATE_MAX)
    }

    /// Returns how the edge has ended; `None` if it runs.
    pub(crate) fn edge_end(&mut self) -> Option<String> {
        let status = self.edge.exited().ok().flatten()?;
        Some(status.to_string())
    }

    fn offset_ns(&self) -> anyhow::Result<i64> {
        let offset_ns = self.crowd.shared().offset_ns();
        offset_ns.context("the edge does not know the time")
    }

    /// Returns the next second of authority time whose tick is not due yet, in milliseconds.
    fn next_second_ms(&self) -> anyhow::Result<i64> {
        let after_boundary_ms = self.now_ms()? - BOUNDARY_MS;
        Ok((after_boundary_ms.div_euclid(1_000) + 1) * 1_000)
    }

    fn wait_until(&self, unix_ms: i64) -> anyhow::Result<()> {
        let wait_ms = u64::try_from(unix_ms - self.now_ms()?).unwrap_or(0);
        std::thread::sleep(Duration::from_millis(wait_ms));
        Ok(())
    }
}

fn admin_addr(edge: &EdgeProcess) -> anyhow::Result<SocketAddr> {
    edge.ready.admin.context("the edge has no admin port")
}

fn take_time(crowd: &Crowd, offset_ns: Option<i64>, bound_us: u32) {
    if let Some(offset_ns) = offset_ns {
        let error_ns = u64::from(bound_us) * 1_000 + READING_ERROR_NS;
        crowd.shared().set_offset(offset_ns, error_ns);
    }
}
