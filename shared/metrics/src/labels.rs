//! The labels of a metric, and the place of each combination among its series.

use std::borrow::Cow;

use roundtrip_model::decision::DeadKind;

pub type LabelValue = (&'static str, Cow<'static, str>);

/// A label, or a combination of labels. Declare one with [`label!`](crate::label), or with
/// [`label_of!`](crate::label_of) for an enum that exists.
pub trait Labels: Copy + Send + Sync + 'static {
    /// Whether most combinations never occur. Such a series is shown from its first event on; any
    /// other is shown from the start, so that its first event is an increase.
    const IS_SPARSE: bool = false;

    /// How many combinations there are. It never changes.
    fn count() -> usize;

    /// The place of this combination, below [`Labels::count`].
    fn index(self) -> usize;

    /// Adds the labels of the combination at this place.
    fn describe(index: usize, to: &mut Vec<LabelValue>);
}

crate::label_of! { DeadKind as "reason": DeadKind::ALL, DeadKind::as_str }

impl Labels for () {
    fn count() -> usize {
        1
    }

    fn index(self) -> usize {
        0
    }

    fn describe(_: usize, _: &mut Vec<LabelValue>) {}
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    const IS_SPARSE: bool = A::IS_SPARSE || B::IS_SPARSE;

    fn count() -> usize {
        A::count() * B::count()
    }

    fn index(self) -> usize {
        self.0.index() * B::count() + self.1.index()
    }

    fn describe(index: usize, to: &mut Vec<LabelValue>) {
        A::describe(index / B::count(), to);
        B::describe(index % B::count(), to);
    }
}
