//! MongoDB's order of values, for the kinds that JSON has.
//!
//! Invariant: a total order on the values of one kind. Numbers compare by their mathematical value,
//! whether they are stored as integers or as doubles.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};

/// Distinct values in order, for a binary search.
#[derive(Debug, Clone)]
pub(super) struct Set(Vec<Value>);

impl Set {
    pub(super) fn of(mut values: Vec<Value>) -> Self {
        values.sort_by(compare);
        values.dedup_by(|a, b| compare(a, b).is_eq());
        Self(values)
    }

    pub(super) fn values(&self) -> &[Value] {
        &self.0
    }

    pub(super) fn position(&self, value: &Value) -> Option<usize> {
        self.0.binary_search_by(|one| compare(one, value)).ok()
    }

    /// How many values one lookup visits.
    pub(super) fn steps(&self) -> u64 {
        u64::from(self.0.len().checked_ilog2().unwrap_or(0)) + 1
    }
}

/// The first double above every `i64`.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// The rank of a value's kind (MongoDB's canonical types).
pub(super) fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 5,
        Value::Number(_) => 10,
        Value::String(_) => 15,
        Value::Object(_) => 20,
        Value::Array(_) => 25,
        Value::Bool(_) => 40,
    }
}

pub(super) fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Array(a), Value::Array(b)) => compare_arrays(a, b),
        (Value::Object(a), Value::Object(b)) => compare_objects(a, b),
        _ => kind(a).cmp(&kind(b)),
    }
}

fn compare_arrays(a: &[Value], b: &[Value]) -> Ordering {
    a.iter()
        .zip(b)
        .map(|(a, b)| compare(a, b))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// Field by field in their stored order: first the value's kind, then the name, then the value.
fn compare_objects(a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
    a.iter()
        .zip(b)
        .map(|((a_name, a), (b_name, b))| {
            kind(a)
                .cmp(&kind(b))
                .then_with(|| a_name.as_bytes().cmp(b_name.as_bytes()))
                .then_with(|| compare(a, b))
        })
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(a), None) => compare_mixed(a, double(b)),
        (None, Some(b)) => compare_mixed(b, double(a)).reverse(),
        // JSON has no NaN.
        (None, None) => double(a).partial_cmp(&double(b)).unwrap_or(Ordering::Equal),
    }
}

/// A number that is not an `i64` is a double, including integers beyond that range.
fn double(number: &Number) -> f64 {
    number.as_f64().unwrap_or_default()
}

/// Exact: converting the integer to a double first would round it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the double was found to be in the range of i64, and its whole part is exact"
)]
fn compare_mixed(integer: i64, double: f64) -> Ordering {
    if double >= TWO_TO_63 {
        return Ordering::Less;
    }
    if double < -TWO_TO_63 {
        return Ordering::Greater;
    }
    let whole = double.trunc() as i64;
    integer.cmp(&whole).then_with(|| {
        0.0_f64
            .partial_cmp(&double.fract())
            .unwrap_or(Ordering::Equal)
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(json!(1), json!(1.0), Ordering::Equal)]
    #[case(json!(0), json!(-0.0), Ordering::Equal)]
    #[case(json!(1), json!(1.5), Ordering::Less)]
    #[case(json!(-1), json!(-1.5), Ordering::Greater)]
    // 2^53 + 1 rounds to 2^53 as a double.
    #[case(json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992.0), Ordering::Greater)]
    #[case(json!(i64::MAX), json!(9_223_372_036_854_775_807.0), Ordering::Less)]
    #[case(json!(i64::MIN), json!(-9_223_372_036_854_775_808.0), Ordering::Equal)]
    #[case(json!(i64::MIN), json!(-1e300), Ordering::Greater)]
    fn numbers_compare_by_their_value(#[case] a: Value, #[case] b: Value, #[case] order: Ordering) {
        assert_eq!(compare(&a, &b), order);
        assert_eq!(compare(&b, &a), order.reverse());
    }

    #[rstest]
    #[case(json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1}), Ordering::Less)]
    #[case(json!({"a": 1}), json!({"a": 1, "b": 2}), Ordering::Less)]
    // The kind of the first field's value is compared before its name.
    #[case(json!({"b": 1}), json!({"a": "x"}), Ordering::Less)]
    #[case(json!([1, 2]), json!([1, 10]), Ordering::Less)]
    #[case(json!([]), json!([null]), Ordering::Less)]
    #[case(json!("Z"), json!("a"), Ordering::Less)]
    #[case(json!("é"), json!("z"), Ordering::Greater)]
    fn values_compare_in_mongodbs_order(
        #[case] a: Value,
        #[case] b: Value,
        #[case] order: Ordering,
    ) {
        assert_eq!(compare(&a, &b), order);
        assert_eq!(compare(&b, &a), order.reverse());
    }
}
