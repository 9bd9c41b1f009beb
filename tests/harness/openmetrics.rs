//! Reads a scrape of `/metrics` as strictly as OpenMetrics 1.0 defines it.
//!
//! Invariant: text that the format forbids is an error, so a scrape that is read is well formed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

/// The metric families of one process, or of several together.
#[derive(Debug, Default, Clone)]
pub struct Scrape {
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default, Clone)]
pub struct Family {
    pub kind: String,
    pub help: String,
    unit: String,
    samples: BTreeMap<Sample, f64>,
}

/// A sample's whole name, and its labels in order.
type Sample = (String, BTreeMap<String, String>);

impl Family {
    /// The names of its labels, without those of buckets.
    pub fn labels(&self) -> BTreeSet<&str> {
        let labels = self.samples.keys().flat_map(|(_, labels)| labels.keys());
        labels
            .map(String::as_str)
            .filter(|label| *label != "le")
            .collect()
    }
}

impl Scrape {
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let lines = text.strip_suffix("# EOF\n").context("no EOF at the end")?;
        let mut scrape = Self::default();
        let mut name = String::new();
        for line in lines.lines() {
            let read = match line.strip_prefix("# ") {
                Some(about) => scrape.describe(about, &mut name),
                None => scrape.sample(line, &name),
            };
            read.with_context(|| format!("in the line {line:?}"))?;
        }
        for (name, family) in &scrape.families {
            family.check(name).with_context(|| name.clone())?;
        }
        Ok(scrape)
    }

    /// Adds the samples of another process.
    pub fn add(&mut self, other: Self) {
        for (name, family) in other.families {
            let samples = family.samples.clone();
            let own = self.families.entry(name).or_insert(Family {
                samples: BTreeMap::new(),
                ..family
            });
            for (sample, value) in samples {
                *own.samples.entry(sample).or_default() += value;
            }
        }
    }

    /// Every family, by the name that queries use: a counter's ends with `_total`.
    pub fn families(&self) -> BTreeMap<String, &Family> {
        self.families
            .iter()
            .map(|(name, family)| (exposed(name, family), family))
            .collect()
    }

    /// The sum of the samples with this name and at least these labels; `None` if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |of: &BTreeMap<String, String>| {
            labels
                .iter()
                .all(|(label, value)| of.get(*label).is_some_and(|has| has == value))
        };
        let samples = self.families.values().flat_map(|family| &family.samples);
        let found = samples.filter(|((sample, labels), _)| sample == name && has(labels));
        found
            .map(|(_, value)| *value)
            .reduce(|sum, value| sum + value)
    }

    fn describe(&mut self, about: &str, name: &mut String) -> anyhow::Result<()> {
        let mut words = about.splitn(3, ' ');
        let mut word = || words.next().context("too few words");
        let (what, of, rest) = (word()?, word()?, word()?);
        if what == "HELP" {
            of.clone_into(name);
            let known = self.families.insert(of.to_owned(), Family::default());
            ensure!(known.is_none(), "the family appears twice");
        }
        ensure!(of == name, "another family has begun");
        let family = self.families.get_mut(of).context("no such family")?;
        ensure!(family.samples.is_empty(), "after its samples");
        let field = match what {
            "HELP" => &mut family.help,
            "TYPE" => &mut family.kind,
            "UNIT" => &mut family.unit,
            _ => anyhow::bail!("an unknown comment"),
        };
        ensure!(field.is_empty() && !rest.is_empty(), "twice, or empty");
        rest.clone_into(field);
        Ok(())
    }

    fn sample(&mut self, line: &str, name: &str) -> anyhow::Result<()> {
        let (what, value) = line.rsplit_once(' ').context("no value")?;
        let value: f64 = value.replace("Inf", "inf").parse()?;
        let (sample, labels) = match what.split_once('{') {
            Some((sample, labels)) => (
                sample,
                read_labels(labels.strip_suffix('}').context("no }")?)?,
            ),
            None => (what, BTreeMap::new()),
        };
        let family = self.families.get_mut(name).context("no family")?;
        let suffix = sample.strip_prefix(name).context("of another family")?;
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[],
        };
        ensure!(allowed.contains(&suffix), "not of the type {}", family.kind);
        ensure!(family.kind == "gauge" || value >= 0.0, "a negative count");
        let key = (sample.to_owned(), labels);
        ensure!(
            family.samples.insert(key, value).is_none(),
            "a sample twice"
        );
        Ok(())
    }
}

impl Family {
    fn check(&self, name: &str) -> anyhow::Result<()> {
        ensure!(
            !self.kind.is_empty() && !self.help.is_empty(),
            "no type or no help"
        );
        let has_unit = self.unit.is_empty() || name.ends_with(&format!("_{}", self.unit));
        ensure!(has_unit, "its name lacks the unit {}", self.unit);
        for ((sample, labels), value) in &self.samples {
            if labels.get("le").is_some_and(|le| le == "+Inf") {
                let base = sample.trim_end_matches("_bucket");
                let mut of = labels.clone();
                of.remove("le");
                let count = self.samples.get(&(format!("{base}_count"), of.clone()));
                ensure!(count == Some(value), "the last bucket is not the count");
                ensure!(
                    self.buckets(&of).is_sorted_by(|one, next| one.1 <= next.1),
                    "buckets shrink"
                );
            }
        }
        Ok(())
    }

    /// The bounds and counts of the buckets with these labels, in the order of the bounds.
    fn buckets(&self, of: &BTreeMap<String, String>) -> Vec<(f64, f64)> {
        let buckets = self.samples.iter().filter_map(|((_, labels), count)| {
            let mut labels = labels.clone();
            let bound: f64 = labels.remove("le")?.replace("Inf", "inf").parse().ok()?;
            (labels == *of).then_some((bound, *count))
        });
        let mut buckets: Vec<_> = buckets.collect();
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        buckets
    }
}

fn exposed(name: &str, family: &Family) -> String {
    let suffix = if family.kind == "counter" {
        "_total"
    } else {
        ""
    };
    format!("{name}{suffix}")
}

/// Labels whose values need no escape, which is so for all of ours.
fn read_labels(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for label in text.split("\",") {
        let (name, value) = label.split_once("=\"").context("no label")?;
        let value = value.trim_end_matches('"');
        let is_plain = !value.contains(['"', '\\', '\n']);
        ensure!(is_plain && !value.is_empty(), "an odd value of {name}");
        ensure!(
            labels.insert(name.to_owned(), value.to_owned()).is_none(),
            "a label twice"
        );
    }
    Ok(labels)
}
