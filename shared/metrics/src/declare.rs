//! The macros that declare metrics and labels.

/// Declares the metrics of a crate, and the list `METRICS` of all of them, which the first line makes
/// visible. The comment of a metric is its help text. A counter's name ends with `_total`. A name with a unit ends with `_seconds` or
/// `_bytes`, before `_total`.
#[macro_export]
macro_rules! metrics {
    ($all:vis static METRICS; $(
        $(#[doc = $help:literal])+
        $vis:vis static $name:ident: $type:ty = $text:literal $(in $buckets:expr)?;
    )+) => {
        $(
            $(#[doc = $help])+
            $vis static $name: $type = <$type>::new($text, concat!($($help),+) $(, &$buckets)?);
        )+

        /// Every metric of this crate.
        $all static METRICS: &[&dyn $crate::Metric] = &[$(&$name),+];
    };
}

/// Declares an enum that is a label.
#[macro_export]
macro_rules! label {
    (
        $(#[$meta:meta])*
        $vis:vis enum $enum:ident as $label:literal {
            $($(#[$of:meta])* $variant:ident = $value:expr),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $enum {
            $($(#[$of])* $variant),+
        }

        impl $enum {
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $value),+
                }
            }
        }

        $crate::label_of! { $enum as $label: [$($enum::$variant),+], $enum::as_str }
    };
}

/// Makes an enum a label: its name, every variant in the order of the declaration, and the function
/// that names a variant.
#[macro_export]
macro_rules! label_of {
    ($enum:ty as $label:literal: $all:expr, $value:expr) => {
        impl $crate::Labels for $enum {
            fn count() -> usize {
                $all.len()
            }

            fn index(self) -> usize {
                self as usize
            }

            fn describe(index: usize, to: &mut Vec<$crate::LabelValue>) {
                let value = $all.get(index).copied().map_or("", $value);
                to.push(($label, value.into()));
            }
        }
    };
}
