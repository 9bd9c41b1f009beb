//! Enums whose variants have a name, the same in storage, in queues and in the API.

macro_rules! named {
    (
        $(#[$of:meta])*
        pub enum $enum:ident {
            $($(#[$meta:meta])* $variant:ident = $name:literal,)+
        }
    ) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(::serde::Serialize, ::serde::Deserialize)]
        pub enum $enum {
            $($(#[$meta])* #[serde(rename = $name)] $variant,)+
        }

        impl $enum {
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.as_str() == name)
            }
        }
    };
}

pub(crate) use named;
