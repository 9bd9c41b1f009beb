//! Prints the results as a table and as JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Value, json};

use crate::{
    options::Run,
    results::{Measure, Round, Spread, Stage},
};

/// On RabbitMQ, accept to delivery must reach this share of the slower raw rate.
const TARGET: f64 = 1.0 / 3.0;

const BYTES_PER_MB: f64 = 1_000_000.0;

/// The rounds on one pair of engines.
#[derive(Debug)]
pub(crate) struct EngineResults {
    /// Their name in the table.
    pub(crate) title: &'static str,
    /// Their name in the JSON.
    pub(crate) key: &'static str,
    /// Whether the target applies to them.
    pub(crate) has_target: bool,
    pub(crate) rounds: Vec<Round>,
}

impl EngineResults {
    fn measures(&self) -> BTreeSet<Measure> {
        self.rounds
            .iter()
            .flat_map(|round| round.values.keys().copied())
            .collect()
    }

    fn spread(&self, measure: Measure) -> Option<Spread> {
        Spread::of(
            self.rounds
                .iter()
                .filter_map(|round| round.values.get(&measure).copied()),
        )
    }

    fn share(&self, measure: Measure) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| round.share(measure)))
    }

    /// The median of a process's CPU seconds in a stage.
    fn cpu(&self, stage: Stage, process: &str) -> Option<f64> {
        let seconds = self
            .rounds
            .iter()
            .filter_map(|round| round.cpu.get(&stage)?.get(process).copied());
        Spread::of(seconds).map(|spread| spread.median)
    }

    fn processes(&self) -> BTreeSet<&str> {
        self.rounds
            .iter()
            .flat_map(|round| round.cpu.values())
            .flat_map(BTreeMap::keys)
            .map(String::as_str)
            .collect()
    }

    /// The peak over all rounds.
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory, shown as MB")]
    fn memory_mb(&self, process: &str) -> Option<f64> {
        self.rounds
            .iter()
            .filter_map(|round| round.memory.get(process))
            .max()
            .map(|&bytes| bytes as f64 / BYTES_PER_MB)
    }
}

pub(crate) fn text(run: &Run, cores: usize, results: &[EngineResults]) -> String {
    let mut out = format!(
        "{} messages of {} bytes in each measurement, {} in flight, {} channels; \
         median of {} runs; {cores} cores\n",
        run.messages, run.body_bytes, run.in_flight, run.channels, run.repeat
    );
    for engine in results {
        // Writing to a string cannot fail.
        let _ = write_engine(&mut out, engine);
    }
    let _ = write_how(&mut out, results);
    out
}

fn write_engine(out: &mut String, engine: &EngineResults) -> std::fmt::Result {
    writeln!(out, "\n== {} ==", engine.title)?;
    writeln!(
        out,
        "{:<24}{:>10}{:>10}{:>10} {:<4}{:>10}",
        "", "median", "least", "greatest", "", "of raw"
    )?;
    for measure in engine.measures() {
        let Some(spread) = engine.spread(measure) else {
            continue;
        };
        let share = engine
            .share(measure)
            .map(|share| format!("{:.0} %", share.median * 100.0))
            .unwrap_or_default();
        writeln!(
            out,
            "{:<24}{:>10}{:>10}{:>10} {:<4}{share:>10}",
            measure.name(),
            figure(measure, spread.median),
            figure(measure, spread.least),
            figure(measure, spread.greatest),
            measure.unit(),
        )?;
    }
    if let Some(share) = engine.share(Measure::AcceptToDelivery) {
        write!(
            out,
            "accept to delivery / the slowest raw rate = {:.2} ({:.2} to {:.2})",
            share.median, share.least, share.greatest
        )?;
        if engine.has_target {
            let verdict = if share.median >= TARGET {
                "reached"
            } else {
                "MISSED"
            };
            write!(out, "; the target of 0.33 is {verdict}")?;
        }
        writeln!(out)?;
    }
    write_processes(out, engine)
}

fn write_processes(out: &mut String, engine: &EngineResults) -> std::fmt::Result {
    write!(out, "\n{:<24}", "CPU seconds in all")?;
    for stage in Stage::ALL {
        write!(out, "{:>20}", stage.name())?;
    }
    writeln!(out, "{:>16}", "peak memory")?;
    for process in engine.processes() {
        write!(out, "{process:<24}")?;
        for stage in Stage::ALL {
            let seconds = engine.cpu(stage, process);
            write!(
                out,
                "{:>20}",
                seconds.map(|s| format!("{s:.2}")).unwrap_or_default()
            )?;
        }
        let memory = engine.memory_mb(process);
        writeln!(
            out,
            "{:>16}",
            memory.map(|mb| format!("{mb:.0} MB")).unwrap_or_default()
        )?;
    }
    Ok(())
}

fn write_how(out: &mut String, results: &[EngineResults]) -> std::fmt::Result {
    let measures: BTreeSet<Measure> = results.iter().flat_map(EngineResults::measures).collect();
    writeln!(out, "\nHow it was measured")?;
    for measure in measures {
        writeln!(out, "  {:<24}{}", measure.name(), measure.how())?;
    }
    writeln!(
        out,
        "  {:<24}the rate divided by the slowest of its own raw rates in the same run",
        "of raw"
    )?;
    writeln!(
        out,
        "  {:<24}user and kernel time from /proc, over the whole measurement; memory is VmHWM",
        "CPU seconds"
    )
}

fn figure(measure: Measure, value: f64) -> String {
    if measure.unit() == "ms" {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

pub(crate) fn json(run: &Run, cores: usize, results: &[EngineResults]) -> Value {
    let engines: serde_json::Map<String, Value> = results
        .iter()
        .map(|engine| (engine.key.to_owned(), engine_json(engine)))
        .collect();
    json!({
        "messages": run.messages,
        "body_bytes": run.body_bytes,
        "in_flight": run.in_flight,
        "channels": run.channels,
        "repeat": run.repeat,
        "cores": cores,
        "engines": engines,
    })
}

fn engine_json(engine: &EngineResults) -> Value {
    let spread = |spread: Spread| json!({"median": spread.median, "least": spread.least, "greatest": spread.greatest});
    let measures: serde_json::Map<String, Value> = engine
        .measures()
        .into_iter()
        .filter_map(|measure| {
            let value = json!({
                "unit": measure.unit(),
                "value": spread(engine.spread(measure)?),
                "share_of_raw": engine.share(measure).map(spread),
                "how": measure.how(),
            });
            Some((measure.name().to_owned(), value))
        })
        .collect();
    let processes: serde_json::Map<String, Value> = engine
        .processes()
        .into_iter()
        .map(|process| {
            let cpu: serde_json::Map<String, Value> = Stage::ALL
                .into_iter()
                .map(|stage| (stage.name().to_owned(), json!(engine.cpu(stage, process))))
                .collect();
            let value = json!({"cpu_seconds": cpu, "peak_memory_mb": engine.memory_mb(process)});
            (process.to_owned(), value)
        })
        .collect();
    json!({"measures": measures, "processes": processes})
}
