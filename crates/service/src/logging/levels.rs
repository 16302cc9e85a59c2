//! [`Levels`]: how much is logged, as LOG_LEVEL says it: a level for everything, and levels of
//! single modules.

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::Level;
use crate::{env::Value, excerpt::Excerpt, traces};

/// The level of everything that has none of its own, if only levels of modules are given.
const OTHERS: Level = Level::Info;
/// The most parts of a text. It is written by hand; the bound limits the damage of a mistake.
const PARTS_MAX: usize = 64;

/// The levels of the logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    others: Level,
    /// The levels of modules, which include the modules below them.
    by_module: Vec<(String, Level)>,
}

/// Whether there is a use for spans of traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TraceSpans {
    /// They are not sent, so none is made.
    Off,
    /// They are sent, whatever the levels of the logs.
    On,
}

impl From<TraceSpans> for LevelFilter {
    fn from(spans: TraceSpans) -> Self {
        match spans {
            TraceSpans::Off => Self::OFF,
            TraceSpans::On => Self::INFO,
        }
    }
}

/// What is wrong with a text that should give levels. It names the wrong part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum LevelsError {
    #[error("`{}` is not a level", Excerpt(.0))]
    Level(String),
    #[error("`{}` is not a module such as tickstorm_edge::shard", Excerpt(.0))]
    Module(String),
    #[error("`{}` is a second level for all modules", Excerpt(.0))]
    SecondLevel(String),
    #[error("`{}` has a second level", Excerpt(.0))]
    SecondLevelOfModule(String),
    #[error("there are more than {PARTS_MAX} parts")]
    TooMany,
}

impl Levels {
    /// Returns the same levels, but at least `level` for each module.
    #[must_use]
    pub fn at_least(&self, level: Level) -> Self {
        let by_module = self.by_module.iter();
        Self {
            others: self.others.max(level),
            by_module: by_module
                .map(|(module, own)| (module.clone(), level.max(*own)))
                .collect(),
        }
    }

    /// Returns the filter for these levels, which lets spans of traces through if they are sent. It
    /// decides once for each place in the code, so an event that is not logged costs no more than
    /// with a single level.
    pub(super) fn filter(&self, traces: TraceSpans) -> Targets {
        let by_module = self.by_module.iter();
        Targets::new()
            .with_default(LevelFilter::from(self.others))
            .with_targets(
                by_module.map(|(module, level)| (module.as_str(), LevelFilter::from(*level))),
            )
            .with_target(traces::TARGET, LevelFilter::from(traces))
    }

    fn read(text: &str) -> Result<Self, LevelsError> {
        let (mut others, mut by_module) = (None, Vec::new());
        for (index, part) in text.split(',').map(str::trim).enumerate() {
            if index == PARTS_MAX {
                return Err(LevelsError::TooMany);
            }
            let Some((module, level)) = part.split_once('=') else {
                if others.replace(read_level(part)?).is_some() {
                    return Err(LevelsError::SecondLevel(part.into()));
                }
                continue;
            };
            let (module, level) = (module.trim(), read_level(level.trim())?);
            if !is_module(module) {
                return Err(LevelsError::Module(module.into()));
            }
            if by_module.iter().any(|(known, _)| known == module) {
                return Err(LevelsError::SecondLevelOfModule(module.into()));
            }
            by_module.push((module.to_owned(), level));
        }
        Ok(Self {
            others: others.unwrap_or(OTHERS),
            by_module,
        })
    }
}

impl From<Level> for Levels {
    fn from(others: Level) -> Self {
        Self {
            others,
            by_module: Vec::new(),
        }
    }
}

impl Value for Levels {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        Self::read(text).ok()
    }

    fn allowed((): &()) -> String {
        format!(
            "{}; levels of modules may follow, as in info,tickstorm_edge::shard=debug",
            Level::allowed(&())
        )
    }

    fn problem(text: &str, (): &()) -> Option<String> {
        Self::read(text).err().map(|error| error.to_string())
    }
}

fn read_level(text: &str) -> Result<Level, LevelsError> {
    Level::parse(text, &()).ok_or_else(|| LevelsError::Level(text.into()))
}

