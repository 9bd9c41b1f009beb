//! A nameserver with scripted answers, which may change from one question to the next.
//!
//! Invariant: every answer has a time to live of 0, so no client caches it.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

/// The types of question that are answered (RFC 1035, RFC 3596, RFC 2782).
const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Longer than a question over UDP.
const MAX_QUESTION: usize = 1500;
/// The header of a message, and where its parts are.
const HEADER: usize = 12;
/// An answer, recursion is there.
const ANSWERED: [u8; 2] = [0x81, 0x80];
/// Where the question's name stands, as a pointer.
const THE_NAME: [u8; 2] = [0xc0, 12];
const INTERNET: [u8; 2] = [0, 1];
/// A service's priority and weight.
const NO_PREFERENCE: [u8; 4] = [0; 4];

/// What a name has.
#[derive(Debug, Clone)]
pub enum Record {
    Address(IpAddr),
    /// A service: on which host, on which port.
    Service(String, u16),
    /// A text of at most 255 bytes.
    Text(String),
    /// No answer at all, whatever else the name has.
    Silence,
}

impl From<IpAddr> for Record {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

/// The server. Dropping it closes it.
pub struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<BTreeMap<(String, u16), usize>>>,
    _answering: AbortOnDropHandle<()>,
}

impl NameServer {
    /// Starts a server that answers the n-th question (from 0 on) for a name, which comes in lower
    /// case, with these records. What they are decides which type of question they answer; the
    /// types are counted apart.
    pub async fn start<R: Into<Record>>(
        answers: impl Fn(&str, usize) -> Vec<R> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answers).await
    }

    /// The same, there.
    pub async fn start_at<R: Into<Record>>(
        address: SocketAddr,
        answers: impl Fn(&str, usize) -> Vec<R> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(address).await;
        let socket = socket.context("listening")?;
        let address = socket.local_addr()?;
        let asked = Arc::new(Mutex::new(BTreeMap::new()));
        let counted = Arc::clone(&asked);
        let answering = tokio::spawn(async move {
            let mut bytes = [0; MAX_QUESTION];
            // It answers until it is aborted.
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                let Some(question) = Question::read(&bytes[..length]) else {
                    continue;
                };
                let before = {
                    let mut asked = counted.lock().unwrap_or_else(PoisonError::into_inner);
                    let count = asked
                        .entry((question.name.clone(), question.kind))
                        .or_insert(0);
                    *count += 1;
                    *count - 1
                };
                let records: Vec<_> = answers(&question.name, before)
                    .into_iter()
                    .map(R::into)
                    .collect();
                if records
                    .iter()
                    .any(|record| matches!(record, Record::Silence))
                {
                    continue;
                }
                let answer = question.answer(records.into_iter());
                // Who asked may have gone.
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Ok(Self {
            address,
            asked,
            _answering: AbortOnDropHandle::new(answering),
        })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it was asked for a name's IPv4 addresses.
    pub fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked
            .get(&(name.to_owned(), A))
            .copied()
            .unwrap_or_default()
    }
}

impl fmt::Debug for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The one question of a message.
struct Question<'a> {
    id: &'a [u8],
    /// The question as it came: the case of its letters may be the asker's secret.
    section: &'a [u8],
    name: String,
    kind: u16,
}

impl<'a> Question<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        let mut at = HEADER;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
        Some(Self {
            id: message.get(..2)?,
            section: message.get(HEADER..at + 4)?,
            name: labels.join("."),
            kind,
        })
    }

    fn answer(&self, records: impl Iterator<Item = Record>) -> Vec<u8> {
        let data: Vec<Vec<u8>> = records
            .filter_map(|record| match record {
                Record::Address(IpAddr::V4(address)) if self.kind == A => {
                    Some(address.octets().to_vec())
                }
                Record::Address(IpAddr::V6(address)) if self.kind == AAAA => {
                    Some(address.octets().to_vec())
                }
                Record::Service(host, port) if self.kind == SRV => {
                    Some([&NO_PREFERENCE[..], &port.to_be_bytes(), &name(&host)].concat())
                }
                Record::Text(text) if self.kind == TXT => Some(counted(&text)),
                _ => None,
            })
            .collect();
        let count = u16::try_from(data.len()).unwrap_or_default().to_be_bytes();
        let mut message = [self.id, &ANSWERED, &[0, 1], &count, &[0; 4], self.section].concat();
        for data in data {
            let length = u16::try_from(data.len()).unwrap_or_default().to_be_bytes();
            message.extend(THE_NAME);
            message.extend(self.kind.to_be_bytes());
            message.extend(INTERNET);
            message.extend([0; 4]);
            message.extend(length);
            message.extend(data);
        }
        message
    }
}

/// A text behind its length.
fn counted(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    let bytes = text.bytes().take(length.into());
    std::iter::once(length).chain(bytes).collect()
}

/// A name: its labels, and the root's, which is empty.
fn name(name: &str) -> Vec<u8> {
    name.split('.').chain([""]).flat_map(counted).collect()
}
