//! What a process has used, as the kernel counts it.
//!
//! Invariant: numbers come from `/proc` alone, so a process that does not know that it is measured
//! (RabbitMQ's, MongoDB's) is measured like any other.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;

/// The kernel reports processor time in this unit on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// `utime` and `stime` count from the state, which is the first field after the name.
const UTIME: usize = 11;

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
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            peak_memory: self.peak_memory.max(other.peak_memory),
        }
    }
}

/// What a process has used since its start.
///
/// # Errors
/// If there is no such process.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let folder = Path::new("/proc").join(pid.to_string());
    let read = |name: &str| {
        fs::read_to_string(folder.join(name)).with_context(|| format!("reading {name} of {pid}"))
    };
    let stat = read("stat")?;
    // The name stands in parentheses and may hold anything, so what follows the last one counts.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(UTIME)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let status = read("status")?;
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

/// The processes whose command line or environment names a folder: a server that was started
/// there, and its children.
#[must_use]
pub fn processes_of(folder: &Path) -> Vec<u32> {
    let Some(folder) = folder.to_str() else {
        return Vec::new();
    };
    let names_it = |path: &Path| {
        fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(folder))
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &u32| pid != std::process::id())
        .filter(|pid| {
            let process = Path::new("/proc").join(pid.to_string());
            names_it(&process.join("cmdline")) || names_it(&process.join("environ"))
        })
        .collect()
}
