//! Regular expressions with the same meaning in MongoDB (PCRE2, with UTF but without Unicode
//! classes) and in the `regex` crate, which matches in linear time.
//!
//! Invariant: a pattern is accepted only if both engines agree on it. MongoDB gets the client's
//! text, without the blanks that the option `x` allows. The `regex` crate gets it with differing
//! spellings replaced:
//!
//! | spelling | PCRE2 | `regex` | here |
//! |---|---|---|---|
//! | `\d \w \s \b` | ASCII | Unicode | spelled out in ASCII |
//! | `$` | also before a last newline | only at the very end | replaced at a pattern's end, else refused |
//! | `^` with `m` | not after a last newline | there too | only before something that matches a character |
//! | `a++`, `a{2}+` | possessive | repeated twice | refused |
//! | `\< \v [a&&b] [[:alpha:]] \p{L} (?m)` and more | differ | differ | refused |

use std::ops::Range;

use regex::{Regex, RegexBuilder};
use regex_syntax::ast::{
    Assertion, AssertionKind, Ast, ClassPerlKind, ClassSet, ClassSetItem, Flag, Flags,
    FlagsItemKind, GroupKind, HexLiteralKind, Literal, LiteralKind, RepetitionKind,
    RepetitionRange, SpecialLiteralKind, parse::ParserBuilder,
};

use super::{
    MAX_REGEX_BYTES, MAX_REGEX_COMPILED_BYTES, MAX_REGEX_MATCHING_BYTES, MAX_REGEX_NESTING,
    MAX_REGEX_REPEAT,
};

/// The supported options.
pub(super) const OPTIONS: &str = "imsx";

/// A regular expression, for both engines.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// For MongoDB.
    pub(crate) source: String,
    /// For MongoDB: a subset of `i`, `m`, `s`.
    pub(crate) options: String,
    regex: Regex,
}

impl Pattern {
    /// Parses a pattern and its options, from [`OPTIONS`].
    ///
    /// # Errors
    ///
    /// What is invalid, or differs between the engines, for the client to read.
    pub(super) fn parse(source: &str, options: &str) -> Result<Self, String> {
        if source.len() > MAX_REGEX_BYTES {
            return Err(format!("must be at most {MAX_REGEX_BYTES} bytes"));
        }
        if source.contains('\0') {
            return Err("must not have a NUL character".to_owned());
        }
        let source = if options.contains('x') {
            without_blanks(source)
        } else {
            source.to_owned()
        };
        let ast = ParserBuilder::new()
            .nest_limit(MAX_REGEX_NESTING)
            .build()
            .parse(&source)
            .map_err(|error| format!("is not a regular expression: {}", error.kind()))?;
        let mut translator = Translator {
            source: &source,
            multi_line: options.contains('m'),
            ignores_case: options.contains('i') || source.contains("(?i"),
            edits: Vec::new(),
        };
        translator.pattern(&ast)?;
        let regex = RegexBuilder::new(&translator.edited())
            .case_insensitive(options.contains('i'))
            .multi_line(options.contains('m'))
            .dot_matches_new_line(options.contains('s'))
            .size_limit(MAX_REGEX_COMPILED_BYTES)
            .dfa_size_limit(MAX_REGEX_MATCHING_BYTES)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "is too complex".to_owned(),
                error => format!("is not a regular expression: {error}"),
            })?;
        Ok(Self {
            options: ['i', 'm', 's']
                .into_iter()
                .filter(|option| options.contains(*option))
                .collect(),
            source,
            regex,
        })
    }

    /// Whether the pattern is found in the text.
    pub(super) fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// Removes what the option `x` ignores: blanks and comments outside of classes.
fn without_blanks(source: &str) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut chars = source.chars().peekable();
    let mut in_class = false;
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                // An escaped blank stands for itself, also without `x`.
                match chars.next() {
                    Some(blank) if blank.is_ascii_whitespace() => kept.push(blank),
                    Some('#') => kept.push_str(r"\#"),
                    escaped => kept.extend([Some('\\'), escaped].into_iter().flatten()),
                }
            }
            '[' if !in_class => {
                in_class = true;
                kept.push('[');
                kept.extend(chars.next_if_eq(&'^'));
                // A `]` in this place does not close the class.
                kept.extend(chars.next_if_eq(&']'));
            }
            ']' => {
                in_class = false;
                kept.push(']');
            }
            blank if !in_class && blank.is_ascii_whitespace() => {}
            '#' if !in_class => while chars.next().is_some_and(|char| char != '\n') {},
            other => kept.push(other),
        }
    }
    kept
}

