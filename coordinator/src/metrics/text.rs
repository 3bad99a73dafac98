//! Prometheus's text format, version 0.0.4: families of gauges, made at the moment they are asked for.
//!
//! Libraries for this keep counters that a program updates. Here nothing is counted: values are read from what is known anyway.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What is told, family by family, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<Family>);

#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Page {
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.0.push(Family { name, help, samples: Vec::new() });
        self.0.last_mut().expect("one was pushed")
    }

    /// Families without samples are left out. Of samples with the same labels the first counts: Prometheus takes no page with two.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for Family { name, help, samples } in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let help = escaped(help, false);
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            let mut told = BTreeSet::new();
            for (labels, value) in samples.iter().filter(|(labels, _)| told.insert(labels)) {
                let _ = writeln!(text, "{name}{} {}", braced(labels), shown(*value));
            }
        }
        text
    }
}

impl Family {
    pub(super) fn sample<const N: usize>(
        &mut self,
        labels: [(&'static str, &str); N],
        value: f64,
    ) -> &mut Family {
        self.samples.push((labels.map(|(name, value)| (name, value.to_owned())).to_vec(), value));
        self
    }
}

fn braced(labels: &[(&'static str, String)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let each = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value, true)));
    format!("{{{}}}", each.collect::<Vec<_>>().join(","))
}

/// What would end a label's value or its line.
fn escaped(text: &str, is_quoted: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if is_quoted => escaped.push_str("\\\""),
            other => escaped.push(other),
        }
    }
    escaped
}

fn shown(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_writes_it() {
        let mut page = Page::default();
        page.gauge("pgconvoy_one", "Ones.\nAnd \\ \"more\".").sample([], 1.0);
        page.gauge("pgconvoy_none", "Nothing.");
        page.gauge("pgconvoy_two", "Twos.")
            .sample([("stanza", "main"), ("repo", "1")], 2.5)
            .sample([("stanza", "main"), ("repo", "1")], 3.0)
            .sample([("stanza", "main"), ("repo", "2")], 12_345_678_901_234.0);
        assert_eq!(
            page.text(),
            "# HELP pgconvoy_one Ones.\\nAnd \\\\ \"more\".\n# TYPE pgconvoy_one gauge\npgconvoy_one 1\n\
             # HELP pgconvoy_two Twos.\n# TYPE pgconvoy_two gauge\n\
             pgconvoy_two{stanza=\"main\",repo=\"1\"} 2.5\npgconvoy_two{stanza=\"main\",repo=\"2\"} 12345678901234\n"
        );
    }

    #[test]
    fn no_label_can_end_its_own_value() {
        let mut page = Page::default();
        page.gauge("x", "X.").sample([("stanza", "a\"} 1\ny{b=\"\\")], f64::NAN);
        assert_eq!(page.text().lines().last(), Some("x{stanza=\"a\\\"} 1\\ny{b=\\\"\\\\\"} NaN"));
    }
}
