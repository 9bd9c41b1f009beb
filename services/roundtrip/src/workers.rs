//! The roles that work queues: built from the configuration, then started.
//!
//! Invariant: what cannot be built fails the start before anything runs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context;
use roundtrip_broker::{Consumer, SharedBroker};
use roundtrip_delivery::{Admission, DeliveryRole, Pipeline, RoleName};
use roundtrip_dispatcher::{Dispatcher, ResponseUrls, WaitingRoom};
use roundtrip_egress::Egress;
use roundtrip_forwarder::{Forwarder, Notifier};
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, TokenKeys, WrongSettings};
use roundtrip_notices::Notices;
use roundtrip_recorder::Recorder;
use roundtrip_store::{CachedChannels, SharedStore};
use url::Url;

use crate::{
    cli::Role,
    config::Config,
    lifecycle::{Lifecycle, Step},
};

pub(crate) struct Workers {
    dispatcher: Option<(Pipeline<Dispatcher>, Box<dyn Consumer>)>,
    forwarder: Option<Pipeline<Forwarder>>,
    notifier: Option<Pipeline<Notifier>>,
    recorder: Option<Recorder>,
}

#[derive(Clone, Copy)]
pub(crate) struct Common<'a> {
    pub broker: &'a SharedBroker,
    pub store: &'a SharedStore,
    pub channel_cache: &'a Arc<CachedChannels>,
    pub journal: &'a Journal,
    pub notices: &'a Notices,
    pub egress: &'a Arc<Egress>,
    pub tokens: Option<&'a TokenKeys>,
    pub own_response_url: &'a Url,
    pub clock: &'a Arc<dyn Clock>,
}

impl Workers {
    pub(crate) fn build(
        config: &Config,
        roles: &BTreeSet<Role>,
        common: Common<'_>,
    ) -> Result<Self, WrongSettings> {
        let dispatcher = common
            .tokens
            .filter(|_| roles.contains(&Role::Dispatcher))
            .map(|tokens| dispatcher(config, common, tokens));
        let forwarder = roles
            .contains(&Role::Forwarder)
            .then(|| forwarder(config, common));
        let notifier = config
            .notices_url()?
            .filter(|_| roles.contains(&Role::Forwarder))
            .map(|url| notifier(config, common, url));
        let recorder = roles.contains(&Role::Recorder).then(|| {
            Recorder::new(
                &config.recorder,
                Arc::clone(common.broker),
                Arc::clone(common.store),
                common.journal.clone(),
                Arc::clone(common.clock),
                common.notices.clone(),
                config.store.content_retention,
            )
        });
        Ok(Self {
            dispatcher: dispatcher.transpose()?,
            forwarder: forwarder.transpose()?,
            notifier: notifier.transpose()?,
            recorder,
        })
    }

    pub(crate) fn answers(&self) -> Option<Admission> {
        let forwarder = self.forwarder.as_ref();
        forwarder.map(|forwarder| forwarder.admission().clone())
    }

    /// The admission of every role of the process that delivers.
    pub(crate) fn admissions(&self) -> Vec<(RoleName, Admission)> {
        fn of<R: DeliveryRole>(pipeline: &Pipeline<R>) -> (RoleName, Admission) {
            (R::NAME, pipeline.admission().clone())
        }
        let dispatcher = self.dispatcher.as_ref().map(|(pipeline, _)| of(pipeline));
        let others = [
            self.forwarder.as_ref().map(of),
            self.notifier.as_ref().map(of),
        ];
        dispatcher
            .into_iter()
            .chain(others.into_iter().flatten())
            .collect()
    }

    pub(crate) fn spawn(self, lifecycle: &mut Lifecycle, broker: &SharedBroker, drain: Duration) {
        let Self {
            dispatcher,
            forwarder,
            notifier,
            recorder,
        } = self;
        if let Some((dispatcher, waiting_room)) = dispatcher {
            let broker = Arc::clone(broker);
            lifecycle.spawn(Step::Workers, "dispatcher", |stop| async move {
                let run = dispatcher.run(broker, Some(waiting_room), drain, stop);
                run.await.context("the dispatcher")
            });
        }
        if let Some(forwarder) = forwarder {
            let broker = Arc::clone(broker);
            lifecycle.spawn(Step::Workers, "forwarder", |stop| async move {
                let run = forwarder.run(broker, None, drain, stop);
                run.await.context("the forwarder")
            });
        }
        if let Some(notifier) = notifier {
            let broker = Arc::clone(broker);
            lifecycle.spawn(Step::Workers, "notifier", |stop| async move {
                let run = notifier.run(broker, None, drain, stop);
                run.await.context("the notifier")
            });
        }
        if let Some(recorder) = recorder {
            lifecycle.spawn(Step::Workers, "recorder", |stop| async move {
                recorder.run(drain, stop).await.context("the recorder")
            });
        }
    }
}

fn dispatcher(
    config: &Config,
    common: Common<'_>,
    tokens: &TokenKeys,
) -> Result<(Pipeline<Dispatcher>, Box<dyn Consumer>), WrongSettings> {
    let own = common.own_response_url.clone();
    let response_urls = ResponseUrls::new(own, tokens.clone(), config.callback_ttl);
    let pipeline = Dispatcher::pipeline(
        &config.dispatcher,
        Arc::clone(common.channel_cache),
        Arc::clone(common.egress),
        response_urls,
        common.journal.clone(),
        common.notices.clone(),
        Arc::clone(common.clock),
    )?;
    let waiting_room = WaitingRoom::open(
        &config.dispatcher,
        Arc::clone(common.store),
        Arc::clone(common.broker),
        Arc::clone(common.channel_cache),
        Arc::clone(common.clock),
    );
    Ok((pipeline, Box::new(waiting_room)))
}

fn forwarder(config: &Config, common: Common<'_>) -> Result<Pipeline<Forwarder>, WrongSettings> {
    Forwarder::pipeline(
        &config.forwarder,
        config.sessions_server()?,
        config.sessions_signer()?,
        common.egress.roots().clone(),
        common.journal.clone(),
        Arc::clone(common.clock),
    )
}

fn notifier(
    config: &Config,
    common: Common<'_>,
    url: Url,
) -> Result<Pipeline<Notifier>, WrongSettings> {
    Notifier::pipeline(
        &config.forwarder,
        url,
        config.notices_signer()?,
        common.egress.roots().clone(),
        common.journal.clone(),
        Arc::clone(common.clock),
    )
}
