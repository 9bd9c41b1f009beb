use rstest::rstest;

use super::*;

// PCRE2's results, by its documentation (pcre2pattern).
#[rstest]
#[case::found_anywhere("lac", "", "slack", true)]
#[case::end("ck$", "", "slack", true)]
#[case::end_before_a_last_newline("ck$", "", "slack\n", true)]
#[case::end_before_two_newlines("ck$", "", "slack\n\n", false)]
#[case::very_end(r"ck\z", "", "slack\n", false)]
#[case::end_of_each_branch("^(a$|b$)", "", "b\n", true)]
#[case::newline_then_end("a\n$", "", "a\n", true)]
#[case::digit_is_ascii(r"^\d$", "", "٣", false)]
#[case::not_digit(r"^\D$", "", "٣", true)]
#[case::word_is_ascii(r"^\w+$", "", "kanäle", false)]
#[case::word_in_class(r"^[\w-]+$", "", "a_b-9", true)]
#[case::not_space_in_class(r"^[\S]$", "", "é", true)]
#[case::vertical_tab_is_space(r"^\s$", "", "\u{b}", true)]
#[case::boundary_is_ascii(r"a\b", "", "aé", true)]
#[case::no_boundary(r"a\B", "", "ab", true)]
#[case::no_boundary_but_within_a_character(r"\B", "", "aéa", false)]
#[case::case("SLACK", "i", "slack", true)]
#[case::case_beyond_ascii("KANÄLE", "i", "kanäle", true)]
#[case::word_without_case(r"^\w$", "i", "ſ", false)]
#[case::letter_without_case("^s$", "i", "ſ", true)]
#[case::inline_flag("(?i)a|b", "", "B", true)]
#[case::flag_of_a_group("(?i:a)b", "", "AB", false)]
#[case::dot("^a.b$", "", "a\nb", false)]
#[case::dot_all("^a.b$", "s", "a\nb", true)]
#[case::lines("^b$", "m", "a\nb\nc", true)]
#[case::one_line("^b$", "", "a\nb\nc", false)]
#[case::extended("a b # comment\nc", "x", "abc", true)]
#[case::extended_class("a[ ]b", "x", "a b", true)]
#[case::extended_escape(r"a\ b\#", "x", "a b#", true)]
#[case::empty("", "", "", true)]
#[case::literal_brackets(r"[]x]\[", "", "][", true)]
fn a_pattern_matches_as_pcre2_would(
    #[case] pattern: &str,
    #[case] options: &str,
    #[case] text: &str,
    #[case] matches: bool,
) {
    let pattern = Pattern::parse(pattern, options).unwrap();
    assert_eq!(pattern.matches(text), matches, "{pattern:?}");
}

#[rstest]
#[case::lookahead("a(?=b)", "")]
#[case::back_reference(r"(a)\1", "")]
#[case::possessive("a++", "")]
#[case::atomic("(?>a)", "")]
#[case::end_within("a$b", "")]
#[case::repeated_end("(a$)*", "")]
#[case::set_operation("[a&&b]", "")]
#[case::nested_class("[a[b]]", "")]
#[case::posix_class("[[:alpha:]]", "")]
#[case::unicode_class(r"\p{Greek}", "")]
#[case::word_start(r"\<a", "")]
#[case::vertical(r"\v", "")]
#[case::unicode_escape(r"\u00e9", "")]
#[case::inline_multi_line("(?m)a", "")]
#[case::flag_within("a(?i)b", "")]
#[case::named_group("(?P<n>a)", "")]
#[case::empty_line("^$", "m")]
#[case::word_in_class_without_case(r"[\w]", "i")]
#[case::word_in_class_without_case_inline(r"(?i)[\w]", "")]
#[case::repeat_over_the_bound("a{1001}", "")]
#[case::too_complex("((((a{100}){100}){100}){100})", "")]
#[case::too_long(&"a".repeat(MAX_REGEX_BYTES + 1), "")]
#[case::too_deep(&format!("{}a{}", "(".repeat(60), ")".repeat(60)), "")]
#[case::nul("a\0", "")]
#[case::unclosed("(a", "")]
fn a_pattern_that_the_engines_read_differently_is_refused(
    #[case] pattern: &str,
    #[case] options: &str,
) {
    let problem = Pattern::parse(pattern, options).unwrap_err();
    assert!(!problem.contains('\n'), "{problem}");
}
