//! Settings that are one of a few names.

/// An enum whose variants have written names: `NAMES`, `named` and `name`, and serde by them.
#[macro_export]
macro_rules! choice {
    ($(#[$meta:meta])* $choice:ident { $($(#[$variant_meta:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $choice { $($(#[$variant_meta])* #[serde(rename = $name)] $variant),* }
        impl $choice {
            pub const NAMES: &[&str] = &[$($name),*];

            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}
