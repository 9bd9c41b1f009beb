//! The byte budget of all bodies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use crate::problem::{Kind, Problem};

/// The bytes that one request's body takes of the byte budget of all requests.
#[derive(Clone)]
pub(crate) struct BodyBudget(Arc<BudgetShare>);

struct BudgetShare {
    all: Arc<Semaphore>,
    taken: AtomicUsize,
}

impl BodyBudget {
    pub(crate) fn of(all: &Arc<Semaphore>) -> Self {
        Self(Arc::new(BudgetShare {
            all: Arc::clone(all),
            taken: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn take(&self, bytes: usize) -> Result<(), Problem> {
        let count = u32::try_from(bytes).map_err(|_beyond_all| Kind::Overloaded)?;
        let permits = self
            .0
            .all
            .try_acquire_many(count)
            .map_err(|_none_left| Kind::Overloaded)?;
        permits.forget();
        self.0.taken.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Ends what was taken, when the request no longer holds the body or what was parsed from it.
    pub(crate) fn release(&self) {
        let taken = self.0.taken.swap(0, Ordering::Relaxed);
        self.0.all.add_permits(taken);
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.all.add_permits(*self.taken.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_of_a_request_is_free_after_its_end() {
        let all = Arc::new(Semaphore::new(10));
        let one = BodyBudget::of(&all);
        let other = BodyBudget::of(&all);
        assert!(one.take(4).is_ok());
        assert!(one.take(2).is_ok());
        assert!(other.take(5).is_err());
        assert!(other.take(4).is_ok());
        drop(one.clone());
        assert_eq!(all.available_permits(), 0);
        drop(one);
        assert_eq!(all.available_permits(), 6);
        assert!(other.take(6).is_ok());
        other.release();
        assert_eq!(all.available_permits(), 10);
        drop(other);
        assert_eq!(all.available_permits(), 10);
    }
}
