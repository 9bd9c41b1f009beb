//! Limits on concurrent lists and searches.
//!
//! Invariant: each principal runs one query at a time and has a few in progress, unread responses
//! included. So a heavy user waits only for itself. What exceeds a limit is refused at once.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    auth::Principal,
    problem::{Kind, Problem, Quota, RETRY_AFTER},
};

/// The most queries in progress, unread responses included.
pub(crate) const MAX_AT_ONCE: usize = 64;

/// The most of them for each principal.
pub(crate) const MAX_PER_PRINCIPAL: u16 = 4;

pub(crate) struct Queries {
    all: Arc<Semaphore>,
    principals: Mutex<HashMap<String, Weak<PrincipalQueries>>>,
}

struct PrincipalQueries {
    under_way: Arc<Semaphore>,
    turn: Semaphore,
}

/// The principal has too many queries in progress, unread responses included.
pub(crate) fn too_many_queries() -> Problem {
    let quota = Quota::concurrent("queries-per-key", MAX_PER_PRINCIPAL.into());
    Problem::over_quota(quota, RETRY_AFTER, Kind::TooManyQueries)
}

pub(crate) struct UnderWay {
    own: Arc<PrincipalQueries>,
    _of_all: OwnedSemaphorePermit,
    _of_own: OwnedSemaphorePermit,
}

impl Queries {
    pub(crate) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(MAX_AT_ONCE)),
            principals: Mutex::default(),
        }
    }

    pub(crate) fn begin(&self, principal: &Principal) -> Result<UnderWay, Problem> {
        let own = self.own(principal);
        let of_own = Arc::clone(&own.under_way)
            .try_acquire_owned()
            .map_err(|_none_left| too_many_queries())?;
        let of_all = Arc::clone(&self.all)
            .try_acquire_owned()
            .map_err(|_none_left| Kind::Overloaded)?;
        Ok(UnderWay {
            own,
            _of_all: of_all,
            _of_own: of_own,
        })
    }

    fn own(&self, principal: &Principal) -> Arc<PrincipalQueries> {
        let mut principals = self.principals.lock();
        let name = principal.to_string();
        if let Some(own) = principals.get(&name).and_then(Weak::upgrade) {
            return own;
        }
        // At most as many remain as are in progress.
        principals.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(PrincipalQueries {
            under_way: Arc::new(Semaphore::new(MAX_PER_PRINCIPAL.into())),
            turn: Semaphore::new(1),
        });
        principals.insert(name, Arc::downgrade(&own));
        own
    }
}

impl UnderWay {
    /// Runs the query after the principal's earlier one. Each ends within the store's time limit.
    pub(crate) async fn ask<T>(&self, query: impl Future<Output = T>) -> T {
        // The semaphore is never closed.
        let _turn = self.own.turn.acquire().await.ok();
        query.await
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[tokio::test]
    async fn a_principal_has_few_queries_at_once_and_leaves_others_room() {
        let queries = Queries::new();
        let own: Vec<_> = (0..MAX_PER_PRINCIPAL)
            .map(|_| queries.begin(&Principal::Anybody).ok().unwrap())
            .collect();
        let refused = queries.begin(&Principal::Anybody).err().unwrap();
        assert_eq!(refused.into_response().status(), 429);
        assert!(queries.begin(&Principal::Configured).is_ok());
        drop(own);
        assert!(queries.begin(&Principal::Anybody).is_ok());
    }

    #[tokio::test]
    async fn the_queries_of_one_principal_run_one_at_a_time() {
        let queries = Queries::new();
        let first = queries.begin(&Principal::Anybody).ok().unwrap();
        let second = queries.begin(&Principal::Anybody).ok().unwrap();
        let other = queries.begin(&Principal::Configured).ok().unwrap();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let mut first = Box::pin(first.ask(ended));
        let mut second = Box::pin(second.ask(async {}));
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        other.ask(async {}).await;
        end.send(()).unwrap();
        first.await.unwrap();
        second.await;
    }

    #[tokio::test]
    async fn no_state_remains_of_principals_without_queries() {
        let queries = Queries::new();
        drop(queries.begin(&Principal::Anybody));
        let _other = queries.begin(&Principal::Configured);
        let principals = queries.principals.lock();
        assert_eq!(principals.len(), 1);
    }
}
