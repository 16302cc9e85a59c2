//! What every TickStorm daemon needs, whatever it does: its settings, its logs, its metrics, its admin port, and an orderly
//! start and stop. It knows no other crate of TickStorm, so that each of them can use it.

pub mod env;
pub mod logging;