const DIGIT: &str = "0-9";
const WORD: &str = "A-Za-z0-9_";
const SPACE: &str = r"\t-\r ";

/// Walks a pattern, refuses what the engines read differently, and collects the spellings to
/// replace for the `regex` crate.
struct Translator<'a> {
    source: &'a str,
    multi_line: bool,
    ignores_case: bool,
    edits: Vec<(Range<usize>, String)>,
}

impl Translator<'_> {
    /// The whole pattern. Flags are only valid at its beginning.
    fn pattern(&mut self, ast: &Ast) -> Result<(), String> {
        match ast {
            Ast::Alternation(branches) => branches
                .asts
                .iter()
                .try_for_each(|branch| self.branch(branch)),
            ast => self.branch(ast),
        }
    }

    /// One of the pattern's outermost alternatives.
    fn branch(&mut self, ast: &Ast) -> Result<(), String> {
        let items = match ast {
            Ast::Concat(concat) => concat.asts.as_slice(),
            ast => std::slice::from_ref(ast),
        };
        let mut items = items;
        if let [Ast::Flags(set), rest @ ..] = items
            && set.span.start.offset == 0
        {
            flags(&set.flags)?;
            items = rest;
        }
        if self.multi_line
            && let [Ast::Assertion(assertion), rest @ ..] = items
            && assertion.kind == AssertionKind::StartLine
            && self.takes_a_character(rest)
        {
            items = rest;
        }
        self.concat(items, true)
    }

    /// Whether these items always match at least one character.
    fn takes_a_character(&self, items: &[Ast]) -> bool {
        items.iter().any(|item| {
            let span = item.span();
            regex_syntax::parse(&self.source[span.start.offset..span.end.offset])
                .is_ok_and(|hir| hir.properties().minimum_len().is_some_and(|len| len > 0))
        })
    }

    fn concat(&mut self, items: &[Ast], is_last: bool) -> Result<(), String> {
        items
            .iter()
            .enumerate()
            .try_for_each(|(at, item)| self.item(item, is_last && at + 1 == items.len()))
    }

    /// One item. `is_last` means that nothing can follow it in the pattern.
    fn item(&mut self, ast: &Ast, is_last: bool) -> Result<(), String> {
        match ast {
            Ast::Empty(_) | Ast::Dot(_) => Ok(()),
            Ast::Flags(_) => {
                Err("can have flags only at its beginning or in a (?i:group)".to_owned())
            }
            Ast::Literal(found) => literal(found),
            Ast::Assertion(assertion) => self.assertion(assertion, is_last),
            Ast::ClassUnicode(_) => Err(r"cannot have a Unicode class (\p)".to_owned()),
            Ast::ClassPerl(class) => {
                let not = if class.negated { "^" } else { "" };
                let spelled = format!("(?-i:[{not}{}])", ascii(&class.kind));
                self.edit(class.span.start.offset..class.span.end.offset, spelled);
                Ok(())
            }
            Ast::ClassBracketed(class) => match &class.kind {
                ClassSet::Item(item) => self.class_item(item),
                ClassSet::BinaryOp(_) => {
                    Err("cannot have a set operation (&&, --, ~~) in a class".to_owned())
                }
            },
            Ast::Repetition(repetition) => {
                if let RepetitionKind::Range(range) = &repetition.op.kind {
                    let most = match range {
                        RepetitionRange::Exactly(n)
                        | RepetitionRange::AtLeast(n)
                        | RepetitionRange::Bounded(_, n) => *n,
                    };
                    if most > MAX_REGEX_REPEAT {
                        return Err(format!(
                            "can repeat at most {MAX_REGEX_REPEAT} times by number"
                        ));
                    }
                }
                match &*repetition.ast {
                    Ast::Repetition(_) => {
                        Err("cannot repeat a repetition (a++ is possessive elsewhere)".to_owned())
                    }
                    Ast::Assertion(_) | Ast::Flags(_) | Ast::Empty(_) => {
                        Err("cannot repeat what matches no character".to_owned())
                    }
                    inner => self.item(inner, false),
                }
            }
            Ast::Group(group) => {
                match &group.kind {
                    GroupKind::CaptureIndex(_) => {}
                    GroupKind::CaptureName { .. } => {
                        return Err("cannot have a named group".to_owned());
                    }
                    GroupKind::NonCapturing(set) => flags(set)?,
                }
                self.item(&group.ast, is_last)
            }
            Ast::Alternation(branches) => branches
                .asts
                .iter()
                .try_for_each(|branch| self.item(branch, is_last)),
            Ast::Concat(concat) => self.concat(&concat.asts, is_last),
        }
    }

    fn assertion(&mut self, assertion: &Assertion, is_last: bool) -> Result<(), String> {
        let span = assertion.span.start.offset..assertion.span.end.offset;
        match assertion.kind {
            AssertionKind::StartText | AssertionKind::EndText => Ok(()),
            AssertionKind::StartLine if !self.multi_line => Ok(()),
            AssertionKind::StartLine => Err(
                "can have ^ with the option m only at its beginning, or at an alternative's, and \
                 before something that matches a character"
                    .to_owned(),
            ),
            AssertionKind::EndLine if self.multi_line => Ok(()),
            AssertionKind::EndLine if is_last => {
                self.edit(span, r"(?:\n?\z)".to_owned());
                Ok(())
            }
            AssertionKind::EndLine => {
                Err("can have $ only at its end or at the end of an alternative".to_owned())
            }
            AssertionKind::WordBoundary => {
                self.edit(span, r"(?-u:\b)".to_owned());
                Ok(())
            }
            AssertionKind::NotWordBoundary => {
                self.edit(span, r"(?-u:\B)".to_owned());
                Ok(())
            }
            _ => Err(r"can have no word boundary but \b and \B".to_owned()),
        }
    }

    fn class_item(&mut self, item: &ClassSetItem) -> Result<(), String> {
        match item {
            ClassSetItem::Empty(_) => Ok(()),
            ClassSetItem::Literal(found) => literal(found),
            ClassSetItem::Range(range) => literal(&range.start).and_then(|()| literal(&range.end)),
            ClassSetItem::Ascii(_) => Err("cannot have a named class ([:alpha:])".to_owned()),
            ClassSetItem::Unicode(_) => Err(r"cannot have a Unicode class (\p)".to_owned()),
            ClassSetItem::Bracketed(_) => {
                Err(r"cannot have a class within a class; write \[".to_owned())
            }
            ClassSetItem::Perl(class) => {
                // With the option `i`, `regex` counts two letters beyond ASCII as word characters
                // (ſ and K); PCRE2 does not.
                if self.ignores_case && class.kind == ClassPerlKind::Word {
                    return Err(r"cannot have \w or \W within a class where case is ignored".into());
                }
                let ascii = ascii(&class.kind);
                let spelled = if class.negated {
                    format!("[^{ascii}]")
                } else {
                    ascii.to_owned()
                };
                self.edit(class.span.start.offset..class.span.end.offset, spelled);
                Ok(())
            }
            ClassSetItem::Union(union) => union
                .items
                .iter()
                .try_for_each(|item| self.class_item(item)),
        }
    }

    fn edit(&mut self, span: Range<usize>, spelled: String) {
        self.edits.push((span, spelled));
    }

    /// The pattern in the `regex` crate's spelling.
    fn edited(self) -> String {
        let mut text = self.source.to_owned();
        for (span, spelled) in self.edits.into_iter().rev() {
            text.replace_range(span, &spelled);
        }
        text
    }
}

