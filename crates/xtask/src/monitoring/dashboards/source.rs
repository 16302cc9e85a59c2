//! The sources of the dashboards, which people write. They have what is particular to a panel;
//! everything that panels have in common is in `json`. `deploy/grafana/README.md` describes the
//! format.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command::in_workspace;

/// The directory of the sources.
pub(super) const SOURCES: &str = "deploy/grafana/sources";

/// A dashboard.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dashboard {
    pub(super) uid: String,
    pub(super) title: String,
    pub(super) description: String,
    pub(super) variables: Vec<Variable>,
    /// Matchers by the names that stand for them in expressions, as `@name`.
    pub(super) selectors: BTreeMap<String, String>,
    pub(super) rows: Vec<Row>,
}

/// A variable that readers set at the top of the page. At first it has all its values.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) label: String,
    /// The query for its values.
    pub(super) query: String,
}

/// Panels of the same height. Those that do not fit beside each other continue below.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// The heading. A row without one continues the row before.
    pub(super) title: Option<String>,
    #[serde(default)]
    pub(super) collapsed: bool,
    pub(super) height: u32,
    pub(super) panels: Vec<Panel>,
}

/// A panel.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) kind: Kind,
    /// The width, of 24 columns.
    pub(super) width: u32,
    pub(super) description: String,
    pub(super) unit: String,
    pub(super) decimals: Option<u8>,
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
    #[serde(default)]
    pub(super) thresholds: Vec<Step>,
    #[serde(default)]
    pub(super) mappings: Vec<Mapping>,
    /// Whether curves are drawn on top of each other.
    #[serde(default)]
    pub(super) stacked: bool,
    /// Whether a number has a curve of the past in its background.
    #[serde(default)]
    pub(super) sparkline: bool,
    /// Whether a curve leads to the dashboard of its edge.
    #[serde(default)]
    pub(super) opens_edge: bool,
    #[serde(default)]
    pub(super) legend: Legend,
    /// The columns of a table, in their order.
    #[serde(default)]
    pub(super) columns: Vec<Column>,
    /// The alerts whose runbooks the panel leads to.
    #[serde(default)]
    pub(super) runbooks: Vec<String>,
    /// The name of the chart in docs/dashboards.md that shows this panel, if there is one.
    pub(super) chart: Option<String>,
    pub(super) queries: Vec<Query>,
}

/// The kind of a panel, by Grafana's names.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Stat,
    Timeseries,
    StateTimeline,
    Table,
}

/// The legend of a panel with curves.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Legend {
    #[default]
    List,
    /// With the last and the largest value of each curve, for panels that may have many.
    Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    pub(super) expr: String,
    pub(super) legend: Option<String>,
}

/// A colour and the value from which it holds: `0.8 red`. The first one has no value.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(try_from = "String")]
pub(super) struct Step {
    pub(super) from: Option<f64>,
    pub(super) color: String,
}

/// A value, and the colour and the text that stand for it: `0 red not ready`.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(try_from = "String")]
pub(super) struct Mapping {
    pub(super) value: String,
    pub(super) color: String,
    pub(super) text: String,
}

/// A label and the heading of its column: `alertname Alert`.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(try_from = "String")]
pub(super) struct Column {
    pub(super) label: String,
    pub(super) heading: String,
}

impl Dashboard {
    /// Reads all sources, in the order of their names. Returns them with their names.
    pub(super) fn all() -> Result<BTreeMap<String, Self>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(in_workspace(SOURCES))? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let name = name.into_owned();
            let text = fs::read_to_string(&path)?;
            let parsed = Self::parse(&text);
            let dashboard = parsed.with_context(|| format!("could not parse {SOURCES}/{name}"))?;
            found.insert(name, dashboard);
        }
        Ok(found)
    }

    /// Parses a source.
    pub(super) fn parse(text: &str) -> Result<Self> {
        Ok(serde_saphyr::from_str(text)?)
    }

    pub(super) fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }

    /// Returns an expression with the matchers in place of their names.
    pub(super) fn expand(&self, expr: &str) -> String {
        let expr = expr.trim().to_owned();
        self.selectors.iter().fold(expr, |expr, (name, matchers)| {
            expr.replace(&format!("@{name}"), matchers)
        })
    }
}

impl TryFrom<String> for Step {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some((from, color)) = text.split_once(' ') else {
            return Ok(Self {
                from: None,
                color: text,
            });
        };
        let from = from.parse().map_err(|error| format!("{text}: {error}"))?;
        Ok(Self {
            from: Some(from),
            color: color.to_owned(),
        })
    }
}

impl TryFrom<String> for Mapping {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut words = text.splitn(3, ' ').map(str::to_owned);
        let (Some(value), Some(color), Some(text)) = (words.next(), words.next(), words.next())
        else {
            return Err(format!("{text:?} is not a value, a colour and a text"));
        };
        Ok(Self { value, color, text })
    }
}

impl TryFrom<String> for Column {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (label, heading) = text
            .split_once(' ')
            .ok_or_else(|| format!("{text:?} is not a label and a heading"))?;
        Ok(Self {
            label: label.to_owned(),
            heading: heading.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_mappings_and_columns_are_words_in_a_line() {
        let step = |text: &str| Step::try_from(text.to_owned());
        let green = step("green").unwrap();
        assert_eq!((green.from, &*green.color), (None, "green"));
        let red = step("0.8 red").unwrap();
        assert_eq!((red.from, &*red.color), (Some(0.8), "red"));
        assert!(step("much red").is_err());

        let mapping = |text: &str| Mapping::try_from(text.to_owned());
        let down = mapping("-1 dark-red not there").unwrap();
        let parts = (&*down.value, &*down.color, &*down.text);
        assert_eq!(parts, ("-1", "dark-red", "not there"));
        assert!(mapping("0 red").is_err());

        let column = Column::try_from("alertname Alert".to_owned()).unwrap();
        assert_eq!((&*column.label, &*column.heading), ("alertname", "Alert"));
        assert!(Column::try_from("alertname".to_owned()).is_err());
    }

    #[test]
    fn names_of_matchers_are_replaced_in_expressions() {
        let source = "uid: a\ntitle: A\ndescription: A.\nvariables: []\nrows: []\n\
                      selectors:\n  edge: job=\"e\"\n  feed: mode=~\"$mode\"\n";
        let dashboard = Dashboard::parse(source).unwrap();
        let expanded = dashboard.expand("sum(a{@edge, @feed})\n");
        assert_eq!(expanded, "sum(a{job=\"e\", mode=~\"$mode\"})");
    }

    #[test]
    fn a_field_that_does_not_exist_is_an_error() {
        let source = "uid: a\ntitle: A\ndescription: A.\nvariables: []\nrows: []\n\
                      selectors: {}\ncolour: red\n";
        assert!(Dashboard::parse(source).is_err());
    }
}
