//! A connection to the gateway that is written byte by byte.
//!
//! Invariant: the audit gets everything that is read from it.

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{audit::Audit, http::Peer, wait::WAIT_LIMIT};

#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    audit: Audit,
}

impl Raw {
    pub(super) async fn open(peer: Peer) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(peer.address).await;
        Ok(Self {
            stream: stream.context("connecting")?,
            audit: peer.audit,
        })
    }

    pub async fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.stream.write_all(text.as_bytes()).await?;
        Ok(())
    }

    /// Reads exactly this.
    pub async fn expect(&mut self, text: &str) -> anyhow::Result<()> {
        let mut received = vec![0; text.len()];
        timeout(WAIT_LIMIT, self.stream.read_exact(&mut received)).await??;
        let received = String::from_utf8_lossy(&received);
        self.audit.raw_response(&received);
        ensure!(received == text, "received {received}");
        Ok(())
    }

    /// Reads until the received text contains this, and returns it.
    pub async fn until(&mut self, text: &str) -> anyhow::Result<String> {
        let mut received = Vec::new();
        let reading = async {
            while !String::from_utf8_lossy(&received).contains(text) {
                let read = self.stream.read_buf(&mut received).await?;
                ensure!(read > 0, "the gateway closed the connection");
            }
            Ok(())
        };
        let read = timeout(WAIT_LIMIT, reading).await;
        let received = String::from_utf8_lossy(&received).into_owned();
        read.with_context(|| format!("received only {received}"))?
            .with_context(|| format!("received only {received}"))?;
        Ok(received)
    }

    /// Reads until the gateway closes the connection.
    pub async fn rest(&mut self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let read = timeout(WAIT_LIMIT, self.stream.read_to_end(&mut bytes)).await;
        // A reset also counts as a close; only the time matters.
        let _ = read.context("the connection stays open")?;
        let received = String::from_utf8_lossy(&bytes).into_owned();
        self.audit.raw_response(&received);
        Ok(received)
    }
}
