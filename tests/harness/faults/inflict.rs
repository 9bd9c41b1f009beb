//! Inflicts faults, each at its place in the stream of messages.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use hyper::StatusCode;
use tokio::{sync::watch, time::sleep};

use super::draw::{Drawn, Fault};
use crate::{
    counting::CountingServer,
    http::{Connection, Peer},
    loader::Progress,
    proxy::Proxy,
    servers::Server,
    stack::{IN_FLIGHT, Role, Stack},
    wait,
};

/// How often the loader's progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What faults are inflicted on.
pub(super) struct Victims<'a> {
    pub(super) stack: &'a mut Stack,
    pub(super) broker: Option<&'a mut Server>,
    /// Between the gateway and its servers, where it has any.
    pub(super) proxies: Option<&'a Proxies>,
    pub(super) channels: &'a CountingServer,
    pub(super) channel_ids: &'a [String],
    pub(super) sessions: &'a CountingServer,
    pub(super) progress: &'a Progress,
    pub(super) gate: watch::Sender<u64>,
    pub(super) messages: u64,
    /// How many messages may be accepted while something is wrong.
    pub(super) meanwhile: u64,
}

/// The proxies between the gateway and its servers.
#[derive(Debug)]
pub(super) struct Proxies {
    pub(super) broker: Proxy,
    pub(super) store: Proxy,
}

impl Victims<'_> {
    /// Inflicts all, one after the other, and enters after how many accepted messages each came.
    pub(super) async fn inflict(
        mut self,
        drawn: &[Drawn],
        inflicted: &mut Vec<(Fault, u64)>,
    ) -> anyhow::Result<()> {
        for one in drawn {
            // A little beyond, so that posts are under way when the fault comes.
            self.gate.send_replace(one.place + IN_FLIGHT as u64);
            self.accepted(one.place).await;
            let accepted = self.progress.accepted.load(Ordering::Acquire);
            inflicted.push((one.fault, accepted));
            self.inflict_one(one).await?;
        }
        self.gate.send_replace(u64::MAX);
        // Held until the loader is done, for its posters wait on the gate.
        self.accepted(self.messages).await;
        Ok(())
    }

    async fn inflict_one(&mut self, drawn: &Drawn) -> anyhow::Result<()> {
        match drawn.fault {
            // Nothing is accepted without these.
            Fault::Kill(role @ (Role::All | Role::Ingress)) => {
                let repeated = self.progress.repeated.load(Ordering::Acquire);
                self.stack.process(role)?.kill().await?;
                self.open_gate();
                self.refused(repeated).await;
                self.stack.process(role)?.restart().await
            }
            Fault::Kill(role) => {
                self.stack.process(role)?.kill().await?;
                // Work piles up, to be found by the next one.
                self.pile_up().await;
                self.stack.process(role)?.restart().await
            }
            Fault::KillBroker => {
                let repeated = self.progress.repeated.load(Ordering::Acquire);
                let broker = self.broker.as_deref_mut().context("no broker to kill")?;
                broker.kill().await?;
                self.open_gate();
                self.refused(repeated).await;
                let broker = self.broker.as_deref_mut().context("no broker to start")?;
                broker.restart().await
            }
            Fault::CutBroker => {
                self.proxies()?.broker.cut();
                self.pile_up().await;
                Ok(())
            }
            Fault::CutStore => {
                self.proxies()?.store.cut();
                self.pile_up().await;
                Ok(())
            }
            Fault::StoreUnavailable => {
                self.proxies()?.store.refuse();
                self.last(drawn.lasts).await;
                self.proxies()?.store.resume();
                Ok(())
            }
            Fault::ChannelsFail => {
                self.channels.fail(StatusCode::INTERNAL_SERVER_ERROR);
                self.last(drawn.lasts).await;
                self.channels.recover();
                Ok(())
            }
            Fault::ChannelsPaused => {
                self.each_channel("pause").await?;
                self.last(drawn.lasts).await;
                self.each_channel("resume").await
            }
            Fault::SessionsFail => {
                self.sessions.fail(StatusCode::SERVICE_UNAVAILABLE);
                self.last(drawn.lasts).await;
                self.sessions.recover();
                Ok(())
            }
        }
    }

    /// Makes this call for each channel. A connection that an earlier fault broke may refuse one.
    async fn each_channel(&self, call: &str) -> anyhow::Result<()> {
        let ingress = self.stack.ingress();
        for id in self.channel_ids {
            let path = format!("/channel/{id}/{call}");
            wait::until(&path, async || {
                let status = post(&ingress, &path).await.ok()?;
                status.is_success().then_some(())
            })
            .await?;
        }
        Ok(())
    }

    fn proxies(&self) -> anyhow::Result<&Proxies> {
        self.proxies.context("no servers to be cut off")
    }

    /// Lets the loader go on a little, and says how far.
    fn open_gate(&self) -> u64 {
        let gate = self.progress.accepted.load(Ordering::Acquire) + self.meanwhile;
        self.gate.send_replace(gate);
        gate
    }

    /// Lets some messages be accepted, and waits for them.
    async fn pile_up(&self) {
        let gate = self.open_gate();
        self.accepted(gate - 1).await;
    }

    /// Lets some messages come while a fault lasts.
    async fn last(&self, lasts: Duration) {
        self.open_gate();
        sleep(lasts).await;
    }

    /// Waits until so many messages were accepted.
    async fn accepted(&self, messages: u64) {
        while self.progress.accepted.load(Ordering::Acquire) < messages.min(self.messages) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a post was refused beyond those before.
    async fn refused(&self, before: u64) {
        while self.progress.repeated.load(Ordering::Acquire) <= before {
            sleep(LOOK_EVERY).await;
        }
    }
}

async fn post(ingress: &Peer, path: &str) -> anyhow::Result<StatusCode> {
    let mut connection = Connection::open(ingress).await?;
    let (status, _) = connection.post(path, Bytes::new()).await?;
    Ok(status)
}