/// Returns whether `text` has the form of a Rust module's path.
fn is_module(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    text.split("::").all(is_name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracing::{Dispatch, Metadata, dispatcher::with_default};

    use super::*;
    use crate::logging::{LogFormat, dispatch};

    fn levels(text: &str) -> Levels {
        Levels::read(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Returns three places in the code at debug level, in the modules `a::b`, `a::c` and `z`.
    fn places() -> [&'static Metadata<'static>; 3] {
        let (all, _) = dispatch(Level::Trace, LogFormat::Text, std::io::sink);
        let spans = with_default(&all, || {
            [
                tracing::debug_span!(target: "a::b", "place"),
                tracing::debug_span!(target: "a::c", "place"),
                tracing::debug_span!(target: "z", "place"),
            ]
        });
        spans.map(|span| span.metadata().expect("all levels are on"))
    }

    fn enabled(dispatch: &Dispatch) -> [Option<bool>; 3] {
        places().map(|place| {
            let interest = dispatch.register_callsite(place);
            match (interest.is_always(), interest.is_never()) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                (false, false) => None,
            }
        })
    }

    /// An event that is not logged must cost no more than a look at a cached answer, also on the
    /// threads that send ticks. So the filter's answer is final for each place in the code.
    #[test]
    fn each_place_in_the_code_is_decided_once() {
        for (text, expected) in [
            ("info", [false, false, false]),
            ("debug", [true, true, true]),
            ("info,a::b=debug", [true, false, false]),
            ("a::b=trace", [true, false, false]),
            ("info,a=debug", [true, true, false]),
            ("a=debug,a::b=warn,info", [false, true, false]),
            ("debug,a=error", [false, false, true]),
            ("trace,a=error,a::c=debug", [false, true, true]),
        ] {
            let (dispatch, handle) = dispatch(levels(text), LogFormat::Text, std::io::sink);
            assert_eq!(enabled(&dispatch), expected.map(Some), "{text}");
            handle.set(&levels(text).at_least(Level::Debug));
            assert_eq!(enabled(&dispatch), [Some(true); 3], "{text}, raised");
            handle.set(&levels(text));
            assert_eq!(enabled(&dispatch), expected.map(Some), "{text}, as before");
        }
    }

    #[test]
    fn a_text_gives_a_level_and_levels_of_modules() {
        let trace = |module: &str| (module.to_owned(), Level::Trace);
        for (text, others, by_module) in [
            ("warn", Level::Warn, vec![]),
            ("error, a::b_1=trace", Level::Error, vec![trace("a::b_1")]),
            (
                "a=trace,debug , b = trace",
                Level::Debug,
                vec![trace("a"), trace("b")],
            ),
            ("a=trace", Level::Info, vec![trace("a")]),
        ] {
            assert_eq!(levels(text), Levels { others, by_module }, "{text}");
        }
        assert_eq!(levels("warn"), Levels::from(Level::Warn));
    }

    #[test]
    fn the_wrong_part_of_a_text_is_named() {
        let many = vec!["info"; 1].into_iter().chain(vec!["a=info"; PARTS_MAX]);
        let many = many.collect::<Vec<_>>().join(",");
        let long = format!("info,a={}", "x".repeat(10_000));
        for (text, problem) in [
            ("", "`` is not a level"),
            ("loud", "`loud` is not a level"),
            ("INFO", "`INFO` is not a level"),
            ("off", "`off` is not a level"),
            ("info,", "`` is not a level"),
            ("info,a=loud", "`loud` is not a level"),
            ("info,a=debug=trace", "`debug=trace` is not a level"),
            ("info,=debug", "`` is not a module"),
            ("info,a b=debug", "`a b` is not a module"),
            ("info,a::=debug", "`a::` is not a module"),
            ("info,a:b=debug", "`a:b` is not a module"),
            ("info,a[x]=debug", "`a[x]` is not a module"),
            ("info,debug", "`debug` is a second level"),
            ("a=info,a=debug", "`a` has a second level"),
            (&many, "`a` has a second level"),
        ] {
            let found = Levels::problem(text, &()).unwrap();
            assert!(found.starts_with(problem), "{text}: {found}");
            assert_eq!(Levels::parse(text, &()), None, "{text}");
        }
        assert!(Levels::problem(&long, &()).unwrap().len() < 512);
        let different = (0..=PARTS_MAX).map(|number| format!("m{number}=info"));
        let different = different.collect::<Vec<_>>().join(",");
        assert_eq!(Levels::read(&different), Err(LevelsError::TooMany));
    }

    proptest! {
        #[test]
        fn a_text_is_valid_or_has_a_problem(text: String) {
            let problem = Levels::problem(&text, &());
            prop_assert_eq!(Levels::parse(&text, &()).is_none(), problem.is_some());
        }
    }
}
