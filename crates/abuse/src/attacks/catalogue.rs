//! The catalogue of attacks.

use super::{
    Attack, Connections, Ingredients, Kind, Target, Transports, admin, connections, credentials,
    floods, frames, proxy, records,
};
use crate::bus::BusAttack;
use crate::script::Script;

const fn attack(
    name: &'static str,
    about: &'static str,
    scripts: fn(&Ingredients) -> Vec<Script>,
) -> Attack {
    Attack {
        name,
        about,
        scripts,
        connections: Connections::Percent(100),
        target: Target::Clients,
        transports: Transports::Any,
        kind: Kind::Usual,
        settings: &[],
    }
}

const fn on_admin(
    name: &'static str,
    about: &'static str,
    connections: u32,
    scripts: fn(&Ingredients) -> Vec<Script>,
) -> Attack {
    Attack {
        connections: Connections::Exactly(connections),
        target: Target::Admin,
        transports: Transports::PlainOnly,
        ..attack(name, about, scripts)
    }
}

const fn on_bus(name: &'static str, about: &'static str, theft: BusAttack) -> Attack {
    Attack {
        connections: Connections::Exactly(1),
        transports: Transports::PlainOnly,
        kind: Kind::Bus(theft),
        ..attack(name, about, |_| vec![])
    }
}

