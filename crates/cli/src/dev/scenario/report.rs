//! [`Report`]: prints what happens in scenarios, for people or as JSON. The JSON is a contract.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use serde_json::{Value, json};
use tickstorm_command::{Failure, OUTPUT};

use super::rule::Fault;
use super::script::Scenario;
use crate::follow::print;

/// The output of one run.
pub(super) struct Report {
    is_json: bool,
    scenario: &'static str,
    faults: usize,
}

impl Report {
    pub(super) fn new(is_json: bool) -> Self {
        Self {
            is_json,
            scenario: "",
            faults: 0,
        }
    }

    pub(super) fn listening(&self, addr: SocketAddr) -> Result<(), Failure> {
        self.line(
            || format!("listening on {addr}"),
            || json!({"event": "listening", "addr": addr.to_string()}),
        )
    }

    pub(super) fn begin(&mut self, scenario: Scenario) -> Result<(), Failure> {
        (self.scenario, self.faults) = (scenario.name(), 0);
        self.line(
            || format!("scenario {}: begins", self.scenario),
            || json!({"event": "begin", "scenario": self.scenario}),
        )
    }

    pub(super) fn note(&self, text: &str) -> Result<(), Failure> {
        self.line(
            || format!("scenario {}: {text}", self.scenario),
            || json!({"event": "note", "scenario": self.scenario, "message": text}),
        )
    }

    pub(super) fn fault(&mut self, fault: &Fault) -> Result<(), Failure> {
        self.faults += 1;
        self.line(
            || format!("FAULT: {fault}"),
            || {
                json!({
                    "event": "fault",
                    "scenario": self.scenario,
                    "rule": fault.rule.to_string(),
                    "message": fault.message,
                })
            },
        )
    }

    /// Ends a scenario, and returns the number of its faults.
    pub(super) fn end(&self, scenario: Scenario) -> Result<usize, Failure> {
        let name = scenario.name();
        let outcome = match self.faults {
            0 => "passed".to_owned(),
            1 => "1 fault".to_owned(),
            faults => format!("{faults} faults"),
        };
        self.line(
            || format!("scenario {name}: {outcome}"),
            || json!({"event": "end", "scenario": name, "faults": self.faults}),
        )?;
        Ok(self.faults)
    }

    /// Prints a line. A closed pipe ends the program, since nobody would see the outcome.
    fn line(
        &self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        let line = if self.is_json {
            json().to_string()
        } else {
            text()
        };
        match print(&line)? {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                let text = "standard output is closed";
                Err(Failure::message(OUTPUT, text.into()))
            }
        }
    }
}
