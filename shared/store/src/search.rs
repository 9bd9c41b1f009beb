//! Fills the page of a query.
//!
//! Invariant: every candidate up to the page's cursor was evaluated, and none beyond it is listed.
//! So pages list each matching channel once, also if the budget ends before a page is full.

use std::{ops::ControlFlow, time::Instant};

use roundtrip_model::StoredChannel;
use serde_json::{Map, Value};

use crate::{
    ChannelPage, Cursor, Filter, PageRequest, QueryError, Sort, document, filter::QueryBudget,
    page::PageBudget,
};

pub(crate) struct Search {
    filter: Filter,
    sort: Sort,
    query_budget: QueryBudget,
    page_budget: PageBudget,
    channels: Vec<StoredChannel>,
    evaluated: Option<Cursor>,
    is_cut: bool,
}

impl Search {
    pub(crate) fn new(filter: &Filter, request: &PageRequest, deadline: Instant) -> Self {
        Self {
            filter: filter.clone(),
            sort: request.sort,
            query_budget: QueryBudget::until(deadline),
            page_budget: PageBudget::of(request.limit),
            channels: Vec::new(),
            evaluated: None,
            is_cut: false,
        }
    }

    /// Evaluates the next candidate, and lists it if it matches. Breaks if the page ends before it.
    pub(crate) fn add(&mut self, bytes: usize, document: Map<String, Value>) -> ControlFlow<()> {
        self.query_budget.read(bytes);
        let cursor = Cursor::at(&document, self.sort);
        let matches = self.filter.matches_document(&document, &self.query_budget);
        if self.query_budget.is_over() {
            return self.cut();
        }
        if matches && let Some(channel) = document::readable(document::channel(document)) {
            if !self.page_budget.take(bytes) {
                return self.cut();
            }
            self.channels.push(channel);
        }
        // A document without an id has no place in the order.
        self.evaluated = cursor.or(self.evaluated.take());
        ControlFlow::Continue(())
    }

    /// Ends the page before the next candidate.
    pub(crate) fn cut(&mut self) -> ControlFlow<()> {
        self.is_cut = true;
        ControlFlow::Break(())
    }

    /// The page. Its cursor leads on if it was cut. It fails if the first candidate used up the
    /// budget.
    pub(crate) fn page(self) -> Result<ChannelPage, QueryError> {
        if self.is_cut && self.evaluated.is_none() {
            return Err(QueryError::TooCostly);
        }
        Ok(ChannelPage {
            channels: self.channels,
            next: self.evaluated.filter(|_| self.is_cut),
        })
    }
}
