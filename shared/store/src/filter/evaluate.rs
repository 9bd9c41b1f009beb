//! Evaluates a filter over one document.
//!
//! Invariant: a test holds for a path if it holds for *any* value that the path leads to. MongoDB's
//! rule in [`Evaluation::any`] says which values those are. Each visited value is a step of the query's budget.
//! When the budget is used up every value counts as a match, so that every loop ends.

use serde_json::{Map, Value};

use super::{Comparison, ElemMatch, Node, QueryBudget, Set, Test, order};

/// Where a path starts. Inside `$elemMatch` an array counts as a document whose keys are its
/// indexes.
#[derive(Clone, Copy)]
enum Root<'a> {
    Object(&'a Map<String, Value>),
    Array(&'a [Value]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    /// Its elements are tested, then the array as a whole.
    Elements,
    Whole,
}

pub(super) fn all(
    nodes: &[Node],
    document: &Map<String, Value>,
    query_budget: &QueryBudget,
) -> bool {
    Evaluation { query_budget }.hold(nodes, Root::Object(document))
}

struct Evaluation<'e> {
    query_budget: &'e QueryBudget,
}

impl Evaluation<'_> {
    fn hold(&self, nodes: &[Node], root: Root<'_>) -> bool {
        nodes.iter().all(|node| self.holds(node, root))
    }

    fn holds(&self, node: &Node, root: Root<'_>) -> bool {
        match node {
            Node::Or(branches) => branches.iter().any(|nodes| self.hold(nodes, root)),
            Node::Nor(branches) => !branches.iter().any(|nodes| self.hold(nodes, root)),
            Node::Field(path, tests) => tests.iter().all(|test| self.holds_at(test, root, path)),
        }
    }

    fn holds_at(&self, test: &Test, root: Root<'_>, path: &[String]) -> bool {
        let leaf = match test {
            Test::Not(tests) => return !tests.iter().all(|test| self.holds_at(test, root, path)),
            Test::All(values) => return self.all_found(values, root, path),
            Test::Size(_) | Test::Elem(_) => Leaf::Whole,
            Test::Compare(..) | Test::In(_) | Test::Exists | Test::Regex(_) => Leaf::Elements,
        };
        self.any(root, path, leaf, &mut |found| self.holds_of(test, found))
    }

    /// Whether every value is found. Different elements may match different values.
    fn all_found(&self, values: &Set, root: Root<'_>, path: &[String]) -> bool {
        let mut missing = values.values().len();
        let mut is_found = vec![false; missing];
        self.any(root, path, Leaf::Elements, &mut |found| {
            if let Some(at) = self.position(found, values)
                && !std::mem::replace(&mut is_found[at], true)
            {
                missing -= 1;
            }
            missing == 0 && !values.values().is_empty()
        })
    }

    /// Whether the test holds for this value; `None` is a missing one.
    fn holds_of(&self, test: &Test, found: Option<&Value>) -> bool {
        match test {
            Test::Compare(comparison, value) => self.compare(*comparison, found, value),
            Test::In(values) => self.position(found, values).is_some(),
            // One value contains every value of the list only if they are all equal.
            Test::All(values) => {
                values.values().len() == 1 && self.position(found, values).is_some()
            }
            Test::Exists => found.is_some(),
            Test::Size(size) => {
                matches!(found, Some(Value::Array(array)) if u32::try_from(array.len()) == Ok(*size))
            }
            Test::Elem(wanted) => self.has_element(found, wanted),
            Test::Regex(regex) => {
                matches!(found, Some(Value::String(found))
                    if self.query_budget.read(found.len()) && regex.is_match(found))
            }
            Test::Not(tests) => !tests.iter().all(|test| self.holds_of(test, found)),
        }
    }

    /// Only values of the same kind compare. A missing value counts as null.
    fn compare(&self, comparison: Comparison, found: Option<&Value>, value: &Value) -> bool {
        self.query_budget.steps(1);
        let found = found.unwrap_or(&Value::Null);
        if order::kind(found) != order::kind(value) {
            return false;
        }
        let order = order::compare(found, value);
        match comparison {
            Comparison::Eq => order.is_eq(),
            Comparison::Gt => order.is_gt(),
            Comparison::Gte => order.is_ge(),
            Comparison::Lt => order.is_lt(),
            Comparison::Lte => order.is_le(),
        }
    }

    fn position(&self, found: Option<&Value>, values: &Set) -> Option<usize> {
        self.query_budget.steps(values.steps());
        values.position(found.unwrap_or(&Value::Null))
    }

    fn has_element(&self, found: Option<&Value>, wanted: &ElemMatch) -> bool {
        let Some(Value::Array(elements)) = found else {
            return false;
        };
        elements.iter().any(|element| {
            if !self.query_budget.steps(1) {
                return true;
            }
            match (wanted, element) {
                (ElemMatch::Value(tests), element) => {
                    tests.iter().all(|test| self.holds_of(test, Some(element)))
                }
                (ElemMatch::Document(nodes), Value::Object(object)) => {
                    self.hold(nodes, Root::Object(object))
                }
                (ElemMatch::Document(nodes), Value::Array(array)) => {
                    self.hold(nodes, Root::Array(array))
                }
                (ElemMatch::Document(_), _) => false,
            }
        })
    }

    /// Whether `holds` is true for any value that the path leads to; it gets `None` if the path
    /// ends early in a document. A path that ends early in an array's elements leads to no value at
    /// all. Therefore `{"a.b": null}` does not match `{"a": [1]}`.
    fn any(
        &self,
        root: Root<'_>,
        path: &[String],
        leaf: Leaf,
        holds: &mut dyn FnMut(Option<&Value>) -> bool,
    ) -> bool {
        if !self.query_budget.steps(1) {
            return true;
        }
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        let found = match root {
            Root::Object(object) => object.get(first),
            Root::Array(array) => index(first, array.len()).map(|at| &array[at]),
        };
        match found {
            Some(Value::Array(array)) if rest.is_empty() => {
                leaf == Leaf::Elements
                    && array
                        .iter()
                        .any(|element| holds(Some(element)) || !self.query_budget.steps(1))
                    || holds(found)
            }
            Some(Value::Array(array)) => self.any_in_array(array, rest, leaf, holds),
            Some(Value::Object(object)) if !rest.is_empty() => {
                self.any(Root::Object(object), rest, leaf, holds)
            }
            Some(_) if rest.is_empty() => holds(found),
            Some(_) | None => holds(None),
        }
    }

    /// A path that continues through an array: into each document in it, and also to the element
    /// that its next part is the index of. An array within an array is entered only by an index.
    fn any_in_array(
        &self,
        array: &[Value],
        path: &[String],
        leaf: Leaf,
        holds: &mut dyn FnMut(Option<&Value>) -> bool,
    ) -> bool {
        let indexed = path.first().and_then(|part| index(part, array.len()));
        let after = path.get(1..).unwrap_or_default();
        array.iter().enumerate().any(|(at, element)| {
            if !self.query_budget.steps(1) {
                return true;
            }
            let inside = match element {
                Value::Object(object) => self.any(Root::Object(object), path, leaf, holds),
                _ => false,
            };
            inside
                || indexed == Some(at)
                    && match element {
                        // The element itself, even if it is an array.
                        _ if after.is_empty() => holds(Some(element)),
                        Value::Object(object) => self.any(Root::Object(object), after, leaf, holds),
                        Value::Array(array) => self.any_in_array(array, after, leaf, holds),
                        _ => false,
                    }
        })
    }
}

/// The index that a part of a path names: digits in their only valid spelling.
fn index(part: &str, len: usize) -> Option<usize> {
    let at = part.parse::<usize>().ok()?;
    (at < len && at.to_string() == part).then_some(at)
}
