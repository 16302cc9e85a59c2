//! A NATS server in a container. testcontainers drives the engine on a separate runtime: the calls
//! here block, so that tests of any kind can make them, and no container outlives its test.

use std::sync::{Arc, LazyLock, OnceLock, mpsc};
use std::time::Duration;

use testcontainers::bollard::query_parameters::KillContainerOptions;
use testcontainers::core::client::{ClientError, docker_client_instance};
use testcontainers::core::{CmdWaitFor, ExecCommand, IntoContainerPort};
use testcontainers::runners::AsyncRunner;
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt, TestcontainersError,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{CHOICE, ClusterMember, NatsPlan, RunningNats, VERSION};

/// The image's name; `cargo xtask test` can build a stand-in.
const IMAGE: &str = "nats";

/// The ports on which the server listens for clients, and for the other servers of its cluster.
const CLIENTS_PORT: u16 = 4222;
const ROUTES_PORT: u16 = 6222;

/// The time that an engine may take to answer. A running engine takes milliseconds.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// A server, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct NatsContainer {
    plan: NatsPlan,
    /// Created by the first start.
    container: OnceLock<Arc<ContainerAsync<GenericImage>>>,
}

/// Returns whether there is an engine to run containers.
pub(super) fn engine_answers() -> bool {
    let ping = async {
        let engine = docker_client_instance().await.ok()?;
        engine.ping().await.ok()
    };
    let answer = wait_for(async { timeout(ANSWER_BOUND, ping).await });
    matches!(answer, Ok(Some(_)))
}

/// Describes server number `index` of a cluster, whose name is that of its network.
pub(super) fn member(cluster: &str, index: usize) -> ClusterMember {
    let name = format!("{cluster}-{index}");
    ClusterMember {
        listen: format!("nats://0.0.0.0:{ROUTES_PORT}"),
        route: format!("nats://{name}:{ROUTES_PORT}"),
        network: Some((cluster.to_owned(), name)),
    }
}

impl NatsContainer {
    pub(super) fn new(plan: NatsPlan) -> Self {
        Self {
            plan,
            container: OnceLock::new(),
        }
    }

    fn container(&self) -> Arc<ContainerAsync<GenericImage>> {
        Arc::clone(self.container.get().expect("the server was started before"))
    }

    /// Returns the request to the engine. The port is fixed, since the engine would otherwise
    /// choose another one at each start.
    fn request(&self) -> ContainerRequest<GenericImage> {
        let addr = self.plan.addr;
        let mut request = GenericImage::new(IMAGE, &tag())
            .with_cmd(self.plan.flags.clone())
            .with_mapped_port(addr.port(), CLIENTS_PORT.tcp())
            .with_host_config_modifier(move |host| {
                let bindings = host
                    .port_bindings
                    .iter_mut()
                    .flat_map(|by_port| by_port.values_mut());
                for binding in bindings.flatten().flatten() {
                    binding.host_ip = Some(addr.ip().to_string());
                }
            });
        for (path, content) in &self.plan.files {
            request = request.with_copy_to(path, content.clone());
        }
        if let Some((network, name)) = &self.plan.network {
            request = request.with_network(network).with_container_name(name);
        }
        request
    }
}

impl RunningNats for NatsContainer {
    fn start(&self) {
        if let Some(container) = self.container.get() {
            let container = Arc::clone(container);
            on_engine(async move { container.start().await });
        } else {
            let request = self.request();
            let container = on_engine(async move { request.start().await });
            let stored = self.container.set(Arc::new(container));
            assert!(stored.is_ok(), "only one thread starts a server");
        }
    }

    fn assert_runs(&self) {
        // testcontainers fails to start a container that exits immediately.
    }

    fn kill(&self) {
        let container = self.container();
        on_engine(async move {
            let engine = docker_client_instance().await?;
            let killed = engine.kill_container(container.id(), None).await;
            killed.map_err(|error| ClientError::StopContainer(error).into())
        });
    }

    fn pause(&self) {
        let container = self.container();
        on_engine(async move { container.pause().await });
    }

    fn unpause(&self) {
        let container = self.container();
        on_engine(async move { container.unpause().await });
    }

    fn reload(&self, path: &str, content: &str) {
        let (container, write) = (self.container(), write(path, content));
        on_engine(async move {
            container.exec(write).await?;
            let engine = docker_client_instance().await?;
            let hang_up = KillContainerOptions {
                signal: "HUP".to_owned(),
            };
            let sent = engine.kill_container(container.id(), Some(hang_up)).await;
            sent.map_err(|error| ClientError::StopContainer(error).into())
        });
    }
}

/// Returns the command that writes a file in a container.
fn write(path: &str, content: &str) -> ExecCommand {
    let script = format!("cat > {path} <<'END OF FILE'\n{content}\nEND OF FILE\n");
    ExecCommand::new(["sh", "-c", &script]).with_cmd_ready_condition(CmdWaitFor::exit_code(0))
}

impl Drop for NatsContainer {
    fn drop(&mut self) {
        let container = self.container.take().and_then(Arc::into_inner);
        if let Some(container) = container {
            // Best effort: a drop must not panic, and a container left behind shows in `docker ps`.
            // The network is removed with the last container on it.
            let _ = wait_for(async move { container.rm().await });
        }
    }
}

fn tag() -> String {
    format!("{VERSION}-alpine")
}

/// Waits for a request to the engine and panics if it fails.
fn on_engine<T: Send + 'static>(
    request: impl Future<Output = Result<T, TestcontainersError>> + Send + 'static,
) -> T {
    wait_for(request).unwrap_or_else(|error| {
        panic!(
            "this test runs NATS in a container: start a Docker engine that has or can pull the \
             image {IMAGE}:{} (if it can't be pulled, TICKSTORM_STAND_INS=1 cargo xtask test tests \
             builds a local one), or set {CHOICE}=process: {error}",
            tag()
        )
    })
}

/// Waits for `future` on a runtime that outlives every test, since the connections to the engine
/// belong to it.
fn wait_for<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        runtime.expect("the runtime's thread can be started")
    });
    let (done, outcome) = mpsc::sync_channel(1);
    RUNTIME.spawn(async move {
        // The receiver waits below.
        let _ = done.send(future.await);
    });
    outcome.recv().expect("the future does not panic")
}
