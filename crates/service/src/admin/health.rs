//! The health of a component of the process, as the admin port reports it.

use std::sync::Arc;

use serde_json::Value;

/// A component that reports its health. Its methods answer immediately from what the component
/// knows, without waiting for anything.
pub trait Health: Send + Sync + 'static {
    /// Returns the reasons why the component is not alive and should be restarted. Nothing outside
    /// the process is ever such a reason.
    fn live(&self) -> Vec<String>;

    /// Returns the reasons why the component should not be given work now.
    fn ready(&self) -> Vec<String>;

    /// Returns the state of the component as a JSON object, to which the admin port adds `version`,
    /// `admin_addr`, `uptime_s`, `ready`, `reasons` and `refused_files`.
    fn status(&self) -> Value;

    /// Returns whether the component is doing work now that must not be delayed, for some
    /// milliseconds. New connections to the admin port wait meanwhile.
    fn is_pressed(&self) -> bool {
        false
    }
}

/// Several components of one process, combined: healthy if all of them are. The status of each is
/// under its name.
#[derive(Clone, Default)]
pub struct Parts(Vec<(&'static str, Arc<dyn Health>)>);

impl Parts {
    /// Creates a combination without components.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component.
    #[must_use]
    pub fn with(mut self, name: &'static str, part: Arc<dyn Health>) -> Self {
        self.0.push((name, part));
        self
    }

    fn reasons(&self, of: impl Fn(&dyn Health) -> Vec<String>) -> Vec<String> {
        let each = self.0.iter();
        each.flat_map(|(name, part)| {
            of(&**part)
                .into_iter()
                .map(move |why| format!("{name}: {why}"))
        })
        .collect()
    }
}

impl Health for Parts {
    fn live(&self) -> Vec<String> {
        self.reasons(|part| part.live())
    }

    fn ready(&self) -> Vec<String> {
        self.reasons(|part| part.ready())
    }

    fn status(&self) -> Value {
        let each = self.0.iter();
        each.map(|(name, part)| ((*name).to_owned(), part.status()))
            .collect()
    }

    fn is_pressed(&self) -> bool {
        self.0.iter().any(|(_, part)| part.is_pressed())
    }
}
