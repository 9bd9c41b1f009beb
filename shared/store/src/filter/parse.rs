//! Parses a filter from JSON.
//!
//! Invariant: an unlisted operator is refused at any depth, and the result is bounded in depth and
//! size.

use roundtrip_model::channel::INEXACT_INTEGER;
use serde_json::{Map, Value};

use super::{
    Comparison, ElemMatch, FilterError, MAX_DEPTH, MAX_NODES, MAX_REGEXES, Node, Set, Test,
    pattern::{self, OPTIONS},
};
use crate::{canonical, document::FIELDS};

/// An error's path if the problem is the filter itself.
const ROOT: &str = "filter";

const NO_NAME: &str = "\"\"";

pub(super) fn filter(json: &Value) -> Result<Vec<Node>, FilterError> {
    let mut parser = Parser::default();
    // The bounds come first, because the rest may recurse.
    parser.measure(json, 1)?;
    let Value::Object(document) = json else {
        return parser.fail("must be an object");
    };
    parser.document(document, Within::Channel)
}

/// What the fields of a document of conditions belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    /// A channel. Only its five fields can be named.
    Channel,
    Element,
}

#[derive(Default)]
struct Parser {
    path: Vec<String>,
    nodes: usize,
    regexes: usize,
}

impl Parser {
    fn fail<T>(&self, problem: impl Into<String>) -> Result<T, FilterError> {
        let path = if self.path.is_empty() {
            ROOT.to_owned()
        } else {
            let shown = |step: &String| match step.as_str() {
                "" => NO_NAME.to_owned(),
                name => name.to_owned(),
            };
            self.path.iter().map(shown).collect::<Vec<_>>().join(".")
        };
        Err(FilterError {
            path,
            problem: problem.into(),
        })
    }

    fn at<T>(
        &mut self,
        step: impl Into<String>,
        read: impl FnOnce(&mut Self) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        self.path.push(step.into());
        let read = read(self)?;
        self.path.pop();
        Ok(read)
    }

