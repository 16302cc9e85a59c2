//! Attacks: what each connection of an attack does, how many there are, and what must hold
//! meanwhile. The `catalogue` lists all of them.

mod admin;
mod catalogue;
mod connections;
mod credentials;
mod floods;
mod frames;
mod proxy;
mod records;

use std::time::Duration;

use crate::bus::BusAttack;
use crate::script::{Script, Step};
use crate::swarm::Login;
use crate::wire;

pub(crate) use self::catalogue::ALL;

/// What scripts are made from.
#[derive(Clone, Debug)]
pub(crate) struct Ingredients {
    pub(crate) login: Login,
    pub(crate) tls: bool,
    /// Authority time at the start of the attack, in milliseconds.
    pub(crate) now_ms: i64,
    /// A ClientHello; empty without TLS.
    pub(crate) hello: Vec<u8>,
    /// The ids under which the admin port lists connections of honest clients.
    pub(crate) connection_ids: Vec<String>,
}

/// An attack.
#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// A sentence for `--help`.
    pub(crate) about: &'static str,
    pub(crate) scripts: fn(&Ingredients) -> Vec<Script>,
    /// The number of connections at a time.
    pub(crate) connections: Connections,
    pub(crate) target: Target,
    pub(crate) transports: Transports,
    pub(crate) kind: Kind,
    /// The settings of the edge, besides the usual ones.
    pub(crate) settings: &'static [(&'static str, &'static str)],
}

/// A number of hostile connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// In percent of `--hostile`.
    Percent(u32),
    Exactly(u32),
}

/// What the connections of an attack connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The edge's port for clients.
    Clients,
    /// The edge's admin port.
    Admin,
    /// The admin port, which must refuse every request of the attack.
    Operators,
}

/// The transports over which an attack is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transports {
    Any,
    PlainOnly,
    TlsOnly,
}

/// What is special about an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Usual,
    /// There is no attack: the row shows the noise of the measurement.
    Control,
    /// Hostile clients vanish without a FIN.
    Vanishing,
    /// The edge has room for half of the hostile clients only.
    FullEdge,
    /// The edge has descriptors for half of the hostile clients only.
    FewDescriptors,
    /// During the attack, the edge may open no file and accept no connection.
    NoDescriptors,
    /// The edge is in a cgroup of 1 GiB.
    Confined,
    /// The edge is restarted under a crowd of one address.
    Restart,
    /// The honest crowd is ten times as large.
    Crowded,
    /// The admin port has a token.
    Guarded,
    /// Somebody has stolen a login of NATS. Clocks and edges are daemons, and there is no edge in a
    /// child process.
    Bus(BusAttack),
}

impl Attack {
    /// Returns whether new clients must be served meanwhile. On a full edge they must be refused
    /// promptly instead.
    pub(crate) fn serves_new_clients(&self) -> bool {
        !matches!(self.kind, Kind::FullEdge | Kind::FewDescriptors)
    }

    /// Returns the attack with this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|attack| attack.name == name)
    }
}

/// Returns the scripts of all attacks that the usual edge can be under.
fn mixed(ingredients: &Ingredients) -> Vec<Script> {
    let all = ALL.iter().filter(|attack| {
        let fits = attack.transports == Transports::Any
            || (attack.transports == Transports::TlsOnly && ingredients.tls);
        let is_usual = matches!(attack.kind, Kind::Usual | Kind::Vanishing);
        fits && is_usual && attack.target == Target::Clients && attack.settings.is_empty()
    });
    // Attacks have different numbers of scripts, and each gets the same share of connections.
    const SCRIPTS_EACH: usize = 16;
    let per_attack: Vec<Vec<Script>> = all
        .map(|attack| {
            let mut scripts = (attack.scripts)(ingredients);
            // An edge soon answers the logins of an address late from which guesses come.
            let guesses = matches!(attack.name, "wrong-passwords" | "wrong-tokens");
            for script in &mut scripts {
                script.has_other_address = guesses;
            }
            scripts.into_iter().cycle().take(SCRIPTS_EACH).collect()
        })
        .collect();
    let rounds = 0..SCRIPTS_EACH;
    rounds
        .flat_map(|round| per_attack.iter().map(move |scripts| scripts[round].clone()))
        .collect()
}

/// Returns the steps of a login.
fn login() -> Script {
    Script::new([Step::ShakeHands, Step::Auth, Step::AwaitAck])
}

/// Returns the steps of a login and a subscription whose ticks do not coincide with those of honest
/// clients.
fn subscription() -> Script {
    login().then([Step::Send(wire::subscribe_quiet().into()), Step::AwaitAck])
}

/// Returns a script that sends bytes at the start of a connection, after the TLS handshake.
fn opening(bytes: Vec<u8>) -> Script {
    Script::new([Step::ShakeHands, Step::Send(bytes.into())])
}

/// Returns bytes without their last one.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.pop();
    bytes
}

/// A client may send ten frames per second; this interval is a little longer than a tenth.
const FRAME_INTERVAL: Duration = Duration::from_millis(105);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(super) fn ingredients(tls: bool) -> Ingredients {
        Ingredients {
            login: Login {
                user: "user".into(),
                password: "secret".into(),
            },
            tls,
            now_ms: 1_770_091_506_000,
            hello: if tls { vec![0x16; 300] } else { Vec::new() },
            connection_ids: vec!["1".into()],
        }
    }

    /// Returns the bytes that the script sends before it waits for an answer, and after it.
    pub(super) fn sent(script: &Script) -> Vec<Vec<u8>> {
        let steps = script.steps.iter();
        steps
            .filter_map(|step| match step {
                Step::Send(bytes) | Step::Trickle(bytes, _) | Step::KeyUpdate(bytes) => {
                    Some(bytes.to_vec())
                }
                Step::ShakeHands
                | Step::HalfHandshake
                | Step::Auth
                | Step::EmptyRecord
                | Step::ForgedRecord
                | Step::AwaitAck
                | Step::Served
                | Step::Pause(_)
                | Step::Repeat { .. }
                | Step::StopReading
                | Step::HalfClose
                | Step::Close
                | Step::Reset
                | Step::Hold => None,
            })
            .collect()
    }

    #[test]
    fn every_attack_has_a_name_of_its_own_and_scripts_for_its_transports() {
        let names: BTreeSet<_> = ALL.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ALL.len());
        let with_scripts = |attack: &&Attack| !matches!(attack.kind, Kind::Control | Kind::Bus(_));
        for attack in ALL.iter().filter(with_scripts) {
            for tls in [false, true] {
                let fits = match attack.transports {
                    Transports::Any => true,
                    Transports::PlainOnly => !tls,
                    Transports::TlsOnly => tls,
                };
                let scripts = (attack.scripts)(&ingredients(tls));
                assert!(!fits || !scripts.is_empty(), "{}", attack.name);
            }
        }
    }

    #[test]
    fn a_repeated_step_takes_time() {
        for attack in ALL {
            for script in (attack.scripts)(&ingredients(true)) {
                for step in &script.steps {
                    if let Step::Repeat { every, .. } = step {
                        assert!(*every >= Duration::from_millis(10), "{}", attack.name);
                    }
                }
            }
        }
    }

    #[test]
    fn the_mix_has_equal_shares_of_all_attacks() {
        let scripts = mixed(&ingredients(true));
        assert_eq!(scripts.len() % 16, 0);
        let guesses = scripts.iter().filter(|script| script.has_other_address);
        assert_eq!(guesses.count(), 32);
        assert!(mixed(&ingredients(false)).len() < scripts.len());
    }
}
