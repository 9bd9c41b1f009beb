//! Regular expressions, in the language of the `regex` crate, which matches in linear time.

use regex::{Error, Regex, RegexBuilder};

use super::{
    MAX_REGEX_BYTES, MAX_REGEX_COMPILED_BYTES, MAX_REGEX_MATCHING_BYTES, MAX_REGEX_NESTING,
};

pub(super) const OPTIONS: &str = "imsx";

/// Compiles a pattern with options from [`OPTIONS`]. An error is for the client to read.
pub(super) fn compile(pattern: &str, options: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_REGEX_BYTES {
        return Err(format!("must be at most {MAX_REGEX_BYTES} bytes"));
    }
    RegexBuilder::new(pattern)
        .case_insensitive(options.contains('i'))
        .multi_line(options.contains('m'))
        .dot_matches_new_line(options.contains('s'))
        .ignore_whitespace(options.contains('x'))
        .nest_limit(MAX_REGEX_NESTING)
        .size_limit(MAX_REGEX_COMPILED_BYTES)
        .dfa_size_limit(MAX_REGEX_MATCHING_BYTES)
        .build()
        .map_err(|error| match error {
            Error::CompiledTooBig(_) => "is too complex".to_owned(),
            error => {
                // The lines before the last one show the pattern.
                let text = error.to_string();
                let problem = text.lines().next_back().unwrap_or_default();
                let problem = problem.trim_start_matches("error: ");
                format!("is not a regular expression: {problem}")
            }
        })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::anywhere("lac", "", "slack", true)]
    #[case::very_end("ck$", "", "slack\n", false)]
    #[case::unicode_word(r"^\w+$", "", "kanäle", true)]
    #[case::unicode_class(r"^\p{Greek}+$", "", "λόγος", true)]
    #[case::named_class("^[[:alpha:]]+$", "", "slack", true)]
    #[case::case("SLACK", "i", "slack", true)]
    #[case::case_beyond_ascii("KANÄLE", "i", "kanäle", true)]
    #[case::flags("a(?i)b", "", "aB", true)]
    #[case::dot("^a.b$", "", "a\nb", false)]
    #[case::dot_all("^a.b$", "s", "a\nb", true)]
    #[case::lines("^b$", "m", "a\nb\nc", true)]
    #[case::one_line("^b$", "", "a\nb\nc", false)]
    #[case::extended("a b # comment\nc", "x", "abc", true)]
    #[case::empty("", "", "", true)]
    fn a_pattern_matches_as_documented(
        #[case] pattern: &str,
        #[case] options: &str,
        #[case] text: &str,
        #[case] matches: bool,
    ) {
        assert_eq!(compile(pattern, options).unwrap().is_match(text), matches);
    }

    #[rstest]
    #[case::look_ahead("a(?=b)", "is not a regular expression: look-around, ")]
    #[case::back_reference(r"(a)\1", "is not a regular expression: backreferences ")]
    #[case::unclosed("(a", "is not a regular expression: unclosed group")]
    #[case::too_complex("((((a{100}){100}){100}){100})", "is too complex")]
    #[case::too_long(&"a".repeat(MAX_REGEX_BYTES + 1), "must be at most 1024 bytes")]
    #[case::too_deep(&format!("{}a{}", "(".repeat(60), ")".repeat(60)), "is not a regular expression: ")]
    fn a_pattern_that_cannot_be_matched_in_linear_time_and_little_memory_is_refused(
        #[case] pattern: &str,
        #[case] expected: &str,
    ) {
        let problem = compile(pattern, "").unwrap_err();
        assert!(
            problem.starts_with(expected) && !problem.contains('\n'),
            "{problem}"
        );
    }
}
