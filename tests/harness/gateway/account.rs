//! Everything that a gateway answered 202, and the account that ends a test.
//!
//! Invariant: the account has every accepted message, by the id in the gateway's response, and
//! every answer that it accepted from the test's servers.

use std::{
    collections::BTreeSet,
    sync::{MutexGuard, PoisonError},
};

use anyhow::ensure;
use roundtrip_broker::Queue;

use super::{Accounted, Answer, TestGateway, answer::text};
use crate::{
    scripted::{Received, ScriptedServer},
    wait,
};

/// Messages that were answered 202.
#[derive(Debug, Default)]
pub(super) struct Account {
    messages: BTreeSet<String>,
    callbacks: BTreeSet<String>,
}

impl TestGateway {
    pub(super) fn enter(&self, path: &str, body: &str, answer: &Answer) {
        let mut account = self.account();
        let path = path.split('?').next().unwrap_or_default();
        match (path, answer.status) {
            ("/webhook-response", 202) => {
                let body = serde_json::from_str(body).unwrap_or_default();
                account.callbacks.insert(text(&body, "session_id"));
            }
            ("/channel/message", 202) => {
                account.messages.insert(text(&answer.json(), "message_id"));
            }
            ("/channel/messages", 200) => {
                let answer = answer.json();
                let results = answer["results"].as_array().into_iter().flatten();
                let accepted = results.filter(|result| result["status"] == "queued");
                let ids = accepted.map(|result| text(result, "message_id"));
                account.messages.extend(ids);
            }
            _ => {}
        }
    }

    /// Waits until one of these servers has accepted each message.
    ///
    /// # Errors
    /// If one is not in time: which.
    pub async fn all_taken(&self, servers: &[&ScriptedServer]) -> anyhow::Result<()> {
        let accepted = self.account().messages.clone();
        let what = format!("{} accepted messages to be taken", accepted.len());
        wait::until(what, async || {
            let taken: Vec<_> = servers.iter().flat_map(|server| server.taken()).collect();
            let taken: BTreeSet<_> = taken.iter().map(Received::webhook_id).collect();
            accepted
                .iter()
                .all(|id| taken.contains(id.as_str()))
                .then_some(())
        })
        .await
    }

    /// Stops the gateway and checks the account: one of these servers accepted each message, or it
    /// is a dead letter; and one of these servers accepted each answer.
    ///
    /// # Errors
    /// If one was not, or a process does not end well.
    pub async fn finish(mut self, servers: &[&ScriptedServer]) -> anyhow::Result<Accounted> {
        let dead: BTreeSet<String> = self
            .dead_letters(Queue::OutboundDead)
            .await?
            .into_iter()
            .map(|message| message.id)
            .collect();
        for server in servers {
            self.audit.take_in(server.audit());
        }
        let taken: Vec<_> = servers.iter().flat_map(|server| server.taken()).collect();
        let answered = servers.iter().flat_map(|server| server.answered());
        let (messages, callbacks) = {
            let mut account = self.account();
            account.callbacks.extend(answered);
            (
                std::mem::take(&mut account.messages),
                std::mem::take(&mut account.callbacks),
            )
        };
        let delivered: BTreeSet<_> = taken
            .iter()
            .map(|request| request.webhook_id().to_owned())
            .collect();
        let lost: Vec<_> = messages
            .iter()
            .filter(|id| !delivered.contains(*id) && !dead.contains(*id))
            .collect();
        ensure!(
            lost.is_empty(),
            "accepted, neither delivered nor dead: {lost:?}"
        );
        let forwarded: BTreeSet<_> = taken
            .iter()
            .filter(|request| request.webhook_id().starts_with("cb_"))
            .map(|request| request.field("session_id"))
            .collect();
        let lost: Vec<_> = callbacks.difference(&forwarded).collect();
        ensure!(
            lost.is_empty(),
            "answers accepted and not forwarded: {lost:?}"
        );
        self.end().await
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
