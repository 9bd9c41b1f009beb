//! Which ports an endpoint may have.

use std::ops::RangeInclusive;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) ranges: Vec<RangeInclusive<u16>>,
    pub(crate) refused: Vec<u16>,
}

impl Ports {
    pub(crate) fn allow(&self, port: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&port)) && !self.refused.contains(&port)
    }
}

pub(crate) fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("443", Some(443..=443))]
    #[case("1024-65535", Some(1024..=65535))]
    #[case(" 80 - 90 ", Some(80..=90))]
    #[case("0", None)]
    #[case("90-80", None)]
    #[case("65536", None)]
    #[case("", None)]
    #[case("http", None)]
    #[case("1-2-3", None)]
    fn a_range_is_two_ports_or_one(
        #[case] text: &str,
        #[case] expected: Option<RangeInclusive<u16>>,
    ) {
        assert_eq!(range(text), expected);
    }

    #[test]
    fn a_refused_port_is_refused_within_an_allowed_range() {
        let ports = Ports {
            ranges: vec![1..=10],
            refused: vec![5],
        };
        assert!(ports.allow(4));
        assert!(!ports.allow(5));
        assert!(!ports.allow(11));
    }
}
