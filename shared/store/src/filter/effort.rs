//! How much work one query may be.
//!
//! Invariant: whatever a filter asks for, and of whatever documents, its evaluation ends after
//! [`MAX_STEPS`] or at its deadline, also in the middle of a document. Once it is over every answer
//! comes at once and means nothing: whoever asked looks at [`Effort::over`] first.

use std::{cell::Cell, time::Instant};

use crate::StoreError;

/// The most steps of one query: a value that is compared with another, or looked at on the way.
pub const MAX_STEPS: u64 = 20_000_000;
/// After how many steps the clock is looked at.
const LOOK_EVERY: u64 = 4096;
/// How many bytes of a document, or of a text that a regular expression is matched with, count as a
/// step.
const BYTES_A_STEP: usize = 16;

/// What is left of the work that a query may be.
#[derive(Debug)]
pub(crate) struct Effort {
    left: Cell<u64>,
    look_at: Cell<u64>,
    deadline: Option<Instant>,
}

impl Effort {
    /// As much as a query may be, and no longer than until then.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self {
            left: Cell::new(MAX_STEPS),
            look_at: Cell::new(MAX_STEPS),
            deadline: Some(deadline),
        }
    }

    /// As much as one document takes, for what is no query.
    pub(crate) const fn endless() -> Self {
        Self {
            left: Cell::new(u64::MAX),
            look_at: Cell::new(0),
            deadline: None,
        }
    }

    /// Counts so many steps; false once it is over.
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

    /// Counts a text that is gone through from its beginning to its end.
    pub(crate) fn text(&self, text: &str) -> bool {
        self.steps(1 + (text.len() / BYTES_A_STEP) as u64)
    }

    /// Counts the reading of a document.
    pub(crate) fn read(&self, document: &str) -> Result<(), StoreError> {
        self.text(document);
        self.over()
    }

    /// Whether there is nothing left.
    pub(crate) fn is_over(&self) -> bool {
        self.left.get() == 0
    }

    /// Says so where there is nothing left.
    pub(crate) fn over(&self) -> Result<(), StoreError> {
        if self.is_over() {
            return Err(StoreError::TooCostly);
        }
        Ok(())
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

    /// What it comes to, where `size` values of an array are asked `size` conditions.
    fn asked(size: usize, effort: &Effort) -> Result<bool, StoreError> {
        let values: Vec<_> = (0..size).map(Value::from).collect();
        let branches: Vec<_> = (0..size)
            .map(|at| json!({"channel_metadata.l": format!("no {at}")}))
            .collect();
        let filter = Filter::parse(&json!({ "$or": branches })).unwrap();
        let document = json!({"channel_metadata": {"l": values}});
        filter.matches_document(document.as_object().unwrap(), effort)
    }

    #[test]
    fn a_query_is_over_in_the_middle_of_a_document() {
        let effort = Effort::until(later());
        assert!(matches!(asked(1000, &effort), Ok(false)));
        effort.left.set(1000);
        let cut_off = asked(1000, &effort);
        assert!(matches!(cut_off, Err(StoreError::TooCostly)), "{cut_off:?}");
    }

    #[test]
    fn a_query_is_over_at_its_deadline() {
        let effort = Effort::until(Instant::now());
        let too_late = asked(1000, &effort);
        assert!(
            matches!(too_late, Err(StoreError::TooCostly)),
            "{too_late:?}"
        );
    }

    #[test]
    fn a_list_of_values_is_looked_up_and_not_gone_through() {
        let values: Vec<_> = (0..100_000).map(Value::from).collect();
        let wanted: Vec<_> = (0..2000).map(|at| format!("no {at}")).collect();
        let document = json!({"channel_metadata": {"l": values}});
        for operator in ["$in", "$nin", "$all"] {
            let json = json!({"channel_metadata.l": {operator: wanted}});
            let filter = Filter::parse(&json).unwrap();
            let effort = Effort::until(later());
            let matches = filter.matches_document(document.as_object().unwrap(), &effort);
            assert_eq!(matches.unwrap(), operator == "$nin", "{operator}");
        }
    }
}