/// All attacks. Those that need an edge with settings of its own come last.
pub(crate) const ALL: &[Attack] = &[
    Attack {
        kind: Kind::Control,
        ..attack(
            "none",
            "Nothing: shows the noise of the measurement",
            |_| vec![],
        )
    },
    Attack {
        connections: Connections::Percent(200),
        ..attack("silent", "Connect and send nothing", connections::silent)
    },
    attack("trickle", "Send one byte per second", connections::trickle),
    Attack {
        connections: Connections::Percent(20),
        ..attack("churn", "Connect and close, or reset", connections::churn)
    },
    attack(
        "claimed-length",
        "Claim a payload of 4 GiB",
        frames::claimed_length,
    ),
    attack(
        "half-auth",
        "Leave out the last byte of the largest AUTH",
        frames::half_auth,
    ),
    attack(
        "half-frames",
        "Log in; leave out the last byte of a 4 KiB frame",
        frames::half_frames,
    ),
    attack(
        "half-ignorable",
        "Log in; leave out the last byte of an ignorable 64 KiB frame",
        frames::half_ignorable,
    ),
    attack("random-bytes", "Send random bytes", frames::random_bytes),
    attack(
        "wrong-order",
        "Send valid frames in a wrong order",
        frames::wrong_order,
    ),
    attack(
        "heartbeats",
        "Send HEARTBEAT as fast as allowed, and faster",
        floods::heartbeats,
    ),
    attack(
        "subscribes",
        "Send SUBSCRIBE as fast as allowed, and faster",
        floods::subscribes,
    ),
    attack(
        "resumes",
        "Request full replays as fast as allowed, and faster",
        floods::resumes,
    ),
    attack(
        "never-reading",
        "Provoke output and never read it",
        floods::never_reading,
    ),
    attack(
        "zero-windows",
        "Do the same with the smallest receive buffer",
        floods::zero_windows,
    ),
    attack(
        "resets",
        "Reset the connection in every state",
        connections::resets,
    ),
    attack(
        "half-closes",
        "Half-close the connection in every state",
        connections::half_closes,
    ),
    Attack {
        kind: Kind::Vanishing,
        ..attack(
            "half-open",
            "Vanish in every state, without FIN",
            connections::half_open,
        )
    },
    Attack {
        transports: Transports::TlsOnly,
        ..attack(
            "hello",
            "Send a ClientHello, or half of one, and nothing more",
            records::hello,
        )
    },
    Attack {
        transports: Transports::TlsOnly,
        ..attack(
            "tls-garbage",
            "Send records that are no TLS",
            records::garbage,
        )
    },
    Attack {
        transports: Transports::TlsOnly,
        ..attack(
            "key-updates",
            "Request a KeyUpdate with every frame",
            records::key_updates,
        )
    },
    Attack {
        transports: Transports::TlsOnly,
        ..attack(
            "empty-records",
            "Send records without content",
            records::empty_records,
        )
    },
    on_admin(
        "admin-slow",
        "Send half of an HTTP request to the admin port, on 150 connections",
        150,
        admin::slow,
    ),
    on_admin(
        "admin-slow-400",
        "Do the same on 400 connections",
        400,
        admin::slow,
    ),
    on_admin(
        "admin-metrics",
        "Request /metrics in a loop, on 32 connections",
        32,
        admin::scrape,
    ),
    Attack {
        target: Target::Operators,
        ..on_admin(
            "admin-foreign",
            "List and close connections with a foreign Host or Origin",
            16,
            admin::foreign,
        )
    },
    Attack {
        connections: Connections::Percent(10),
        kind: Kind::NoDescriptors,
        ..attack(
            "emfile",
            "Connect while the edge has no descriptor left",
            connections::silent,
        )
    },
    // After these, an edge answers the addresses of the attack late.
    attack(
        "wrong-passwords",
        "Guess passwords",
        credentials::wrong_passwords,
    ),
    attack("wrong-tokens", "Guess tokens", credentials::wrong_tokens),
    Attack {
        kind: Kind::FullEdge,
        ..attack(
            "full",
            "Log in until MAX_CONNECTIONS is reached",
            connections::hold,
        )
    },
    Attack {
        kind: Kind::FewDescriptors,
        ..attack(
            "descriptors",
            "Log in until the edge's descriptors are used up",
            connections::hold,
        )
    },
    Attack {
        kind: Kind::Guarded,
        target: Target::Operators,
        ..on_admin(
            "admin-token",
            "List and close connections without the admin token",
            16,
            admin::without_token,
        )
    },
    Attack {
        kind: Kind::Crowded,
        ..on_admin(
            "admin-list",
            "List all connections of ten times the crowd in a loop, on 16 connections",
            16,
            admin::list,
        )
    },
    Attack {
        kind: Kind::Crowded,
        ..on_admin(
            "admin-unread",
            "Request the longest answers of the admin port, and do not read them",
            64,
            admin::unread,
        )
    },
    Attack {
        settings: &[("PROXY_PROTOCOL", "on"), ("PROXY_TRUSTED", "10.0.0.0/8")],
        ..attack(
            "proxy-untrusted",
            "Send PROXY headers from anywhere",
            proxy::from_anywhere,
        )
    },
    Attack {
        settings: &[
            ("PROXY_PROTOCOL", "on"),
            ("PROXY_TRUSTED", crate::addresses::HOSTILE_NETWORK),
        ],
        ..attack(
            "proxy-trusted",
            "Send wrong PROXY headers as a balancer",
            proxy::from_a_balancer,
        )
    },
    Attack {
        kind: Kind::Confined,
        ..attack(
            "mixed",
            "Do all of the above at the same time, in 1 GiB",
            super::mixed,
        )
    },
    Attack {
        kind: Kind::Restart,
        connections: Connections::Percent(20),
        transports: Transports::PlainOnly,
        ..attack(
            "restart",
            "Guess passwords at the address of a crowd that comes back after a restart",
            credentials::wrong_passwords,
        )
    },
    on_bus(
        "bus-names",
        "With a clock's login, announce and answer in the names of the others",
        BusAttack::OtherNames,
    ),
    on_bus(
        "bus-seconds",
        "Take a clock's place; its time is 5 s ahead, then 5 s behind",
        BusAttack::SecondsOff,
    ),
    on_bus(
        "bus-hours",
        "Take a clock's place; its time is 1 h ahead, then 1 h behind",
        BusAttack::HoursOff,
    ),
    on_bus(
        "bus-flood",
        "With a clock's login, announce as fast as possible",
        BusAttack::Announcements,
    ),
    on_bus(
        "bus-answers",
        "With a clock's login, send answers to all edges as fast as possible",
        BusAttack::Answers,
    ),
    on_bus(
        "bus-malformed",
        "With a clock's login, send noise, cut messages and extreme numbers",
        BusAttack::Malformed,
    ),
    on_bus(
        "bus-huge",
        "With a clock's login, send messages as long as NATS allows, and longer ones",
        BusAttack::Huge,
    ),
    on_bus(
        "bus-posing",
        "With an edge's login, announce and answer in the clocks' names",
        BusAttack::Posing,
    ),
    on_bus(
        "bus-requests",
        "With an edge's login, ask for the time 100,000 times per second",
        BusAttack::Requests,
    ),
    on_bus(
        "bus-borrowed",
        "Do the same on the reply subjects of the other edges",
        BusAttack::BorrowedRequests,
    ),
    on_bus(
        "bus-subscriptions",
        "With an edge's login, subscribe to the same subject 20,000 times per second",
        BusAttack::Subscriptions,
    ),
];
