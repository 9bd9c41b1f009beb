//! A channel with confirms, and one publish on it.

use std::time::Duration;

use lapin::{
    Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use super::{
    channel::OpenChannel,
    link::Link,
    link_error::{LinkError, limited},
    publisher::Publisher,
    topology::Topology,
    wire::Outgoing,
};

const RESPONSE_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn confirming(link: &Link) -> Result<OpenChannel, LinkError> {
    let channel = link.channel().await?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    limited("confirm.select", RESPONSE_LIMIT, confirms).await?;
    Ok(channel)
}

pub(super) async fn publish(
    channel: &OpenChannel,
    publisher: &Publisher,
    topology: &Topology,
    outgoing: &Outgoing,
) -> lapin::Result<Confirmation> {
    let Outgoing {
        to,
        properties,
        body,
    } = outgoing;
    let unconfirmed = publisher.confirms.sent(to.queue(), to.is_new());
    let (exchange, key) = (topology.exchange(*to).clone(), topology.key(*to).clone());
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let sent = channel.basic_publish(exchange, key, mandatory, body, properties.clone());
    let confirmation = sent.await?.await?;
    unconfirmed.confirmed();
    Ok(confirmation)
}
