//! The budget of one query.
//!
//! Invariant: for every filter and document the evaluation ends after [`MAX_STEPS`] or at its
//! deadline, even in the middle of a document. After that every result returns at once and is
//! meaningless, so the caller must check [`QueryBudget::is_over`] first.

use std::{cell::Cell, time::Instant};

/// The most steps of one query. A step is one value that is compared or visited.
const MAX_STEPS: u64 = 20_000_000;
/// The deadline is checked every so many steps.
const LOOK_EVERY: u64 = 4096;
/// How many bytes count as one step, of a document that is read or a text that a regular expression
/// searches.
const BYTES_A_STEP: usize = 16;

#[derive(Debug)]
pub(crate) struct QueryBudget {
    left: Cell<u64>,
    look_at: Cell<u64>,
    deadline: Option<Instant>,
}

impl QueryBudget {
    pub(crate) fn until(deadline: Instant) -> Self {
        Self {
            left: Cell::new(MAX_STEPS),
            look_at: Cell::new(MAX_STEPS),
            deadline: Some(deadline),
        }
    }

    /// A budget without a deadline, for a single document outside a query.
    pub(crate) const fn endless() -> Self {
        Self {
            left: Cell::new(u64::MAX),
            look_at: Cell::new(0),
            deadline: None,
        }
    }

    /// Counts these steps. `false` if the budget is used up.
    pub(crate) fn steps(&self, count: u64) -> bool {
        let left = self.left.get().saturating_sub(count);
        self.left.set(left);
        if left <= self.look_at.get() {
            self.look_at.set(left.saturating_sub(LOOK_EVERY));
            if self
                .deadline
                .is_some_and(|deadline| Instant::now() > deadline)
            {
                self.left.set(0);
            }
        }
        !self.is_over()
    }

    /// Counts the reading of this many bytes, and looks at the deadline.
    pub(crate) fn read(&self, bytes: usize) -> bool {
        self.look_at.set(u64::MAX);
        self.steps(1 + (bytes / BYTES_A_STEP) as u64)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left.get() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::Filter;

    fn later() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    /// Evaluates `size` conditions on an array of `size` values.
    fn asked(size: usize, query_budget: &QueryBudget) -> bool {
        let values: Vec<_> = (0..size).map(Value::from).collect();
        let branches: Vec<_> = (0..size)
            .map(|at| json!({"channel_metadata.l": format!("no {at}")}))
            .collect();
        let filter = Filter::parse(&json!({ "$or": branches })).unwrap();
        let document = json!({"channel_metadata": {"l": values}});
        filter.matches_document(document.as_object().unwrap(), query_budget)
    }

    #[test]
    fn a_query_is_over_in_the_middle_of_a_document() {
        let query_budget = QueryBudget::until(later());
        assert!(!asked(1000, &query_budget) && !query_budget.is_over());
        query_budget.left.set(1000);
        asked(1000, &query_budget);
        assert!(query_budget.is_over());
    }

    #[test]
    fn a_query_is_over_at_its_deadline() {
        let query_budget = QueryBudget::until(Instant::now());
        asked(1000, &query_budget);
        assert!(query_budget.is_over());
    }

    #[test]
    fn a_list_of_values_is_searched_by_lookup() {
        let values: Vec<_> = (0..100_000).map(Value::from).collect();
        let wanted: Vec<_> = (0..2000).map(|at| format!("no {at}")).collect();
        let document = json!({"channel_metadata": {"l": values}});
        for operator in ["$in", "$nin", "$all"] {
            let json = json!({"channel_metadata.l": {operator: wanted}});
            let filter = Filter::parse(&json).unwrap();
            let query_budget = QueryBudget::until(later());
            let matches = filter.matches_document(document.as_object().unwrap(), &query_budget);
            assert_eq!(matches, operator == "$nin", "{operator}");
            assert!(!query_budget.is_over(), "{operator}");
        }
    }
}
