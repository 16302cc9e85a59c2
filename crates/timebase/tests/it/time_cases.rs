//! Reads `time-cases.json`: small cases for the rules of time, with expectations written by hand.
//! The kinds `edge` and `subscribe` are run in this crate; `estimate` concerns a client's view, and
//! the client crate runs it from the same file.
//!
//! All times are microseconds of the edge's own clock, which is 0 at its start; epochs are
//! milliseconds after `base_epoch_ms`; an offset o means that authority time is the base plus the
//! edge's own clock plus o.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The allowed difference of an offset or a bound from the value in a case, in microseconds.
pub(crate) const ALLOWANCE_US: u64 = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeCases {
    pub(crate) base_epoch_ms: i64,
    cases: Vec<BTreeMap<String, serde_json::Value>>,
}

pub(crate) fn read() -> TimeCases {
    serde_json::from_str(include_str!("time-cases.json")).unwrap()
}

impl TimeCases {
    /// Returns the cases of one kind. Panics if a case has a field that `C` does not have.
    pub(crate) fn of_kind<C: DeserializeOwned>(&self, kind: &str) -> Vec<C> {
        let parse = |case: &BTreeMap<String, serde_json::Value>| {
            let mut case = case.clone();
            let name = case["name"].clone();
            case.remove("kind");
            let case = serde_json::Value::Object(case.into_iter().collect());
            serde_json::from_value(case).unwrap_or_else(|error| panic!("case {name}: {error}"))
        };
        self.cases
            .iter()
            .filter(|case| case["kind"] == kind)
            .map(parse)
            .collect()
    }
}

#[test]
fn every_case_is_run_here_or_belongs_to_the_client() {
    let cases = read().cases;
    let count = |kind: &str| cases.iter().filter(|case| case["kind"] == kind).count();
    let kinds = [count("edge"), count("subscribe"), count("estimate")];
    assert_eq!(kinds, [46, 10, 4]);
    assert_eq!(kinds.iter().sum::<usize>(), cases.len());
}
