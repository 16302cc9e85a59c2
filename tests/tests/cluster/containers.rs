//! The privileges of the cluster's containers, and how they stop.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use tickstorm_tests::clients::Clients;

use crate::engine::{all_containers, client_addr, ensure_ready};

#[test]
fn no_container_has_root_a_writable_root_or_a_capability() {
    ensure_ready();
    for container in all_containers() {
        let inspected = container.inspect();
        let host = &inspected["HostConfig"];
        assert_eq!(host["ReadonlyRootfs"], true, "{container}");
        assert_eq!(host["Privileged"], false, "{container}");
        assert!(host["CapAdd"].is_null(), "{container}: {}", host["CapAdd"]);
        for pid in container.pids() {
            let status = ProcStatus::of(pid);
            // The real, effective, saved and file system ids of the user and the group.
            for ids in [status.field("Uid"), status.field("Gid")] {
                assert!(
                    ids.split_whitespace().all(|id| id != "0"),
                    "{container}: {ids}"
                );
            }
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                let set = status.field(set);
                assert!(set.chars().all(|digit| digit == '0'), "{container}: {set}");
            }
            assert_eq!(status.field("NoNewPrivs"), "1", "{container}");
        }
    }
}

#[test]
fn every_container_stops_within_its_grace_period_with_exit_code_0() {
    ensure_ready();
    // The load balancer must also stop if it has connections.
    let _clients = Clients::connect(client_addr(), 20);
    let stopping: Vec<_> = all_containers()
        .into_iter()
        .map(|container| {
            thread::spawn(move || {
                // After the grace period the engine kills the container, whose exit code is then
                // 137.
                container.stop();
                container
            })
        })
        .collect();
    for stopped in stopping {
        let container = stopped.join().unwrap();
        let state = container.inspect()["State"].clone();
        assert_eq!(state["Running"], false, "{container}");
        assert_eq!(state["ExitCode"], 0, "{container}: {state}");
    }
}

/// The fields of `/proc/<pid>/status`.
struct ProcStatus(BTreeMap<String, String>);

impl ProcStatus {
    fn of(pid: u64) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(
            fields
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    fn field(&self, name: &str) -> &str {
        &self.0[name]
    }
}
