//! The rules as objects of the Prometheus Operator. Kustomize can't put a file into a field of an
//! object, so a committed file has them, and a check compares it with the files of rules.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;

use super::rules::RuleFile;
use crate::command::in_workspace;

/// The file that has them.
pub(super) const GENERATED: &str = "k8s/components/monitoring/prometheus-rules.yaml";

const HEAD: &str =
    "# Generated from deploy/prometheus/rules by `cargo xtask monitoring`. Change those files.\n";

/// Writes the objects.
pub(super) fn write() -> Result<()> {
    fs::write(in_workspace(GENERATED), objects(&RuleFile::all()?)?)?;
    eprintln!("xtask: wrote {GENERATED}");
    Ok(())
}

/// Returns what is not current.
pub(super) fn findings() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let current = fs::read_to_string(in_workspace(GENERATED)).unwrap_or_default();
    if current != objects(&RuleFile::all()?)? {
        found.push(format!(
            "{GENERATED} is outdated: run `cargo xtask monitoring`, and commit it"
        ));
    }
    Ok(found)
}

/// Returns one object for each file. The text of the file becomes its `spec`.
fn objects(files: &[RuleFile]) -> Result<String> {
    let mut text = HEAD.to_owned();
    for (index, file) in files.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        write!(
            text,
            "apiVersion: monitoring.coreos.com/v1\n\
             kind: PrometheusRule\n\
             metadata:\n  \
               name: tickstorm-{}\n  \
               labels: {{ app.kubernetes.io/part-of: tickstorm }}\n\
             spec:\n",
            stem(&file.path)
        )?;
        for line in file.text.lines() {
            let indent = if line.is_empty() { "" } else { "  " };
            writeln!(text, "{indent}{line}")?;
        }
    }
    Ok(text)
}

fn stem(path: &str) -> String {
    let stem = Path::new(path).file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_each_file_is_the_spec_of_an_object() {
        let file = |name: &str, text: &str| RuleFile {
            path: format!("rules/{name}.yml"),
            text: text.to_owned(),
            rules: Vec::new(),
        };
        let files = [
            file("a", "groups:\n  - name: a\n\n    rules: []\n"),
            file("b", "groups: []\n"),
        ];
        let yaml = objects(&files).unwrap();
        let parsed: Vec<serde_json::Value> = serde_saphyr::from_multiple(&yaml).unwrap();
        let expected = serde_json::json!([{ "name": "a", "rules": [] }]);
        assert_eq!(parsed[0]["spec"]["groups"], expected, "{yaml}");
        assert_eq!(parsed[0]["metadata"]["name"], "tickstorm-a");
        assert_eq!(parsed[1]["metadata"]["name"], "tickstorm-b");
        assert_eq!(parsed.len(), 2);
        assert!(!yaml.lines().any(|line| line.ends_with(' ')), "{yaml}");
    }
}
