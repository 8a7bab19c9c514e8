//! The `choice!` macro: settings that take one of a few names.

/// Declares an enum whose variants have names: defines `NAMES`, `named` and `name`, and serializes each variant by its name.
#[macro_export]
macro_rules! choice {
    ($(#[$meta:meta])* $choice:ident { $($(#[$variant_meta:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $choice { $($(#[$variant_meta])* #[serde(rename = $name)] $variant),* }
        impl $choice {
            /// The names of all variants.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The variant with this name.
            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// The name of this variant.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}
