//! What the admin port asks of a part of the process.

use std::sync::Arc;

use serde_json::Value;

/// A part that can tell how it is. It answers at once: from what it knows, without waiting for anything.
pub trait Health: Send + Sync + 'static {
    /// What speaks against its being alive, so that it had better be started anew. Nothing outside the process does.
    fn live(&self) -> Vec<String>;

    /// What speaks against its being given work now.
    fn ready(&self) -> Vec<String>;

    /// Its state as a JSON object. `version`, `admin_addr`, `ready` and `reasons` are added to it.
    fn status(&self) -> Value;
}

/// Several parts in one process, as one: healthy where all are, each one's status under its name.
#[derive(Clone, Default)]
pub struct Parts(Vec<(&'static str, Arc<dyn Health>)>);

impl Parts {
    /// No part yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more.
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
}
