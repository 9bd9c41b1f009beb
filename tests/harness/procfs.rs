//! What a process has used, as the kernel counts it.
//!
//! Invariant: numbers come from `/proc` alone, so a process that does not know that it is measured
//! (RabbitMQ's, MongoDB's) is measured like any other.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;

/// The kernel reports processor time in this unit on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// Where `stat` has its fields, counted from the parent, which follows the state.
const SESSION: usize = 2;
const UTIME: usize = 10;

/// What a process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In user and kernel mode together.
    pub cpu: Duration,
    /// The most resident memory that it held at any time, in bytes.
    pub peak_memory: u64,
}

impl Usage {
    /// Both together: the sum of the time, the greater of the memories.
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            peak_memory: self.peak_memory.max(other.peak_memory),
        }
    }
}

/// What a process has used since its start.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let fields = fields(pid)?;
    let ticks: u64 = fields.iter().skip(UTIME).take(2).sum();
    let status = read(pid, "status")?;
    let peak_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .context("no VmHWM in status")?;
    Ok(Usage {
        cpu: Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND),
        peak_memory: peak_kib * 1_024,
    })
}

/// How many threads a process has.
pub fn threads(pid: u32) -> anyhow::Result<usize> {
    let status = read(pid, "status")?;
    let threads = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"));
    Ok(threads.context("no Threads in status")?.trim().parse()?)
}

/// The processes of a session: a server that was started in one of its own, and its helpers.
pub fn processes_of_session(session: u32) -> Vec<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| fields(pid).is_ok_and(|fields| fields.get(SESSION) == Some(&session.into())))
        .collect()
}

/// The numbers in a process's `stat` from its parent on; see proc(5).
fn fields(pid: u32) -> anyhow::Result<Vec<u64>> {
    let stat = read(pid, "stat")?;
    // The name stands in parentheses and may hold anything, so what follows the last one counts;
    // the state is a letter, and one of the numbers may be negative.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let numbers = fields.split_whitespace().skip(1);
    Ok(numbers
        .map(|field| field.parse().unwrap_or_default())
        .collect())
}

fn read(pid: u32, name: &str) -> anyhow::Result<String> {
    let path = Path::new("/proc").join(pid.to_string()).join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}
