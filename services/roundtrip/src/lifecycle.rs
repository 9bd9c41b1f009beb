//! How a process stops.
//!
//! The first SIGTERM or SIGINT drains: first the workers, while the API still accepts the answers
//! to their deliveries, then the servers. A second signal or the deadline ends the process at once.
//! A task that ends by itself is a failure: the process drains and exits non-zero.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// The exit status after a second signal: 128 + SIGTERM.
const EXIT_TOLD_TWICE: i32 = 143;

/// How long after the drain a server may take to close its connections.
const CLOSE_TIME: Duration = Duration::from_secs(3);

pub(crate) struct Lifecycle {
    tasks: [JoinSet<(&'static str, anyhow::Result<()>)>; 2],
    stops: [CancellationToken; 2],
    signals: Signals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Workers = 0,
    /// After the workers have drained.
    Servers = 1,
}

impl Lifecycle {
    /// No tasks yet. Signals are handled from here on, before a port opens: a supervisor that sees
    /// the port may send one.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            tasks: [JoinSet::new(), JoinSet::new()],
            stops: [CancellationToken::new(), CancellationToken::new()],
            signals: Signals::listen()?,
        })
    }

    /// Cancelled when the process begins to stop.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stops[Step::Workers as usize].clone()
    }

    /// Starts a task. It must not end before its token is cancelled.
    pub(crate) fn spawn<F>(
        &mut self,
        step: Step,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let task = task(self.stops[step as usize].clone());
        self.tasks[step as usize].spawn(async move { (name, task.await) });
    }

    pub(crate) async fn run(mut self, drain: Duration) -> ExitCode {
        let signals = &mut self.signals;
        let mut code = ExitCode::SUCCESS;
        let [workers, servers] = &mut self.tasks;
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "stopping"),
            Some(ended) = workers.join_next() => code = died(ended),
            Some(ended) = servers.join_next() => code = died(ended),
        }
        let [stop_workers, stop_servers] = &self.stops;
        let stopping = async {
            stop_workers.cancel();
            // Each worker keeps the deadline itself and returns unfinished work to its queue.
            while workers.join_next().await.is_some() {}
            stop_servers.cancel();
            let closed = timeout(CLOSE_TIME, async {
                while servers.join_next().await.is_some() {}
            });
            if closed.await.is_err() {
                tracing::warn!("connections were still open at the deadline");
            }
        };
        tokio::select! {
            done = timeout(drain + 2 * CLOSE_TIME, stopping) => {
                if done.is_err() {
                    tracing::error!("the drain did not end by its deadline");
                    code = ExitCode::FAILURE;
                }
            }
            name = signals.next() => {
                tracing::warn!(signal = name, "a second signal: ending at once");
                std::process::exit(EXIT_TOLD_TWICE);
            }
        }
        code
    }
}

fn died(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> ExitCode {
    match ended {
        Ok((task, Ok(()))) => tracing::error!(task, "a task ended by itself"),
        Ok((task, Err(error))) => {
            tracing::error!(task, error = format!("{error:#}"), "a task failed");
        }
        Err(error) => tracing::error!(%error, "a task panicked"),
    }
    ExitCode::FAILURE
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
