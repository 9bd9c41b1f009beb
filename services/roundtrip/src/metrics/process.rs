//! Figures of the process: from the kernel, and of its runtime.

use std::{fs, time::Duration};

use roundtrip_metrics::Gauges;
use roundtrip_model::{Clock, millis};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};
use tokio::runtime::Handle;

roundtrip_metrics::label! {
    enum Version as "version" {
        This = env!("CARGO_PKG_VERSION"),
    }
}

// The names of `process_…` are the convention of every Prometheus client.
roundtrip_metrics::metrics! {
    pub(super) static METRICS;
    /// The version that runs; the value is 1.
    static BUILD: Gauges<Version> = "roundtrip_build_info";
    /// CPU time that the process has used.
    static CPU: Gauges<()> = "process_cpu_seconds_total";
    /// Memory of the process that is in RAM.
    static RESIDENT: Gauges<()> = "process_resident_memory_bytes";
    /// Open file descriptors.
    static DESCRIPTORS: Gauges<()> = "process_open_fds";
    /// The most file descriptors that may be open.
    static MAX_DESCRIPTORS: Gauges<()> = "process_max_fds";
    /// When the process started, in seconds since 1970.
    static STARTED: Gauges<()> = "process_start_time_seconds";
    /// Worker threads of the runtime.
    static WORKERS: Gauges<()> = "roundtrip_tokio_workers";
    /// Tasks of the runtime that have not ended.
    static TASKS: Gauges<()> = "roundtrip_tokio_alive_tasks";
    /// Tasks that wait in the runtime's global queue.
    static QUEUED: Gauges<()> = "roundtrip_tokio_global_queue_depth";
}

/// Notes the start of the process.
pub(super) fn start(clock: &dyn Clock) {
    let started = u64::try_from(millis::of(clock.now())).ok();
    STARTED.set((), started.map(Duration::from_millis));
    BUILD.set(Version::This, true);
}

/// Reads all that changes. Must be called within a runtime.
pub(super) fn measure() {
    let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime));
    CPU.set((), cpu.ok());
    RESIDENT.set((), resident_bytes());
    // One of these descriptors is open only to read the folder.
    let open = fs::read_dir("/proc/self/fd").map(|open| open.count().saturating_sub(1));
    DESCRIPTORS.set((), open.ok());
    MAX_DESCRIPTORS.set((), getrlimit(Resource::Nofile).current);
    let runtime = Handle::current().metrics();
    WORKERS.set((), runtime.num_workers());
    TASKS.set((), runtime.num_alive_tasks());
    QUEUED.set((), runtime.global_queue_depth());
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
