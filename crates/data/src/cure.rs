//! What a message advises, in the words of where the user says how data is read.

/// Where that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Says {
    /// Keys of an experiment file.
    #[default]
    Keys,
    /// Flags on the command line.
    Flags,
}

impl Says {
    /// How to leave damaged lines out.
    pub fn skip(self) -> &'static str {
        match self {
            Self::Keys => "set on_bad_line = \"skip\"",
            Self::Flags => "pass --on-bad-line skip",
        }
    }

    /// How to say that keys of a line go by other names.
    pub fn keys(self) -> &'static str {
        match self {
            Self::Keys => "its keys by source_key and target_key",
            Self::Flags => "its keys by --source-key and --target-key",
        }
    }

    /// How to name the format.
    pub fn format(self, name: &str) -> String {
        match self {
            Self::Keys => format!("set format = \"{name}\""),
            Self::Flags => format!("pass --format {name}"),
        }
    }
}
