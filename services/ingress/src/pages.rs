//! Lists that come a page at a time.
//!
//! Invariant: a page that says where the next begins is full; one that does not is the last.

use roundtrip_store::MAX_PAGE;

use crate::problem::Problem;

/// How many are on a page, where the request does not say.
const DEFAULT_PAGE: u16 = 100;

/// A page's size within its bounds.
pub(crate) fn page_size(limit: Option<u16>) -> Result<u16, Problem> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if (1..=MAX_PAGE).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::invalid_field(
            "limit",
            format!("must be 1 to {MAX_PAGE}"),
        ))
    }
}

/// Where the next page begins; a page that is not full is the last.
pub(crate) fn next<T, C>(page: &[T], limit: u16, cursor: impl Fn(&T) -> C) -> Option<C> {
    (page.len() == usize::from(limit))
        .then(|| page.last().map(cursor))
        .flatten()
}
