//! Attacks on the bus: somebody has stolen the login of a clock or of an edge. They take place on a
//! stage of their own: a NATS server with permissions, and clocks and edges as daemons, each with
//! its own login.

mod attack;
mod daemon;
mod evidence;
mod figures;
mod nats;
mod run;
mod server;
mod stage;
mod theft;
mod thief;

pub(crate) use self::attack::BusAttack;
pub(crate) use self::figures::BusFigures;
pub(crate) use self::run::run;
pub(crate) use self::theft::{COMMAND, run as run_thief};