fn ascii(kind: &ClassPerlKind) -> &'static str {
    match kind {
        ClassPerlKind::Digit => DIGIT,
        ClassPerlKind::Space => SPACE,
        ClassPerlKind::Word => WORD,
    }
}

fn flags(flags: &Flags) -> Result<(), String> {
    let known = |kind: &FlagsItemKind| {
        matches!(
            kind,
            FlagsItemKind::Negation
                | FlagsItemKind::Flag(Flag::CaseInsensitive | Flag::DotMatchesNewLine)
        )
    };
    if flags.items.iter().all(|item| known(&item.kind)) {
        Ok(())
    } else {
        Err("can have no flags within but i and s; use $options".to_owned())
    }
}

fn literal(literal: &Literal) -> Result<(), String> {
    match literal.kind {
        LiteralKind::Verbatim
        | LiteralKind::Meta
        | LiteralKind::Superfluous
        | LiteralKind::HexFixed(HexLiteralKind::X)
        | LiteralKind::HexBrace(HexLiteralKind::X)
        | LiteralKind::Special(
            SpecialLiteralKind::Bell
            | SpecialLiteralKind::FormFeed
            | SpecialLiteralKind::Tab
            | SpecialLiteralKind::LineFeed
            | SpecialLiteralKind::CarriageReturn
            | SpecialLiteralKind::Space,
        ) => Ok(()),
        LiteralKind::Octal
        | LiteralKind::HexFixed(_)
        | LiteralKind::HexBrace(_)
        | LiteralKind::Special(SpecialLiteralKind::VerticalTab) => {
            Err(r"can have no escape by number but \xHH and \x{H}, and no \v".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
