//! A load balancer in front of a Service, on a port of this host. It sends each new connection to a
//! pod that is ready and not terminating, and leaves existing connections alone. It notices late
//! that a pod is terminating, as real load balancers do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tickstorm_tests::manifests::{Labels, name};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::overlay::{Pods, RunningOverlay};
use crate::pod::Pod;
use crate::probe::named_port;

/// The time until the balancer notices that a pod is terminating. In a real cluster, the nodes must
/// notice first, and then a balancer that probes them.
const LAG: Duration = Duration::from_secs(2);

/// A balancer, which runs as long as its runtime.
pub(crate) struct Balancer {
    addr: SocketAddr,
    counts: Arc<BalancerCounts>,
}

#[derive(Default)]
struct BalancerCounts {
    accepted: AtomicUsize,
    /// The connections for which there was no pod, or whose pod did not accept them.
    refused: AtomicUsize,
    open: AtomicUsize,
}

/// The pods and the port that a Service sends connections to.
struct Target {
    pods: Pods,
    selector: Labels,
    port: String,
}

impl Balancer {
    /// Starts a balancer in front of the Service named `service`.
    pub(crate) async fn of(service: &str, overlay: &RunningOverlay) -> Self {
        let found = overlay
            .manifests
            .services
            .iter()
            .find(|one| name(&one.metadata) == service);
        let spec = found
            .and_then(|one| one.spec.clone())
            .unwrap_or_else(|| panic!("no Service is named {service}"));
        let Some(IntOrString::String(port)) = spec
            .ports
            .as_ref()
            .and_then(|ports| ports[0].target_port.clone())
        else {
            panic!("the Service {service} refers to no port of its pods by name");
        };
        let target = Target {
            pods: overlay.pods(),
            selector: spec.selector.unwrap_or_default(),
            port,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let balancer = Self {
            addr: listener.local_addr().unwrap(),
            counts: Arc::default(),
        };
        tokio::spawn(accept(listener, target, Arc::clone(&balancer.counts)));
        balancer
    }

    /// Returns the address that clients connect to.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns how many connections no pod accepted.
    pub(crate) fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// Returns how many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, target: Target, counts: Arc<BalancerCounts>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let turn = counts.accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve(client, target.addr(turn), Arc::clone(&counts)));
    }
}

async fn serve(mut client: TcpStream, to: Option<SocketAddr>, counts: Arc<BalancerCounts>) {
    let server = match to {
        Some(to) => TcpStream::connect(to).await.ok(),
        None => None,
    };
    let Some(mut server) = server else {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    counts.open.fetch_add(1, Ordering::Relaxed);
    // The reason why the connection ended does not matter.
    let _ = copy_bidirectional(&mut client, &mut server).await;
    counts.open.fetch_sub(1, Ordering::Relaxed);
}

impl Target {
    /// Returns the address of the pod that is next in turn, if any is available.
    fn addr(&self, turn: usize) -> Option<SocketAddr> {
        let pods = self.pods.lock().unwrap();
        let own = |pod: &&Arc<Pod>| {
            self.selector
                .iter()
                .all(|(key, value)| pod.labels.get(key) == Some(value))
        };
        let ready: Vec<_> = pods
            .iter()
            .filter(own)
            .filter(|pod| pod.is_ready() && !pod.is_terminating_for(LAG))
            .collect();
        let pod = ready.get(turn.checked_rem(ready.len())?)?;
        let port = named_port(&pod.container, &self.port)
            .try_into()
            .expect("a port");
        Some((pod.ip, port).into())
    }
}
