//! The cells of a metric's series.

use std::{
    marker::PhantomData,
    sync::{OnceLock, atomic::AtomicU64},
};

use crate::{LabelValue, Labels};

/// Some cells for each combination of labels. They are made when they are first used.
pub(crate) struct Series<L> {
    cells: OnceLock<Box<[AtomicU64]>>,
    /// How many cells a combination has, and their first value.
    each: usize,
    first: u64,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels> Series<L> {
    pub(crate) const fn new(each: usize, first: u64) -> Self {
        Self {
            cells: OnceLock::new(),
            each,
            first,
            labels: PhantomData,
        }
    }

    fn cells(&self) -> &[AtomicU64] {
        self.cells.get_or_init(|| {
            let cells = 0..L::count() * self.each;
            cells.map(|_| AtomicU64::new(self.first)).collect()
        })
    }

    /// The cells of this combination.
    pub(crate) fn of(&self, labels: L) -> &[AtomicU64] {
        let begin = labels.index() * self.each;
        let cells = self.cells().get(begin..begin + self.each);
        cells.unwrap_or_default()
    }

    /// Every combination with its cells.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Vec<LabelValue>, &[AtomicU64])> {
        let cells = self.cells().chunks_exact(self.each).enumerate();
        cells.map(|(index, cells)| {
            let mut labels = Vec::new();
            L::describe(index, &mut labels);
            (labels, cells)
        })
    }
}
