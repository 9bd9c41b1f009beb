//! Places for requests that last long.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::auth::Principal;

pub(crate) struct Places {
    taken: Arc<Mutex<Taken>>,
    most: usize,
}

#[derive(Default)]
struct Taken {
    all: usize,
    principals: HashMap<String, usize>,
}

/// One place, which is free again when this is dropped.
pub(crate) struct Place {
    taken: Arc<Mutex<Taken>>,
    principal: String,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            taken: Arc::default(),
            most,
        }
    }

    /// A free place. No principal with a key gets more than half of the places.
    pub(crate) fn take(&self, principal: &Principal) -> Option<Place> {
        let share = match principal {
            Principal::Anybody => self.most,
            Principal::Configured | Principal::Key(_) => self.most.div_ceil(2),
        };
        let principal = principal.to_string();
        let mut taken = self.taken.lock();
        let own = taken.principals.get(&principal).copied().unwrap_or(0);
        if taken.all >= self.most || own >= share {
            return None;
        }
        taken.all += 1;
        taken.principals.insert(principal.clone(), own + 1);
        Some(Place {
            taken: Arc::clone(&self.taken),
            principal,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        let own = taken.principals.get_mut(&self.principal);
        let left = own.map_or(0, |own| {
            *own -= 1;
            *own
        });
        if left == 0 {
            taken.principals.remove(&self.principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_with_a_key_leaves_places_to_others() {
        let places = Places::new(4);
        let own = [(); 2].map(|()| places.take(&Principal::Configured).unwrap());
        assert!(places.take(&Principal::Configured).is_none());
        let others = [(); 2].map(|()| places.take(&Principal::Anybody).unwrap());
        assert!(places.take(&Principal::Anybody).is_none());
        drop(own);
        assert!(places.take(&Principal::Configured).is_some());
        drop(others);
    }

    #[test]
    fn a_principal_without_places_leaves_no_state() {
        let places = Places::new(1);
        drop(places.take(&Principal::Anybody));
        assert!(places.taken.lock().principals.is_empty());
        assert!(places.take(&Principal::Anybody).is_some());
    }
}
