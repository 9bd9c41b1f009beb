//! An AMQP proxy that delays the broker's replies of one kind, like a broker that waits for a queue
//! without a leader.
//!
//! Invariant: the frames of one channel stay in order. A delayed reply delays all later frames of
//! its channel, and no other channel.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// A frame's type, channel and size (AMQP 0-9-1, section 4.2.3).
const HEAD: usize = 7;

/// The octet after a frame's payload.
const END: usize = 1;

/// The type of a frame that carries a method.
const METHOD: u8 = 1;

/// A method's class and number (AMQP 0-9-1, section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(pub u16, pub u16);

impl Method {
    /// No method has these numbers.
    const NONE: Self = Self(0, 0);
    /// `connection.open-ok`
    const OPEN_OK: Self = Self(10, 41);
    /// `queue.declare-ok`
    pub const DECLARE_OK: Self = Self(50, 11);
    /// `basic.qos-ok`
    pub const QOS_OK: Self = Self(60, 11);
    /// `basic.consume-ok`
    pub const CONSUME_OK: Self = Self(60, 21);
    /// `basic.cancel-ok`
    pub const CANCEL_OK: Self = Self(60, 31);
    /// `basic.ack`: to a publisher, a confirm
    pub const ACK: Self = Self(60, 80);
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct StuckProxy {
    address: SocketAddr,
    held_back: Arc<watch::Sender<Option<Method>>>,
    /// How many AMQP connections were opened so far.
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl StuckProxy {
    /// A proxy in front of `target`, on a free port of the loopback interface.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let held_back = Arc::new(watch::Sender::new(None));
        let connections = Arc::default();
        let accepting = accept(
            listener,
            target,
            Arc::clone(&held_back),
            Arc::clone(&connections),
        );
        Ok(Self {
            address,
            held_back,
            connections,
            accepting: tokio::spawn(accepting),
        })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Delays every reply of this kind from now on, until [`StuckProxy::release`].
    pub fn hold_back(&self, method: Method) {
        self.held_back.send_replace(Some(method));
    }

    /// Delays nothing from now on except on the channels that are held back already.
    pub fn hold_back_no_more(&self) {
        self.held_back.send_replace(Some(Method::NONE));
    }

    /// Forwards all delayed frames, and all later ones.
    pub fn release(&self) {
        self.held_back.send_replace(None);
    }

    /// How many AMQP connections were opened so far. A probe that only waits for the greeting does
    /// not count.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for StuckProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    held_back: Arc<watch::Sender<Option<Method>>>,
    connections: Arc<AtomicUsize>,
) {
    loop {
        // An error concerns the connection, not the listener.
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let connections = Arc::clone(&connections);
        tokio::spawn(carry(client, target, held_back.subscribe(), connections));
    }
}

async fn carry(
    client: TcpStream,
    target: SocketAddr,
    held_back: watch::Receiver<Option<Method>>,
    connections: Arc<AtomicUsize>,
) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut client_reads, client_writes) = client.into_split();
    let (server_reads, mut server_writes) = server.into_split();
    tokio::select! {
        _ = copy(&mut client_reads, &mut server_writes) => {}
        _ = answers(server_reads, client_writes, held_back, connections) => {}
    }
    Ok(())
}

/// Carries the broker's frames to the client.
async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut held_back: watch::Receiver<Option<Method>>,
    connections: Arc<AtomicUsize>,
) -> io::Result<()> {
    let mut waiting: HashMap<u16, VecDeque<Vec<u8>>> = HashMap::new();
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            read = from.read_buf(&mut buffer) => if read? == 0 {
                return to.shutdown().await;
            },
            changed = held_back.changed() => changed.map_err(io::Error::other)?,
        }
        let method = *held_back.borrow_and_update();
        if method.is_none() {
            for frame in waiting.drain().flat_map(|(_, frames)| frames) {
                to.write_all(&frame).await?;
            }
        }
        while let Some(frame) = next_frame(&mut buffer) {
            let channel = u16::from_be_bytes([frame[1], frame[2]]);
            if method_of(&frame) == Some(Method::OPEN_OK) {
                connections.fetch_add(1, Ordering::Relaxed);
            }
            let is_held_back = method.is_some() && method == method_of(&frame);
            match waiting.get_mut(&channel) {
                Some(frames) => frames.push_back(frame),
                None if is_held_back => drop(waiting.insert(channel, VecDeque::from([frame]))),
                None => to.write_all(&frame).await?,
            }
        }
    }
}

/// Removes the first frame, if it is complete.
fn next_frame(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let size = buffer.get(3..HEAD)?.try_into().ok()?;
    let length = HEAD + usize::try_from(u32::from_be_bytes(size)).ok()? + END;
    (buffer.len() >= length).then(|| buffer.drain(..length).collect())
}

fn method_of(frame: &[u8]) -> Option<Method> {
    let [METHOD, rest @ ..] = frame else {
        return None;
    };
    let number = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    Some(Method(number(HEAD - 1)?, number(HEAD + 1)?))
}
