//! The balancer before a Service, on a port of this host: it sends each new connection to a pod that is ready and does not
//! end, and lets those be that it has. Of a pod's end it hears late, as balancers do.

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

/// How late it hears of a pod's end: nodes and a balancer that asks them have to hear of it first.
const LAG: Duration = Duration::from_secs(2);

/// A balancer that runs as long as its runtime does.
pub(crate) struct Balancer {
    addr: SocketAddr,
    counts: Arc<BalancerCounts>,
}

#[derive(Default)]
struct BalancerCounts {
    accepted: AtomicUsize,
    /// For which there was no pod, or one that did not take them.
    refused: AtomicUsize,
    open: AtomicUsize,
}

/// Where a Service sends connections.
struct Target {
    pods: Pods,
    selector: Labels,
    port: String,
}

impl Balancer {
    /// In front of the Service of that name.
    pub(crate) async fn of(service: &str, overlay: &RunningOverlay) -> Self {
        let found = overlay
            .manifests
            .services
            .iter()
            .find(|one| name(&one.metadata) == service);
        let spec = found
            .and_then(|one| one.spec.clone())
            .unwrap_or_else(|| panic!("no Service {service}"));
        let Some(IntOrString::String(port)) = spec
            .ports
            .as_ref()
            .and_then(|ports| ports[0].target_port.clone())
        else {
            panic!("{service} names no port of its pods");
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

    /// Where clients connect to.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections no pod took.
    pub(crate) fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// How many connections there are now.
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
    // However it ends, it has ended.
    let _ = copy_bidirectional(&mut client, &mut server).await;
    counts.open.fetch_sub(1, Ordering::Relaxed);
}

impl Target {
    /// The pod whose turn it is.
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
            .filter(|pod| pod.is_ready() && !pod.is_ending_for(LAG))
            .collect();
        let pod = ready.get(turn.checked_rem(ready.len())?)?;
        let port = named_port(&pod.container, &self.port)
            .try_into()
            .expect("a port");
        Some((pod.ip, port).into())
    }
}
