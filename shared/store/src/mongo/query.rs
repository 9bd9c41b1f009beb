//! A query's page of channels.
//!
//! Invariant: the server only finds candidates, by an index. This process decides which of them
//! match. If the filter is limited to some channels, the server reads no others, because the
//! duration would reveal that they exist.

use std::{
    ops::{Bound, ControlFlow},
    time::{Duration, Instant},
};

use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::{Collection, Cursor as Documents, error::Error};
use tokio::task::spawn_blocking;

use super::value;
use crate::{
    ChannelPage, Cursor, Direction, Filter, PageRequest, QueryError, Sort, SortField, Unavailable,
    document::{FIELDS, say_passed_over},
    filter::Candidates,
    search::Search,
};

/// How many documents the server sends at once if few of them may match.
const SCAN_BATCH: u32 = 1000;
/// How many bytes of documents are evaluated at once, and one document more.
const BATCH_BYTES: usize = 1 << 20;

pub(super) async fn page(
    channels: &Collection<Document>,
    max_time: Duration,
    filter: &Filter,
    request: &PageRequest,
) -> Result<ChannelPage, QueryError> {
    let deadline = Instant::now() + max_time;
    let mut search = Search::new(filter, request, deadline);
    let candidates = filter.candidates();
    let few_match = matches!(candidates, Candidates::Range(..)) && !filter.matches_all();
    // One more document than fits shows that there is a next page.
    let fits = u32::from(request.limit) + 1;
    let batch_size = if few_match {
        fits.max(SCAN_BATCH)
    } else {
        fits
    };
    let candidates = found(candidates);
    for range in ranges(request) {
        let mut documents = None;
        loop {
            let batch = async {
                let documents = match &mut documents {
                    Some(documents) => documents,
                    none => {
                        let found = channels
                            .find(both(range.bounds.clone(), candidates.clone()))
                            .sort(range.order.clone())
                            .projection(fields())
                            .batch_size(batch_size)
                            .max_time(deadline.saturating_duration_since(Instant::now()));
                        none.insert(found.await?)
                    }
                };
                batch(documents, batch_size).await
            };
            let batch = match batch.await.map_err(QueryError::from) {
                Ok(batch) if batch.is_empty() => break,
                Ok(batch) => batch,
                // The page ends with what was evaluated until then.
                Err(QueryError::TooCostly) => {
                    let _ = search.cut();
                    return search.page();
                }
                Err(error) => return Err(error),
            };
            // On a thread that may be busy for long.
            let evaluated = spawn_blocking(move || {
                let flow = batch.iter().try_for_each(|raw| add(&mut search, raw));
                (search, flow)
            });
            let (with_batch, flow) = evaluated.await.map_err(Unavailable::new)?;
            search = with_batch;
            if flow.is_break() {
                return search.page();
            }
        }
    }
    search.page()
}

/// The next documents, as many as are evaluated at once. Empty at the end.
async fn batch(
    documents: &mut Documents<Document>,
    most: u32,
) -> Result<Vec<RawDocumentBuf>, Error> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for _ in 0..most {
        if bytes >= BATCH_BYTES || !documents.advance().await? {
            break;
        }
        let raw = documents.current().to_owned();
        bytes += raw.as_bytes().len();
        batch.push(raw);
    }
    Ok(batch)
}

fn add(search: &mut Search, raw: &RawDocumentBuf) -> ControlFlow<()> {
    match Document::try_from(raw) {
        Ok(document) => search.add(raw.as_bytes().len(), value::to_json(document)),
        Err(error) => {
            say_passed_over(&error);
            ControlFlow::Continue(())
        }
    }
}

fn found(candidates: Candidates) -> Document {
    let texts = |texts| {
        Bson::Array(
            Vec::from_iter(texts)
                .into_iter()
                .map(Bson::String)
                .collect(),
        )
    };
    match candidates {
        Candidates::Ids(ids) => doc! { "channel_id": { "$in": texts(ids) } },
        Candidates::Texts(field, found) => doc! { field: { "$in": texts(found) } },
        Candidates::Range(from, to) => {
            let mut range = doc! { "$gte": "" };
            match from {
                Bound::Unbounded => {}
                Bound::Included(id) => drop(range.insert("$gte", id)),
                Bound::Excluded(id) => drop(range.insert("$gt", id)),
            }
            match to {
                Bound::Unbounded => {}
                Bound::Included(id) => drop(range.insert("$lte", id)),
                Bound::Excluded(id) => drop(range.insert("$lt", id)),
            }
            doc! { "channel_id": range }
        }
    }
}

/// Both conditions, without an `$and` where that is possible: not every server looks within it for
/// a field that has an index.
fn both(mut one: Document, other: Document) -> Document {
    let mut apart = Vec::new();
    for (key, value) in other {
        match (one.get_mut(&key), value) {
            (None, value) => drop(one.insert(key, value)),
            (Some(Bson::Document(known)), Bson::Document(more)) if agree(known, &more) => {
                known.extend(more);
            }
            (Some(_), value) => apart.push(Bson::Document(doc! { key: value })),
        }
    }
    if !apart.is_empty() {
        apart.push(Bson::Document(one));
        return doc! { "$and": apart };
    }
    one
}

/// Whether no operator has another operand in the other document.
fn agree(one: &Document, other: &Document) -> bool {
    let mut operators = other.iter();
    operators.all(|(operator, operand)| one.get(operator).is_none_or(|known| known == operand))
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
        bounds: both(
            bounds,
            doc! { "channel_id": last.map_or_else(
                || doc! { "$gte": "" },
                |last| doc! { after: last.channel_id.as_str() },
            ) },
        ),
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
            Some(last) => both(
                named(doc! { "$gt": "" }),
                doc! { "$or": [
                    { "channel_name": { after: last.value.as_str() } },
                    { "channel_name": last.value.as_str(), "channel_id": { after: last.channel_id.as_str() } },
                ] },
            ),
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
    use super::*;

    #[test]
    fn two_conditions_are_one_document_unless_they_disagree() {
        let id = |operators: Document| doc! { "channel_id": operators };
        for (one, other, expected) in [
            (
                id(doc! { "$gte": "" }),
                doc! { "channel_tags": { "$in": ["t"] } },
                doc! { "channel_id": { "$gte": "" }, "channel_tags": { "$in": ["t"] } },
            ),
            (
                id(doc! { "$gt": "a" }),
                id(doc! { "$gte": "", "$lt": "c" }),
                id(doc! { "$gt": "a", "$gte": "", "$lt": "c" }),
            ),
            (
                id(doc! { "$gt": "a" }),
                id(doc! { "$gt": "b" }),
                doc! { "$and": [id(doc! { "$gt": "b" }), id(doc! { "$gt": "a" })] },
            ),
        ] {
            assert_eq!(both(one, other), expected);
        }
    }
}
