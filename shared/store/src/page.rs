//! Pages of a query: their length, order and cursor.

use roundtrip_model::StoredChannel;
use serde_json::{Map, Value};

use crate::document;

/// The most bytes of documents on one page. A page ends before the document that would exceed it,
/// unless that is the first; the next page begins there.
pub const MAX_PAGE_BYTES: usize = 4 << 20;
const DEFAULT_LIMIT: u16 = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// From 1 to [`MAX_PAGE`](crate::MAX_PAGE).
    pub limit: u16,
    pub sort: Sort,
    pub cursor: Option<Cursor>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            sort: Sort::default(),
            cursor: None,
        }
    }
}

/// An order: by one field, then by `channel_id`, both in the same direction. Text is compared byte
/// by byte. A field that is missing or not text counts as empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sort {
    pub field: SortField,
    pub direction: Direction,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortField {
    #[default]
    ChannelId,
    ChannelName,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    Ascending,
    Descending,
}

/// A place in an order, between two channels. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub value: String,
    pub channel_id: String,
}

impl Cursor {
    /// The place after this document. `None` if it has no id.
    pub(crate) fn at(document: &Map<String, Value>, sort: Sort) -> Option<Self> {
        let channel_id = document.get("channel_id")?.as_str()?.to_owned();
        Some(Self {
            value: match sort.field {
                SortField::ChannelId => channel_id.clone(),
                SortField::ChannelName => document::text(document, "channel_name").to_owned(),
            },
            channel_id,
        })
    }
}

#[derive(Debug)]
pub(crate) struct PageBudget {
    documents: usize,
    bytes: usize,
    is_empty: bool,
}

impl PageBudget {
    pub(crate) fn of(limit: u16) -> Self {
        Self {
            documents: usize::from(limit),
            bytes: MAX_PAGE_BYTES,
            is_empty: true,
        }
    }

    /// Reserves space for a document of this size. `false` if it does not fit.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        if self.documents == 0 || (bytes > self.bytes && !self.is_empty) {
            return false;
        }
        self.documents -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.is_empty = false;
        true
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ChannelPage {
    pub channels: Vec<StoredChannel>,
    /// The cursor to the next page; `None` on the last. A page that ends early, because the query's
    /// budget was used up, also has one.
    pub next: Option<Cursor>,
}
