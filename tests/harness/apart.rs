//! Runs a test in its own network with the command `tests/apart`, for code that only uses the
//! machine's resolver. The test's process starts itself again: the second process runs the test,
//! and the first one forwards to a server.
//!
//! Invariant: the second process sees only its own loopback interface and, for a server, one Unix
//! socket that leads to it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    process::Command,
};
use tokio_util::task::AbortOnDropHandle;

/// The nameserver of the second process, set by `tests/apart`.
pub const NAMESERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// The variable that passes values to the second process.
const VARIABLE: &str = "ROUNDTRIP_TEST_APART";

/// The runner's summary of one passed test. A run that matched no test has another one.
const PASSED: &str = "test result: ok. 1 passed";

/// The values that the first process passes to the second.
#[derive(Debug, Serialize, Deserialize)]
pub struct PassedValues<T> {
    /// The test's own value.
    pub value: T,
    socket: PathBuf,
}

/// In the second process, the values from the first; `None` in the first process.
pub fn passed_values<T: for<'de> Deserialize<'de>>() -> anyhow::Result<Option<PassedValues<T>>> {
    let Ok(passed) = std::env::var(VARIABLE) else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_str(&passed).context(VARIABLE)?))
}

/// Runs this test again, by its module and its name, in its own network.
pub async fn run_again(module: &str, test: &str) -> anyhow::Result<()> {
    // A socket is required; this test does not use it.
    run_again_with(module, test, NAMESERVER, ()).await
}

/// Runs this test again, by its module and its name, in its own network with access to this server.
pub async fn run_again_with<T: Serialize>(
    module: &str,
    test: &str,
    server: SocketAddr,
    value: T,
) -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let socket = folder.path().join("way-out");
    let listener = UnixListener::bind(&socket)?;
    let _way_out: AbortOnDropHandle<()> = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut inside, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await?;
                copy_bidirectional(&mut inside, &mut server).await
            });
        }
    }));
    // A test's name does not include the crate's name.
    let module = module.split_once("::").map_or(module, |(_, rest)| rest);
    let name = format!("{module}::{test}");
    let passed = serde_json::to_string(&PassedValues { value, socket })?;
    let ran = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("apart"))
        .arg(std::env::current_exe()?)
        .args([name.as_str(), "--exact", "--nocapture"])
        .env(VARIABLE, passed)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("running tests/apart")?;
    let printed = String::from_utf8_lossy(&ran.stdout);
    ensure!(
        ran.status.success() && printed.contains(PASSED),
        "{name}, apart: {}\n{printed}\n{}",
        ran.status,
        String::from_utf8_lossy(&ran.stderr)
    );
    Ok(())
}

/// A port in the second process that leads to the server. Dropping it closes the port.
#[derive(Debug)]
pub struct WayOut {
    address: SocketAddr,
    _carrying: AbortOnDropHandle<()>,
}

impl<T> PassedValues<T> {
    /// Opens the port that leads to the server.
    pub async fn way_out(&self) -> anyhow::Result<WayOut> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let socket = self.socket.clone();
        let carrying = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let socket = socket.clone();
                tokio::spawn(async move {
                    let mut outside = UnixStream::connect(socket).await?;
                    copy_bidirectional(&mut client, &mut outside).await
                });
            }
        });
        Ok(WayOut {
            address,
            _carrying: AbortOnDropHandle::new(carrying),
        })
    }
}

impl WayOut {
    /// The address that leads to the server.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}