    fn measure(&mut self, json: &Value, depth: usize) -> Result<(), FilterError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            self.path.clear();
            return self.fail(format!("must have at most {MAX_NODES} values"));
        }
        if depth > MAX_DEPTH {
            self.path.clear();
            return self.fail(format!("must nest at most {MAX_DEPTH} deep"));
        }
        match json {
            Value::Array(array) => array
                .iter()
                .try_for_each(|value| self.measure(value, depth + 1)),
            Value::Object(object) => object
                .values()
                .try_for_each(|value| self.measure(value, depth + 1)),
            _ => Ok(()),
        }
    }

    fn document(
        &mut self,
        document: &Map<String, Value>,
        within: Within,
    ) -> Result<Vec<Node>, FilterError> {
        let mut nodes = Vec::new();
        for (key, value) in document {
            self.at(key, |parser| {
                match key.as_str() {
                    "$and" => nodes.extend(parser.branches(value, within)?.into_iter().flatten()),
                    "$or" => nodes.push(Node::Or(parser.branches(value, within)?)),
                    "$nor" => nodes.push(Node::Nor(parser.branches(value, within)?)),
                    _ if key.starts_with('$') => {
                        return parser.fail("is not an operator that is allowed here");
                    }
                    _ => {
                        let path = parser.field_path(key, within)?;
                        nodes.push(Node::Field(path, parser.condition(value)?));
                    }
                }
                Ok(())
            })?;
        }
        Ok(nodes)
    }

    fn branches(&mut self, json: &Value, within: Within) -> Result<Vec<Vec<Node>>, FilterError> {
        let branches = self.array(json)?;
        if branches.is_empty() {
            return self.fail("must not be empty");
        }
        branches
            .iter()
            .enumerate()
            .map(|(at, branch)| {
                self.at(at.to_string(), |parser| {
                    let Value::Object(branch) = branch else {
                        return parser.fail("must be an object");
                    };
                    parser.document(branch, within)
                })
            })
            .collect()
    }

    fn field_path(&self, dotted: &str, within: Within) -> Result<Vec<String>, FilterError> {
        let parts: Vec<String> = dotted.split('.').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) {
            return self.fail("has an empty name in its path");
        }
        if parts.iter().any(|part| part.starts_with('$')) {
            return self.fail("has a name that begins with $ in its path");
        }
        if dotted.contains('\0') {
            return self.fail("has a NUL character in its path");
        }
        if parts.len() > MAX_DEPTH {
            return self.fail(format!("has more than {MAX_DEPTH} names in its path"));
        }
        if within == Within::Channel {
            match (parts[0].as_str(), &parts[1..]) {
                ("channel_metadata", _) | ("channel_tags", []) => {}
                ("channel_tags", [at]) if at.bytes().all(|byte| byte.is_ascii_digit()) => {}
                ("channel_tags", _) => return self.fail("has only numbered elements below it"),
                (field, []) if FIELDS.contains(&field) => {}
                (field, _) if FIELDS.contains(&field) => {
                    return self.fail(format!("has nothing below {field}"));
                }
                _ => {
                    return self.fail(format!(
                        "is not a field; the fields are {}",
                        FIELDS.join(", ")
                    ));
                }
            }
        }
        Ok(parts)
    }

    fn condition(&mut self, json: &Value) -> Result<Vec<Test>, FilterError> {
        match json {
            Value::Object(object) if is_operators(object) => self.tests(object),
            value => Ok(vec![Test::Compare(Comparison::Eq, self.operand(value)?)]),
        }
    }

    fn tests(&mut self, operators: &Map<String, Value>) -> Result<Vec<Test>, FilterError> {
        let mut tests = Vec::new();
        for (name, operand) in operators {
            self.at(name, |parser| {
                match name.as_str() {
                    "$regex" => tests.push(parser.regex(operand, operators.get("$options"))?),
                    // Parsed with its `$regex`.
                    "$options" if operators.contains_key("$regex") => {}
                    "$all" => parser.all(operand, &mut tests)?,
                    name => tests.push(parser.test(name, operand)?),
                }
                Ok(())
            })?;
        }
        Ok(tests)
    }

    fn test(&mut self, name: &str, operand: &Value) -> Result<Test, FilterError> {
        let compare = |comparison| move |value| Test::Compare(comparison, value);
        let not = |test| Test::Not(vec![test]);
        match name {
            "$eq" => self.operand(operand).map(compare(Comparison::Eq)),
            "$gt" => self.operand(operand).map(compare(Comparison::Gt)),
            "$gte" => self.operand(operand).map(compare(Comparison::Gte)),
            "$lt" => self.operand(operand).map(compare(Comparison::Lt)),
            "$lte" => self.operand(operand).map(compare(Comparison::Lte)),
            "$ne" => self.operand(operand).map(compare(Comparison::Eq)).map(not),
            "$in" => self.set(operand).map(Test::In),
            "$nin" => self.set(operand).map(Test::In).map(not),
            "$exists" if self.exists(operand)? => Ok(Test::Exists),
            "$exists" => Ok(not(Test::Exists)),
            "$size" => self.size(operand),
            "$elemMatch" => self.elem_match(operand).map(Test::Elem),
            "$not" => match operand {
                Value::Object(object) if is_operators(object) => self.tests(object).map(Test::Not),
                _ => self.fail("must be an object of operators"),
            },
            "$options" => self.fail("needs a $regex beside it"),
            _ if name.starts_with('$') => self.fail("is not an operator that is allowed here"),
            _ => self.fail("is a field's name among operators"),
        }
    }

    fn all(&mut self, operand: &Value, tests: &mut Vec<Test>) -> Result<(), FilterError> {
        let values = self.array(operand)?;
        let is_elem_match = |value: &Value| {
            matches!(value, Value::Object(object)
                if object.keys().next().is_some_and(|key| key == "$elemMatch"))
        };
        if !values.first().is_some_and(is_elem_match) {
            tests.push(Test::All(self.set(operand)?));
            return Ok(());
        }
        for (at, value) in values.iter().enumerate() {
            self.at(at.to_string(), |parser| match value {
                Value::Object(object) if object.len() == 1 && is_elem_match(value) => {
                    tests.extend(parser.tests(object)?);
                    Ok(())
                }
                _ => parser.fail("must be an $elemMatch, as the first one is"),
            })?;
        }
        Ok(())
    }

    fn exists(&self, operand: &Value) -> Result<bool, FilterError> {
        match operand {
            Value::Bool(wanted) => Ok(*wanted),
            Value::Number(number) => Ok(number.as_f64() != Some(0.0)),
            _ => self.fail("must be true or false"),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the double was found to be a whole number in the range of u32"
    )]
    fn size(&self, operand: &Value) -> Result<Test, FilterError> {
        let size = match operand {
            Value::Number(number) => number.as_f64(),
            _ => None,
        };
        match size {
            Some(size) if size.fract() == 0.0 && (0.0..=f64::from(i32::MAX)).contains(&size) => {
                Ok(Test::Size(size as u32))
            }
            _ => self.fail("must be a whole number, 0 or greater"),
        }
    }

    fn elem_match(&mut self, operand: &Value) -> Result<ElemMatch, FilterError> {
        let Value::Object(object) = operand else {
            return self.fail("must be an object");
        };
        let is_logical = |name: &String| matches!(name.as_str(), "$and" | "$or" | "$nor");
        if is_operators(object) && !object.keys().next().is_some_and(is_logical) {
            self.tests(object).map(ElemMatch::Value)
        } else {
            self.document(object, Within::Element)
                .map(ElemMatch::Document)
        }
    }

    fn regex(&mut self, operand: &Value, options: Option<&Value>) -> Result<Test, FilterError> {
        self.regexes += 1;
        if self.regexes > MAX_REGEXES {
            return self.fail(format!(
                "is one too many: a filter has at most {MAX_REGEXES}"
            ));
        }
        let Value::String(pattern) = operand else {
            return self.fail("must be a string");
        };
        let options = match options {
            None => "",
            Some(Value::String(options)) => options,
            Some(_) => return self.fail_options("must be a string"),
        };
        if let Some(other) = options.chars().find(|option| !OPTIONS.contains(*option)) {
            return self.fail_options(format!("has '{other}'; the options are i, m, s and x"));
        }
        match pattern::compile(pattern, options) {
            Ok(regex) => Ok(Test::Regex(regex)),
            Err(problem) => self.fail(problem),
        }
    }

    /// `$options` is parsed with its `$regex`, but its errors name its own path.
    fn fail_options<T>(&mut self, problem: impl Into<String>) -> Result<T, FilterError> {
        self.path.pop();
        self.path.push("$options".to_owned());
        self.fail(problem)
    }

    fn array<'a>(&self, json: &'a Value) -> Result<&'a [Value], FilterError> {
        match json {
            Value::Array(array) => Ok(array),
            _ => self.fail("must be an array"),
        }
    }

    fn set(&mut self, json: &Value) -> Result<Set, FilterError> {
        let values: Result<_, _> = self
            .array(json)?
            .iter()
            .enumerate()
            .map(|(at, value)| self.at(at.to_string(), |parser| parser.operand(value)))
            .collect();
        values.map(Set::of)
    }

    /// A value to compare with. It contains no operator at any depth, and only numbers that a
    /// channel can store.
    fn operand(&mut self, json: &Value) -> Result<Value, FilterError> {
        self.plain(json)?;
        Ok(json.clone())
    }

    fn plain(&mut self, json: &Value) -> Result<(), FilterError> {
        match json {
            Value::Number(number) if !canonical::is_kept(number) => self.fail(INEXACT_INTEGER),
            Value::Array(array) => array
                .iter()
                .enumerate()
                .try_for_each(|(at, value)| self.at(at.to_string(), |parser| parser.plain(value))),
            Value::Object(object) => object.iter().try_for_each(|(key, value)| {
                self.at(key, |parser| {
                    if key.starts_with('$') {
                        return parser.fail("is an operator inside a value");
                    }
                    if key.contains('\0') {
                        return parser.fail("has a NUL character in its name");
                    }
                    parser.plain(value)
                })
            }),
            _ => Ok(()),
        }
    }
}

/// MongoDB's rule: the first name decides whether an object is operators or a value.
fn is_operators(object: &Map<String, Value>) -> bool {
    object.keys().next().is_some_and(|key| key.starts_with('$'))
}
