//! Prometheus' text format.

use std::{collections::BTreeMap, fmt, fmt::Write as _};

use metrics_exporter_prometheus::formatting::{
    sanitize_label_key, sanitize_label_value, write_help_line, write_type_line,
};

/// Metrics on their way into text.
///
/// Keeps all samples of a name together, as the format wants it, in whatever order they are added.
#[derive(Debug, Default)]
pub struct Render {
    families: BTreeMap<String, FamilyText>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What stands between the braces of a sample.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn new<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for (name, value) in labels {
            let comma = if text.is_empty() { "" } else { "," };
            let (name, value) = (sanitize_label_key(name), sanitize_label_value(value));
            // Cannot fail: a string takes everything.
            let _ = write!(text, "{comma}{name}=\"{value}\"");
        }
        Self(text)
    }
}

impl Render {
    /// Adds a sample of the gauge `name`, which is what it is now. Names end in their unit; names
    /// and labels are like those of a Rust variable.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let labels = Labels::new(labels.iter().copied());
        self.family(name, help, Kind::Gauge).sample(name, "", &labels, None, value);
    }

    /// Adds a sample of the counter `name`, which only rises while the process runs. Names end in
    /// `_total`.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let labels = Labels::new(labels.iter().copied());
        self.family(name, help, Kind::Counter).sample(name, "", &labels, None, value);
    }

    pub(super) fn family(&mut self, name: &str, help: &str, kind: Kind) -> &mut FamilyText {
        if !self.families.contains_key(name) {
            let mut text = String::new();
            if !help.is_empty() {
                write_help_line(&mut text, name, None, None, help);
            }
            write_type_line(&mut text, name, None, None, kind.name());
            self.families.insert(name.to_owned(), FamilyText { kind, text });
        }
        let family = self.families.get_mut(name).expect("was added where it was missing");
        debug_assert_eq!(family.kind, kind, "{name} is of two kinds");
        family
    }

    pub(super) fn finish(self) -> String {
        let bytes = self.families.values().map(|family| family.text.len()).sum();
        let mut text = String::with_capacity(bytes);
        for family in self.families.into_values() {
            text.push_str(&family.text);
        }
        text
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[derive(Debug)]
pub(super) struct FamilyText {
    kind: Kind,
    text: String,
}

impl FamilyText {
    /// Adds a line. `bound` is the upper bound of a histogram's bucket.
    pub(super) fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &Labels,
        bound: Option<f64>,
        value: impl fmt::Display,
    ) {
        let text = &mut self.text;
        text.push_str(name);
        text.push_str(suffix);
        if !labels.0.is_empty() || bound.is_some() {
            text.push('{');
            text.push_str(&labels.0);
            if let Some(bound) = bound {
                let comma = if labels.0.is_empty() { "" } else { "," };
                // Cannot fail: a string takes everything.
                let _ = if bound.is_finite() {
                    write!(text, "{comma}le=\"{bound}\"")
                } else {
                    write!(text, "{comma}le=\"+Inf\"")
                };
            }
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}
