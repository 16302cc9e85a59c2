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
    /// The faults in this scenario.
    faults: usize,
    /// The faults in all scenarios.
    all_faults: usize,
    /// The scenarios that have ended.
    ended: Vec<&'static str>,
}

impl Report {
    pub(super) fn new(is_json: bool) -> Self {
        Self {
            is_json,
            scenario: "",
            faults: 0,
            all_faults: 0,
            ended: Vec::new(),
        }
    }

    pub(super) fn listening(&self, addr: SocketAddr, login: &str) -> Result<(), Failure> {
        self.line(
            || format!("listening on {addr}\nlogin: {login}"),
            || json!({"event": "listening", "addr": addr.to_string(), "login": login}),
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
        self.all_faults += 1;
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

    /// Ends the scenario.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        self.ended.push(self.scenario);
        let (name, faults) = (self.scenario, self.faults);
        self.line(
            || match faults {
                0 => format!("scenario {name}: passed"),
                faults => format!("scenario {name}: {}", counted(faults)),
            },
            || json!({"event": "end", "scenario": name, "faults": faults}),
        )
    }

    /// Ends the scenario because a signal arrived.
    pub(super) fn interrupted(&self) -> Result<(), Failure> {
        let (name, faults) = (self.scenario, self.faults);
        if name.is_empty() || self.ended.contains(&name) {
            return Ok(());
        }
        let faults_text = counted(faults);
        self.line(
            || format!("interrupted\nscenario {name}: not played to its end, {faults_text}"),
            || json!({"event": "end", "scenario": name, "faults": faults, "interrupted": true}),
        )
    }

    /// Lists the scenarios of `all` that have not ended, and returns their number.
    pub(super) fn unplayed(&self, all: &[Scenario]) -> Result<usize, Failure> {
        let names = all.iter().map(|scenario| scenario.name());
        let unplayed: Vec<_> = names.filter(|name| !self.ended.contains(name)).collect();
        if !unplayed.is_empty() {
            self.line(
                || format!("not played to the end: {}", unplayed.join(", ")),
                || json!({"event": "unplayed", "scenarios": unplayed}),
            )?;
        }
        Ok(unplayed.len())
    }

    /// Returns the number of faults in all scenarios.
    pub(super) fn all_faults(&self) -> usize {
        self.all_faults
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

fn counted(faults: usize) -> String {
    match faults {
        1 => "1 fault".to_owned(),
        faults => format!("{faults} faults"),
    }
}
