//! Tests of the trail of one client: the id that it is told, and the log lines about its
//! connection.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Mutex;

use serde_json::Value;
use tickstorm_service::env::Value as _;
use tickstorm_service::logging::{Level, LogFormat, dispatch};
use tracing::dispatcher::with_default;

use super::*;
use crate::networks::Networks;
use crate::shard::{DebuggedClient, DebuggedConnections};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the events that are written meanwhile by a log of this level.
fn logged(level: Level, during: impl FnOnce()) -> Vec<Value> {
    let lines = Lines::default();
    let writer = lines.clone();
    let (dispatch, _) = dispatch(level, LogFormat::Json, move || writer.clone());
    with_default(&dispatch, during);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let events = text.lines().map(serde_json::from_str);
    events.collect::<Result<_, _>>().unwrap()
}

fn messages(events: &[Value]) -> Vec<&str> {
    let messages = events.iter().map(|event| event["message"].as_str());
    messages.collect::<Option<_>>().unwrap()
}

impl Sim {
    /// Debugs the clients at these networks.
    fn debug(&mut self, networks: &str) {
        let networks: Vec<_> = networks.split(' ').collect();
        let clients = networks.into_iter().map(|network| DebuggedClient {
            name: network.into(),
            connections: DebuggedConnections::From(Networks::parse(network, &()).unwrap()),
        });
        self.shard.driver.env.debugged = clients.collect();
    }

    fn connect_at(&self, from: &str) -> RawFd {
        self.script
            .connect_from(Some(from.parse::<IpAddr>().unwrap()))
    }

    /// Connects a client that logs in, subscribes, and is closed for a frame that it must not send.
    fn whole_life(&mut self, from: &str) -> RawFd {
        let client = self.connect_at(from);
        self.script.client_sends(client, &auth("pass"));
        let bytes = subscribe(Mode::Second, true, None);
        self.script.client_sends(client, &bytes);
        self.run_for(SECOND);
        self.script.client_sends(client, &auth("pass"));
        self.run_for(MS);
        client
    }

    /// Returns the ids in the first ACK and the last ERROR of a client.
    fn ids(&self, client: RawFd) -> (String, String) {
        let frames = self.frames(client);
        let ack: Ack = frames[0].decode();
        let error: ErrorMsg = frames.last().unwrap().decode();
        (ack.connection_id, error.connection_id)
    }
}

const LIFE: [&str; 5] = [
    "connection accepted",
    "authenticated",
    "subscribed",
    "connection closed",
    "sending ERROR",
];

#[test]
fn ack_error_and_log_have_one_id_which_no_other_connection_has() {
    let mut sim = Sim::new(settings());
    let mut ids = Vec::new();
    let events = logged(Level::Debug, || {
        for from in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
            let client = sim.whole_life(from);
            let (id, in_error) = sim.ids(client);
            assert_eq!(id, in_error);
            assert!(!ids.contains(&id), "{id} is there twice");
            ids.push(id);
        }
    });
    for id in &ids {
        let own: Vec<_> = events
            .iter()
            .filter(|event| event["connection"] == **id)
            .collect();
        let messages: Vec<_> = own
            .iter()
            .map(|event| event["message"].as_str().unwrap())
            .collect();
        assert_eq!(messages, LIFE, "{events:#?}");
        for event in own {
            assert!(
                event["peer"].as_str().unwrap().starts_with("192.0.2."),
                "{event}"
            );
            assert_eq!(event["level"], "DEBUG");
            assert_eq!(event.get("debug"), None, "nobody debugs a client");
        }
    }
    assert_eq!(
        events.len(),
        ids.len() * LIFE.len(),
        "each line has an id: {events:#?}"
    );
}

#[test]
fn only_the_ack_of_auth_has_the_id_and_the_frame_rate() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Second, false);
    let acks: Vec<Ack> = sim.frames(client).iter().map(RawFrame::decode).collect();
    assert_eq!(acks[0].frame_rate_limit, 10);
    let admission = &sim.shard.driver.env.commons.admission;
    assert_eq!(admission.number_of(&acks[0].connection_id), Ok(1));
    assert_eq!(acks[1].acked_type, 2);
    assert_eq!((&*acks[1].connection_id, acks[1].frame_rate_limit), ("", 0));
}

#[test]
fn an_error_before_there_is_a_session_has_an_id_too() {
    let limits = AdmissionLimits {
        connections: 1,
        ..AdmissionLimits::NONE
    };
    let mut sim = Sim::with_limits(settings(), limits);
    sim.debug("192.0.2.9/32");
    let events = logged(Level::Info, || {
        let _client = sim.subscriber(Mode::Second, false);
        let refused = sim.connect_at("192.0.2.9");
        sim.run_for(MS);
        let error: ErrorMsg = sim.frames(refused)[0].decode();
        assert_eq!(error.code, "SERVER_FULL");
        let admission = &sim.shard.driver.env.commons.admission;
        assert_eq!(admission.number_of(&error.connection_id), Ok(2));
    });
    assert_eq!(messages(&events), ["connection refused", "sending ERROR"]);
    assert_eq!(events[0]["reason"], "server_full");
    assert_eq!(events[0]["connection"], events[1]["connection"]);
}

