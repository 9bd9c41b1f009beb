//! A listener that no connection may reach: it counts connections and sends nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// The listener. Dropping it closes it.
#[derive(Debug)]
pub struct Trap {
    address: SocketAddr,
    fell: Arc<AtomicUsize>,
    _listening: AbortOnDropHandle<()>,
}

impl Trap {
    /// Listens on this address.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn start_at(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.context("listening")?;
        let address = listener.local_addr()?;
        let fell = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&fell);
        let listening = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Self {
            address,
            fell,
            _listening: AbortOnDropHandle::new(listening),
        })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.fell.load(Ordering::SeqCst)
    }
}
