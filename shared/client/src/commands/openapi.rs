//! `roundtrip openapi`

use crate::{
    api::{Api, Call},
    failure::Failure,
    screen::document,
};

pub(crate) async fn run(api: &Api) -> Result<(), Failure> {
    let reply = api.call(Call::get(&["openapi.json"])).await?;
    reply.value()?;
    document(&reply.body)
}
