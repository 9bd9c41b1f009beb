//! A TCP proxy that fails on command: it cuts, refuses, freezes, goes silent, and comes back.
//!
//! Invariant: it forwards bytes unchanged and in order, until its mode is changed. A mode applies
//! to open and new connections.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The size of the forwarding buffer.
const CHUNK: usize = 16 * 1024;

/// How a proxy handles its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Forwards.
    Carry,
    /// Accepts connections and forwards nothing.
    Stall,
    /// Cuts open connections, and closes new ones at once.
    Refuse,
}

/// Which connections are open: a cut ends all earlier ones, a freeze stops all earlier ones.
#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    cuts: u64,
    freezes: u64,
}

/// A proxy; it ends when it is dropped, and its connections with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `target`, on a free port of the loopback interface.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), target).await
    }

    /// The same, on this address.
    pub async fn start_at(address: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(watch::Sender::new(State {
            mode: Mode::Carry,
            cuts: 0,
            freezes: 0,
        }));
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every open connection; forwards new ones.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Reads from clients on open connections and sends nothing back; forwards new ones.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.freezes += 1);
    }

    /// Cuts every open connection, and refuses new ones.
    pub fn refuse(&self) {
        self.set(Mode::Refuse);
    }

    /// Keeps every connection and forwards nothing, like a network that drops packets.
    pub fn stall(&self) {
        self.set(Mode::Stall);
    }

    /// Forwards again, including the bytes that a stall delayed.
    pub fn resume(&self) {
        self.set(Mode::Carry);
    }

    fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.refuse();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: Arc<watch::Sender<State>>) {
    loop {
        // An error concerns the connection, not the listener.
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let state = state.subscribe();
        tokio::spawn(carry(client, target, state));
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    let State { cuts, freezes, .. } = *state.borrow();
    let mut frozen = state.clone();
    let carried = {
        let state = state.clone();
        async move {
            let server = TcpStream::connect(target).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (mut client_reads, mut client_writes) = client.into_split();
            let (server_reads, server_writes) = server.into_split();
            let there_and_back = async {
                tokio::try_join!(
                    one_way(&mut client_reads, server_writes, state.clone()),
                    one_way(server_reads, &mut client_writes, state),
                )
            };
            let ended = tokio::select! {
                biased;
                _ = frozen.wait_for(|now| now.freezes != freezes) => None,
                ended = there_and_back => Some(ended),
            };
            match ended {
                Some(ended) => ended.map(drop),
                None => copy(&mut client_reads, &mut sink()).await.map(drop),
            }
        }
    };
    tokio::select! {
        // A cut comes first: otherwise a resume right after it could carry what a stall held back.
        biased;
        // An error is the proxy's own end.
        _ = state.wait_for(|now| now.mode == Mode::Refuse || now.cuts != cuts) => {}
        // An error is one side's end; dropping both sockets ends the other.
        _ = carried => {}
    }
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await?;
        let carried = state.wait_for(|now| now.mode == Mode::Carry).await;
        carried.map_err(io::Error::other)?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..length]).await?;
    }
}
