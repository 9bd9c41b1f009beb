//! Evaluates a filter over one document.
//!
//! Invariant: a test holds of a path when it holds of *any* value that the path leads to. Which
//! values those are is MongoDB's rule, in [`any`].

use serde_json::{Map, Value};

use super::{Comparison, ElemMatch, FieldPath, Node, Test, order};

/// What a path is looked up in. An array counts as a document of its indexes inside `$elemMatch`.
#[derive(Clone, Copy)]
enum Root<'a> {
    Object(&'a Map<String, Value>),
    Array(&'a [Value]),
}

/// What becomes of an array at a path's end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    /// Its elements are looked at, then the array as a whole.
    Elements,
    /// Only the array as a whole.
    Whole,
}

/// Whether every condition holds of the document.
pub(super) fn all(nodes: &[Node], document: &Map<String, Value>) -> bool {
    hold(nodes, Root::Object(document))
}

fn hold(nodes: &[Node], root: Root<'_>) -> bool {
    nodes.iter().all(|node| holds(node, root))
}

fn holds(node: &Node, root: Root<'_>) -> bool {
    match node {
        Node::And(branches) => branches.iter().all(|nodes| hold(nodes, root)),
        Node::Or(branches) => branches.iter().any(|nodes| hold(nodes, root)),
        Node::Nor(branches) => !branches.iter().any(|nodes| hold(nodes, root)),
        Node::Field(path, tests) => tests.iter().all(|test| holds_at(test, root, path)),
    }
}

/// Whether the test holds of what the path leads to.
fn holds_at(test: &Test, root: Root<'_>, path: &FieldPath) -> bool {
    let leaf = match test {
        Test::Not(tests) => return !tests.iter().all(|test| holds_at(test, root, path)),
        Test::Ne(value) => {
            return !any(root, &path.parts, Leaf::Elements, &mut |found| {
                equal(found, value)
            });
        }
        Test::Nin(values) => {
            return !any(root, &path.parts, Leaf::Elements, &mut |found| {
                values.iter().any(|value| equal(found, value))
            });
        }
        Test::Exists(false) => {
            return !any(root, &path.parts, Leaf::Elements, &mut |found| {
                found.is_some()
            });
        }
        // Each wanted value may be found in another element.
        Test::All(values) => {
            return !values.is_empty()
                && values.iter().all(|value| {
                    any(root, &path.parts, Leaf::Elements, &mut |found| {
                        equal(found, value)
                    })
                });
        }
        Test::AllElements(wanted) => {
            return wanted.iter().all(|wanted| {
                any(root, &path.parts, Leaf::Whole, &mut |found| {
                    has_element(found, wanted)
                })
            });
        }
        Test::Size(_) | Test::Elem(_) => Leaf::Whole,
        Test::Compare(..) | Test::In(_) | Test::Exists(true) | Test::Regex(_) => Leaf::Elements,
    };
    any(root, &path.parts, leaf, &mut |found| holds_of(test, found))
}

/// Whether the test holds of this one value; `None` is a missing one.
fn holds_of(test: &Test, found: Option<&Value>) -> bool {
    match test {
        Test::Compare(comparison, value) => compare(*comparison, found, value),
        Test::Ne(value) => !equal(found, value),
        Test::In(values) => values.iter().any(|value| equal(found, value)),
        Test::Nin(values) => !values.iter().any(|value| equal(found, value)),
        Test::All(values) => !values.is_empty() && values.iter().all(|value| equal(found, value)),
        Test::AllElements(wanted) => wanted.iter().all(|wanted| has_element(found, wanted)),
        Test::Exists(wanted) => found.is_some() == *wanted,
        Test::Size(size) => {
            matches!(found, Some(Value::Array(array)) if u32::try_from(array.len()) == Ok(*size))
        }
        Test::Elem(wanted) => has_element(found, wanted),
        Test::Regex(pattern) => {
            matches!(found, Some(Value::String(found)) if pattern.matches(found))
        }
        Test::Not(tests) => !tests.iter().all(|test| holds_of(test, found)),
    }
}

fn equal(found: Option<&Value>, value: &Value) -> bool {
    compare(Comparison::Eq, found, value)
}

/// Only values of one kind compare; a missing one counts as null.
fn compare(comparison: Comparison, found: Option<&Value>, value: &Value) -> bool {
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

fn has_element(found: Option<&Value>, wanted: &ElemMatch) -> bool {
    let Some(Value::Array(elements)) = found else {
        return false;
    };
    elements.iter().any(|element| match (wanted, element) {
        (ElemMatch::Value(tests), element) => {
            tests.iter().all(|test| holds_of(test, Some(element)))
        }
        (ElemMatch::Document(nodes), Value::Object(object)) => hold(nodes, Root::Object(object)),
        (ElemMatch::Document(nodes), Value::Array(array)) => hold(nodes, Root::Array(array)),
        (ElemMatch::Document(_), _) => false,
    })
}

/// Whether `holds` is true of any value that the path leads to; `None` where a path ends early in
/// a document. A path that ends early in an array's elements leads to nothing at all, which is why
/// `{"a.b": null}` does not match `{"a": [1]}`.
fn any(
    root: Root<'_>,
    path: &[String],
    leaf: Leaf,
    holds: &mut dyn FnMut(Option<&Value>) -> bool,
) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    let found = match root {
        Root::Object(object) => object.get(first),
        Root::Array(array) => index(first, array.len()).map(|at| &array[at]),
    };
    match found {
        Some(Value::Array(array)) if rest.is_empty() => {
            leaf == Leaf::Elements && array.iter().any(|element| holds(Some(element)))
                || holds(found)
        }
        Some(Value::Array(array)) => any_in_array(array, rest, leaf, holds),
        Some(Value::Object(object)) if !rest.is_empty() => {
            any(Root::Object(object), rest, leaf, holds)
        }
        Some(_) if rest.is_empty() => holds(found),
        Some(_) | None => holds(None),
    }
}

/// A path that goes on through an array: into each document in it, and where its next part is an
/// index, to that element too. Arrays in an array are entered by an index only.
fn any_in_array(
    array: &[Value],
    path: &[String],
    leaf: Leaf,
    holds: &mut dyn FnMut(Option<&Value>) -> bool,
) -> bool {
    let indexed = path.first().and_then(|part| index(part, array.len()));
    let after = path.get(1..).unwrap_or_default();
    array.iter().enumerate().any(|(at, element)| {
        let inside = match element {
            Value::Object(object) => any(Root::Object(object), path, leaf, holds),
            _ => false,
        };
        inside
            || indexed == Some(at)
                && match element {
                    // The element itself, and not what is in it if it is an array.
                    _ if after.is_empty() => holds(Some(element)),
                    Value::Object(object) => any(Root::Object(object), after, leaf, holds),
                    Value::Array(array) => any_in_array(array, after, leaf, holds),
                    _ => false,
                }
    })
}

/// The index that a path's part names: digits, in the one spelling that an index has.
fn index(part: &str, len: usize) -> Option<usize> {
    let at = part.parse::<usize>().ok()?;
    (at < len && at.to_string() == part).then_some(at)
}
