//! A test in a network of its own, by the command `tests/apart`: for what asks the machine's resolver
//! and can be told of no other. The test's process starts itself once more; what it is there for is
//! done by the second, and the first makes the way out.
//!
//! Invariant: the second process sees nothing but its own loopback interface and, where it is to reach
//! a server, one socket, a file, which leads there.

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

/// Where the second process's resolver asks, as `tests/apart` has it.
pub const NAMESERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// What the second process is told.
const TOLD: &str = "ROUNDTRIP_TEST_APART";

/// What the runner says of one test that ran and passed: where there is none of that name, none ran.
const PASSED: &str = "test result: ok. 1 passed";

/// What the first process tells the second.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told<T> {
    /// Whatever the test has to say to itself.
    pub by_the_test: T,
    socket: PathBuf,
}

/// What the first process told, in the second; nothing in the first.
///
/// # Errors
/// If it told something else.
pub fn told<T: for<'de> Deserialize<'de>>() -> anyhow::Result<Option<Told<T>>> {
    let Ok(told) = std::env::var(TOLD) else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_str(&told).context(TOLD)?))
}

/// Runs this very test, by its module and its name, once more and apart.
///
/// # Errors
/// As [`run_again_with`].
pub async fn run_again(module: &str, test: &str) -> anyhow::Result<()> {
    // A way out is made for a server; nobody takes this one.
    run_again_with(module, test, NAMESERVER, ()).await
}

/// Runs this very test, by its module and its name, once more and apart, with a way to this server.
///
/// # Errors
/// If it fails there: all that it printed. If the kernel gives no namespaces.
pub async fn run_again_with<T: Serialize>(
    module: &str,
    test: &str,
    server: SocketAddr,
    by_the_test: T,
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
    // The crate's name is no part of a test's.
    let module = module.split_once("::").map_or(module, |(_, rest)| rest);
    let name = format!("{module}::{test}");
    let told = serde_json::to_string(&Told {
        by_the_test,
        socket,
    })?;
    let ran = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("apart"))
        .arg(std::env::current_exe()?)
        .args([name.as_str(), "--exact", "--nocapture"])
        .env(TOLD, told)
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

/// The second process's way to the server, as a port of its own. Dropping it closes it.
#[derive(Debug)]
pub struct WayOut {
    address: SocketAddr,
    _carrying: AbortOnDropHandle<()>,
}

impl<T> Told<T> {
    /// Opens the way to the server.
    ///
    /// # Errors
    /// If no port is free.
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
    /// Where the server is reached.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}