/// The lines of other clients, and lines that come twice, would make them hard to find.
#[test]
fn a_debugged_client_has_each_line_once_at_the_level_in_force_and_others_have_none() {
    for (level, shown) in [
        (Level::Error, "ERROR"),
        (Level::Warn, "WARN"),
        (Level::Info, "INFO"),
        (Level::Debug, "DEBUG"),
    ] {
        let mut sim = Sim::new(settings());
        sim.debug("10.0.0.0/8 2001:db8::/64");
        let events = logged(level, || {
            for from in [
                "10.1.2.3",
                "192.0.2.1",
                "::ffff:10.1.2.4",
                "2001:db8::7",
                "2001:db9::7",
            ] {
                sim.whole_life(from);
            }
        });
        let marked = events.into_iter();
        let marked = marked.filter(|event| event.get("debug").is_some());
        let marked: Vec<Value> = marked.collect();
        assert_eq!(
            messages(&marked),
            [LIFE; 3].concat(),
            "{level:?}: {marked:#?}"
        );
        for (index, event) in marked.iter().enumerate() {
            assert_eq!(event["level"], shown, "{event}");
            let name = ["10.0.0.0/8", "2001:db8::/64"][index / (2 * LIFE.len())];
            assert_eq!(event["debug"], name, "{event}");
        }
    }
}

#[test]
fn at_info_a_client_that_is_cut_off_has_one_line_and_one_that_leaves_has_none() {
    let mut sim = Sim::new(settings());
    sim.debug("192.0.2.1/32");
    sim.shard.driver.env.debugged = crate::shard::DebugList::default();
    let mut id = String::new();
    let events = logged(Level::Info, || {
        let leaves = sim.subscriber(Mode::Second, false);
        sim.script.client_ends(leaves);
        let unknown = sim.connect_at("192.0.2.1");
        sim.script.client_sends(unknown, &auth("wrong"));
        let cut_off = sim.whole_life("192.0.2.1");
        id = sim.ids(cut_off).0;
    });
    assert_eq!(messages(&events), ["connection closed"]);
    let [closed] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(closed["level"], "INFO");
    assert_eq!(closed["connection"], *id);
    assert_eq!(closed["reason"], "already_authenticated");
    assert_eq!(closed["not_logged"], 0);
    assert_eq!(closed.get("debug"), None);
}

#[test]
fn when_many_clients_are_cut_off_the_log_says_how_many_it_leaves_out() {
    let mut sim = Sim::new(settings());
    let mut cut_off = |clients: usize| {
        logged(Level::Info, || {
            for _ in 0..clients {
                let client = sim.subscriber(Mode::Minute, false);
                sim.script.client_sends(client, &auth("pass"));
                sim.run_for(MS);
            }
            sim.run_for(61 * SECOND);
        })
    };
    assert_eq!(messages(&cut_off(70)), ["connection closed"; 60]);
    let later = cut_off(2);
    let not_logged: Vec<_> = later.iter().map(|event| &event["not_logged"]).collect();
    assert_eq!(not_logged, [10, 0], "{later:#?}");
}

#[test]
fn a_drain_writes_no_line_for_each_client() {
    let mut sim = Sim::new(settings());
    for _ in 0..20 {
        sim.subscriber(Mode::Second, false);
    }
    let events = logged(Level::Info, || {
        sim.drain(SECOND);
        sim.run_for(3 * SECOND);
    });
    assert_eq!(sim.closed("server_draining"), 20);
    assert!(events.is_empty(), "{events:#?}");
}

#[test]
fn a_connection_that_is_open_already_can_be_debugged_and_its_end_says_what_there_was() {
    let mut sim = Sim::new(settings());
    let client = sim.subscriber(Mode::Minute, true);
    let _other = sim.subscriber(Mode::Minute, true);
    let ack: Ack = sim.frames(client)[0].decode();
    let id = ack.connection_id;
    let number = sim
        .shard
        .driver
        .env
        .commons
        .admission
        .number_of(&id)
        .unwrap();
    let client = DebuggedClient {
        name: (&*id).into(),
        connections: DebuggedConnections::One(number),
    };
    sim.shard.driver.env.debugged = [client].into_iter().collect();
    let mut events = logged(Level::Info, || sim.run_for(21 * SECOND));
    // The other client is cut off as well.
    events.retain(|event| event.get("debug").is_some());
    assert_eq!(messages(&events), ["connection closed", "sending ERROR"]);
    let [closed, error] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(closed["reason"], "heartbeat_timeout");
    assert_eq!(closed["identity"], "user");
    assert_eq!(
        (&closed["mode"], &closed["ahead"]),
        (&"minute".into(), &true.into())
    );
    let lasted_ms = closed["lasted_ms"].as_u64().unwrap();
    assert!((20_000..21_000).contains(&lasted_ms), "{closed}");
    assert_eq!(closed["backlog_frames"], 0);
    assert_eq!(error["code"], "HEARTBEAT_TIMEOUT");
    assert!(
        error["error"].as_str().unwrap().starts_with("no HEARTBEAT"),
        "{error}"
    );
    assert!(error["retry_after_ms"].as_u64().unwrap() > 0, "{error}");
    for event in &events {
        assert!(
            event["debug"] == *id && event["connection"] == *id,
            "{event}"
        );
    }
}
