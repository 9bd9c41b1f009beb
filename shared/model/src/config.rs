//! The sections of the configuration: how one states its settings, and what is wrong with them.
//!
//! Invariant: a wrong setting is one line that names its key and says what is valid. It shows no
//! value, which may be a secret. All wrong settings are reported together.

use std::{
    error::Error,
    fmt::{self, Display},
    ops::{Bound, RangeBounds},
    time::Duration,
};

const DAY: u64 = 24 * 60 * 60;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongSetting {
    /// Where it is written, if that is known.
    place: Option<String>,
    /// The key with its sections; empty if the text there is no setting.
    path: String,
    problem: String,
    remedy: Option<String>,
}

impl WrongSetting {
    /// What is wrong with the setting at this path, as the end of a sentence about it.
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: None,
            path: path.into(),
            problem: problem.into(),
            remedy: None,
        }
    }

    pub fn at(self, place: &impl Display) -> Self {
        Self {
            place: Some(place.to_string()),
            ..self
        }
    }

    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    fn within(self, section: &str) -> Self {
        Self {
            path: format!("{section}{}", self.path),
            ..self
        }
    }
}

impl Display for WrongSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{} ", self.path)?;
        }
        f.write_str(&self.problem)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl Error for WrongSetting {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongSettings(Vec<WrongSetting>);

impl WrongSettings {
    pub fn iter(&self) -> impl Iterator<Item = &WrongSetting> {
        self.0.iter()
    }
}

impl From<WrongSetting> for WrongSettings {
    fn from(wrong: WrongSetting) -> Self {
        Self(vec![wrong])
    }
}

impl Display for WrongSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Error for WrongSettings {}

#[derive(Debug, Default)]
pub struct Check {
    /// The sections around the keys, each followed by a dot.
    section: String,
    wrong: Vec<WrongSetting>,
}

impl Check {
    pub fn of(section: &str) -> Self {
        Self {
            section: format!("{section}."),
            wrong: Vec::new(),
        }
    }

    pub fn section(&mut self, name: &str, check: impl FnOnce(&mut Self)) {
        let outer = self.section.len();
        self.section.extend([name, "."]);
        check(self);
        self.section.truncate(outer);
    }

    /// Adds a wrong setting of this section. A value that could not be read is already reported:
    /// another problem would be that of the default in its place.
    pub fn add(&mut self, wrong: WrongSetting) {
        let wrong = wrong.within(&self.section);
        let is_known = |known: &WrongSetting| {
            *known == wrong || (known.place.is_some() && known.path == wrong.path)
        };
        if !self.wrong.iter().any(is_known) {
            self.wrong.push(wrong);
        }
    }

    pub fn has(&self, key: &str) -> bool {
        let is_it = |wrong: &WrongSetting| wrong.path.strip_prefix(&*self.section) == Some(key);
        self.wrong.iter().any(is_it)
    }

    pub fn unless(&mut self, holds: bool, key: &str, problem: impl Into<String>) {
        if !holds {
            self.add(WrongSetting::new(key, problem));
        }
    }

    pub fn within<T: Bounded>(&mut self, key: &str, value: &T, bounds: &impl RangeBounds<T>) {
        if bounds.contains(value) {
            return;
        }
        let shown = |bound: Bound<&T>| match bound {
            Bound::Included(bound) | Bound::Excluded(bound) => Some(bound.shown()),
            Bound::Unbounded => None,
        };
        let valid = match (shown(bounds.start_bound()), shown(bounds.end_bound())) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, most) => format!("at most {}", most.unwrap_or_default()),
        };
        self.add(WrongSetting::new(key, format!("must be {valid}")));
    }

    /// The value that a setting stands for, if it stands for one.
    pub fn value<T>(&mut self, key: &str, value: Result<T, impl Error>) -> Option<T> {
        value
            .map_err(|error| self.add(WrongSetting::new(key, chain(&error))))
            .ok()
    }

    pub fn take<T>(&mut self, value: Result<T, WrongSetting>) -> Option<T> {
        value.map_err(|wrong| self.add(wrong)).ok()
    }

    /// Ends the check with what was made of the settings.
    ///
    /// # Errors
    /// Every wrong setting; none of them if only the value is missing.
    pub fn end_with<T>(self, value: Option<T>) -> Result<T, WrongSettings> {
        match value {
            Some(value) if self.wrong.is_empty() => Ok(value),
            _ => Err(WrongSettings(self.wrong)),
        }
    }

    pub fn end(self) -> Result<(), WrongSettings> {
        self.end_with(Some(()))
    }
}

