//! Pages of a query: how many, in what order, and from where on.

use roundtrip_model::StoredChannel;
use serde_json::Value;

/// The most channels on one page.
pub const MAX_LIMIT: u16 = 1000;
/// The most bytes of documents on one page, unless its first alone has more: a page ends before the
/// document that would take it beyond, and its cursor goes on from there.
pub const MAX_PAGE_BYTES: usize = 4 << 20;
/// How many, where the request does not say.
pub const DEFAULT_LIMIT: u16 = 100;

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// 1 to [`MAX_LIMIT`].
    pub limit: u16,
    /// The order.
    pub sort: Sort,
    /// Where the page before it ended.
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

/// An order: by one field, then by `channel_id`, both in the one direction. Text is compared byte
/// by byte, and a field that is missing or no text counts as an empty one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sort {
    /// The field.
    pub field: SortField,
    /// The direction.
    pub direction: Direction,
}

/// A field to sort by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortField {
    /// `channel_id`.
    #[default]
    ChannelId,
    /// `channel_name`.
    ChannelName,
}

/// Up or down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest.
    #[default]
    Ascending,
    /// From the greatest.
    Descending,
}

/// Where a page ended: the last channel's sort key. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The sorted field's value.
    pub value: String,
    /// The channel's id.
    pub channel_id: String,
}

impl Cursor {
    /// Where a page ends with this channel.
    pub(crate) fn after(channel: &StoredChannel, sort: Sort) -> Self {
        let channel_id = channel.channel_id.to_string();
        Self {
            value: match sort.field {
                SortField::ChannelId => channel_id.clone(),
                SortField::ChannelName => match &channel.channel_name {
                    Value::String(name) => name.clone(),
                    _ => String::new(),
                },
            },
            channel_id,
        }
    }
}

/// What still fits on a page.
#[derive(Debug)]
pub(crate) struct Room {
    documents: usize,
    bytes: usize,
    is_empty: bool,
}

impl Room {
    /// For so many documents at the most, on a page that is empty yet.
    pub(crate) fn of(limit: u16) -> Self {
        Self {
            documents: usize::from(limit),
            bytes: MAX_PAGE_BYTES,
            is_empty: true,
        }
    }

    /// Takes room for a document of so many bytes, if there is.
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

/// A page.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelPage {
    /// The channels, in order.
    pub channels: Vec<StoredChannel>,
    /// Where the next page begins; none where this one is the last.
    pub next: Option<Cursor>,
}
