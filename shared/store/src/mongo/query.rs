//! A query's page of channels.
//!
//! Invariant: if the filter is limited to some channels, it is evaluated only for those. The server
//! may evaluate the conditions of one filter in any order; only a stage after a limit sees just the
//! documents from before it.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::{Collection, Cursor as Documents, error::Error};
use roundtrip_model::StoredChannel;

use super::{BARRIER, failed, translate, value};
use crate::{
    ChannelPage, Cursor, Direction, Filter, PageRequest, Sort, SortField, StoreError,
    document::{self, FIELDS},
    page::PageBudget,
};

/// Fills a page from each range in turn.
pub(super) async fn page(
    channels: &Collection<Document>,
    max_time: Duration,
    filter: &Filter,
    request: &PageRequest,
) -> Result<ChannelPage, StoreError> {
    let mut budget = PageBudget::of(request.limit);
    let mut found: Vec<StoredChannel> = Vec::new();
    for range in ranges(request) {
        let mut documents = find(channels, max_time, filter, request, range)
            .await
            .map_err(failed)?;
        while documents.advance().await.map_err(failed)? {
            let raw = documents.current();
            let bytes = raw.as_bytes().len();
            let read =
                Document::try_from(raw).map_err(|error| StoreError::Unavailable(error.into()))?;
            let read = document::channel(value::to_json(read));
            let Some(channel) = document::readable(read) else {
                continue;
            };
            if !budget.take(bytes) {
                let next = found.last().map(|last| Cursor::after(last, request.sort));
                return Ok(ChannelPage {
                    channels: found,
                    next,
                });
            }
            found.push(channel);
        }
    }
    Ok(ChannelPage {
        channels: found,
        next: None,
    })
}

/// Without a limit for the server, because documents that are not channels do not count. One more
/// document than fits shows that there is a next page. The server bounds each batch to 16 MiB.
async fn find(
    channels: &Collection<Document>,
    max_time: Duration,
    filter: &Filter,
    request: &PageRequest,
    range: Range,
) -> Result<Documents<Document>, Error> {
    let batch_size = u32::from(request.limit) + 1;
    let asked = translate::filter(filter);
    if let Some(own) = translate::own(filter) {
        let stages = stages(own, asked, range);
        return channels
            .aggregate(stages)
            .batch_size(batch_size)
            .max_time(max_time)
            .await;
    }
    channels
        .find(doc! { "$and": [range.bounds, asked] })
        .sort(range.order)
        .projection(fields())
        .batch_size(batch_size)
        .max_time(max_time)
        .await
}

/// A query that first finds the caller's own channels, and then applies its conditions.
fn stages(own: Document, asked: Document, range: Range) -> [Document; 5] {
    [
        doc! { "$match": { "$and": [own, range.bounds] } },
        doc! { "$sort": range.order },
        doc! { "$limit": BARRIER },
        doc! { "$match": asked },
        doc! { "$project": fields() },
    ]
}

fn fields() -> Document {
    FIELDS
        .map(|field| (field.to_owned(), Bson::Int32(1)))
        .into_iter()
        .collect()
}

/// The BSON types without text, null and the deprecated ones. Named one by one they are ranges of
/// the index; a negated condition would scan the collection.
const NO_TEXTS: [&str; 9] = [
    "number",
    "object",
    "array",
    "binData",
    "objectId",
    "bool",
    "date",
    "regex",
    "timestamp",
];

/// A part of the collection, in the order of an index.
struct Range {
    bounds: Document,
    order: Document,
}

/// The part of the collection after the page's cursor, in the page's order.
///
/// By name there are two parts: the channels without a name, by id, and those with one. MongoDB
/// orders a name that is missing or not text separately from an empty one.
fn ranges(request: &PageRequest) -> Vec<Range> {
    let Sort { field, direction } = request.sort;
    let (after, order) = match direction {
        Direction::Ascending => ("$gt", 1),
        Direction::Descending => ("$lt", -1),
    };
    // `$gte` an empty text matches every text, and only text.
    let by_id = |bounds: Document, last: Option<&Cursor>| Range {
        bounds: doc! { "$and": [bounds, { "channel_id": last.map_or_else(
            || doc! { "$gte": "" },
            |last| doc! { after: last.channel_id.as_str() },
        ) }] },
        order: doc! { "channel_id": order },
    };
    let nameless = |last| {
        let others = doc! { "channel_name": { "$type": NO_TEXTS.to_vec() } };
        let empty = doc! { "channel_name": { "$in": [Bson::Null, ""] } };
        by_id(doc! { "$or": [empty, others] }, last)
    };
    // A list that contains a text is also greater than an empty text.
    let named = |mut bounds: Document| {
        bounds.insert("$not", doc! { "$type": "array" });
        doc! { "channel_name": bounds }
    };
    let by_name = |last: Option<&Cursor>| Range {
        bounds: match last {
            None => named(doc! { "$gt": "" }),
            Some(last) => doc! { "$and": [named(doc! { "$gt": "" })], "$or": [
                { "channel_name": { after: last.value.as_str() } },
                { "channel_name": last.value.as_str(), "channel_id": { after: last.channel_id.as_str() } },
            ] },
        },
        order: doc! { "channel_name": order, "channel_id": order },
    };
    let last = request.cursor.as_ref();
    let was_nameless = last.is_some_and(|last| last.value.is_empty());
    match (field, direction) {
        (SortField::ChannelId, _) => vec![by_id(doc! {}, last)],
        (SortField::ChannelName, Direction::Ascending) if last.is_none() => {
            vec![nameless(None), by_name(None)]
        }
        (SortField::ChannelName, Direction::Ascending) if was_nameless => {
            vec![nameless(last), by_name(None)]
        }
        (SortField::ChannelName, Direction::Ascending) => vec![by_name(last)],
        (SortField::ChannelName, Direction::Descending) if was_nameless => vec![nameless(last)],
        (SortField::ChannelName, Direction::Descending) => vec![by_name(last), nameless(None)],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limited_principals_filter_runs_after_a_limit() {
        let json = json!({"channel_metadata.secret": {"$regex": "^a"}});
        let own = ["b", "a"].map(|id| id.parse().unwrap());
        let filter = Filter::parse(&json).unwrap().within(&own);
        let range = ranges(&PageRequest::default()).remove(0);
        let asked = translate::filter(&filter);
        let own = translate::own(&filter).unwrap();
        let [first, sort, barrier, second, _] = stages(own, asked.clone(), range);
        let ids = doc! { "channel_id": { "$in": ["a", "b"] } };
        let all = doc! { "$and": [{}, { "channel_id": { "$gte": "" } }] };
        assert_eq!(first, doc! { "$match": { "$and": [ids, all] } });
        assert_eq!(sort, doc! { "$sort": { "channel_id": 1 } });
        assert_eq!(barrier, doc! { "$limit": BARRIER });
        assert_eq!(second, doc! { "$match": asked });
    }
}