pub trait Bounded: PartialOrd {
    fn shown(&self) -> String;
}

macro_rules! numbers {
    ($($number:ty)+) => {
        $(
            impl Bounded for $number {
                fn shown(&self) -> String {
                    self.to_string()
                }
            }
        )+
    };
}

numbers! { u16 u32 u64 usize }

impl Bounded for Duration {
    fn shown(&self) -> String {
        match self.as_secs() {
            // Rather than in the months and years of an average length.
            seconds if seconds > DAY && seconds % DAY == 0 => format!("{} days", seconds / DAY),
            _ => humantime::format_duration(*self).to_string(),
        }
    }
}

/// A URL for logs: the whole URL of a `file`, and only the scheme of any other. An unknown scheme is
/// hidden too, because a mistyped URL may begin with the password.
pub fn masked(url: &str, file: &str, schemes: &[&str]) -> String {
    if url.starts_with(file) {
        return url.to_owned();
    }
    let scheme = schemes.iter().find(|scheme| url.starts_with(**scheme));
    format!("{}…", scheme.unwrap_or(&""))
}

/// An error and its sources in one line, each once: some repeat their source's text.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        source = error.source();
    }
    line.replace('\n', " ")
}

/// Declares a section of the configuration: each setting with its type, its default and, after `in`,
/// its bounds. `check_bounds` compares the values with the bounds.
#[macro_export]
macro_rules! section {
    (
        $(#[$of:meta])*
        pub $(($scope:tt))? struct $name:ident {
            $(
                $(#[$meta:meta])*
                $field:ident: $type:ty = $default:expr $(, in $bounds:expr)?;
            )*
        }
    ) => {
        $(#[$of])*
        #[derive(Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub $(($scope))? struct $name {
            $($(#[$meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            pub fn check_bounds(&self, check: &mut $crate::config::Check) {
                let _ = &check;
                $($(check.within(stringify!($field), &self.$field, &($bounds));)?)*
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(check: impl FnOnce(&mut Check)) -> String {
        let mut all = Check::of("a");
        check(&mut all);
        all.end()
            .map_or_else(|wrong| wrong.to_string(), |()| String::new())
    }

    #[test]
    fn bounds_are_stated_as_people_write_them() {
        let day = Duration::from_secs(DAY);
        assert_eq!(problem(|all| all.within("b", &5_u16, &(1..=5))), "");
        assert_eq!(
            problem(|all| all.within("b", &6_u16, &(1..=5))),
            "a.b must be 1 to 5"
        );
        assert_eq!(
            problem(|all| all.within("b", &0_u64, &(1..))),
            "a.b must be at least 1"
        );
        assert_eq!(
            problem(|all| all.within("b", &(366 * day), &(..=30 * day))),
            "a.b must be at most 30 days"
        );
        let hour = Duration::from_millis(10)..=Duration::from_hours(1);
        assert_eq!(
            problem(|all| all.within("b", &Duration::ZERO, &hour)),
            "a.b must be 10ms to 1h"
        );
    }

    #[test]
    fn every_wrong_setting_is_reported_by_its_path() {
        let found = problem(|all| {
            all.unless(false, "b", "is wrong");
            all.section("c", |inner| {
                inner.add(WrongSetting::new("d", "is wrong").remedy("mend it"));
                inner.value::<()>("e", Err(fmt::Error));
            });
            all.unless(true, "f", "is wrong");
        });
        assert_eq!(
            found,
            "a.b is wrong\na.c.d is wrong; mend it\na.c.e an error occurred when formatting an \
             argument"
        );
    }
}
