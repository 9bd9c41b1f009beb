//! `POST /channels`: channels by filter, a page at a time.

use axum::{extract::State, response::Response};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use roundtrip_model::StoredChannel;
use roundtrip_store::{Cursor, Direction, Filter, PageRequest, Sort, SortField};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    auth::Principal, ingress::Ingress, json::body::Json, pages::page_size, parameters::Parameters,
    problem::Problem,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageParameters {
    limit: Option<String>,
    cursor: Option<String>,
    sort: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Found {
    channels: Vec<StoredChannel>,
    next_cursor: Option<String>,
}

pub(crate) async fn query(
    State(ingress): State<Ingress>,
    principal: Principal,
    Parameters(parameters): Parameters<PageParameters>,
    filter: Option<Json<Value>>,
) -> Result<Response, Problem> {
    let Json(filter) = filter.ok_or_else(|| Problem::no_filter("{} finds every channel"))?;
    let mut filter = Filter::parse(&filter)?;
    if let Some(own) = principal.channels() {
        filter = filter.within(own);
    }
    let request = page(parameters)?;
    let under_way = ingress.queries.begin(&principal)?;
    let page = under_way
        .ask(ingress.store.query(&filter, &request))
        .await?;
    let found = Found {
        channels: page.channels,
        next_cursor: page.next.map(|cursor| write_cursor(request.sort, cursor)),
    };
    ingress.response_budget.json(&found, under_way)
}

pub(crate) fn page(parameters: PageParameters) -> Result<PageRequest, Problem> {
    let limit = page_size(parameters.limit.as_deref())?;
    let sort = parameters
        .sort
        .as_deref()
        .map_or_else(|| Ok(Sort::default()), read_sort)?;
    let cursor = parameters
        .cursor
        .map(|text| {
            read_cursor(sort, &text).ok_or_else(|| {
                Problem::invalid_field("cursor", "must be a 'next_cursor' of this query")
            })
        })
        .transpose()?;
    Ok(PageRequest {
        limit,
        sort,
        cursor,
    })
}

/// A field's name; a leading minus reverses the order.
fn read_sort(text: &str) -> Result<Sort, Problem> {
    let (direction, name) = text
        .strip_prefix('-')
        .map_or((Direction::Ascending, text), |name| {
            (Direction::Descending, name)
        });
    let field = match name {
        "channel_id" => SortField::ChannelId,
        "channel_name" => SortField::ChannelName,
        _ => {
            return Err(Problem::invalid_field(
                "sort",
                "must be channel_id or channel_name, with a minus before it for descending",
            ));
        }
    };
    Ok(Sort { field, direction })
}

/// A cursor as clients carry it. It names its order: under another order it would skip channels.
#[derive(Debug, Serialize, Deserialize)]
struct WrittenCursor {
    order: (u8, u8),
    value: String,
    channel_id: String,
}

const fn order(sort: Sort) -> (u8, u8) {
    (
        match sort.field {
            SortField::ChannelId => 0,
            SortField::ChannelName => 1,
        },
        match sort.direction {
            Direction::Ascending => 0,
            Direction::Descending => 1,
        },
    )
}

pub(crate) fn write_cursor(sort: Sort, cursor: Cursor) -> String {
    let Cursor { value, channel_id } = cursor;
    let written = WrittenCursor {
        order: order(sort),
        value,
        channel_id,
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&written).unwrap_or_default())
}

fn read_cursor(sort: Sort, text: &str) -> Option<Cursor> {
    let json = URL_SAFE_NO_PAD.decode(text).ok()?;
    let WrittenCursor {
        order: written,
        value,
        channel_id,
    } = serde_json::from_slice(&json).ok()?;
    (written == order(sort)).then_some(Cursor { value, channel_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_under_its_own_order_only() {
        let sort = read_sort("-channel_name").unwrap_or_default();
        let cursor = Cursor {
            value: "ä".to_owned(),
            channel_id: "c".to_owned(),
        };
        let text = write_cursor(sort, cursor.clone());
        assert_eq!(read_cursor(sort, &text), Some(cursor));
        assert_eq!(read_cursor(Sort::default(), &text), None);
    }

    #[test]
    fn a_cursor_that_was_tampered_with_is_no_cursor() {
        for text in ["", "x", "e30", "%%%"] {
            assert_eq!(read_cursor(Sort::default(), text), None, "{text}");
        }
    }
}
