//! The advice in error messages, worded for where the user configures how data is read.

/// Where the user configures how data is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Says {
    /// By keys of an experiment file.
    #[default]
    Keys,
    /// By flags on the command line.
    Flags,
}

impl Says {
    /// How to skip damaged lines.
    pub fn skip(self) -> &'static str {
        match self {
            Self::Keys => "set on_bad_line = \"skip\"",
            Self::Flags => "pass --on-bad-line skip",
        }
    }

    /// How to set the names of a line's keys.
    pub fn keys(self) -> &'static str {
        match self {
            Self::Keys => "its keys by source_key and target_key",
            Self::Flags => "its keys by --source-key and --target-key",
        }
    }

    /// How to set the format.
    pub fn format(self, name: &str) -> String {
        match self {
            Self::Keys => format!("set format = \"{name}\""),
            Self::Flags => format!("pass --format {name}"),
        }
    }
}
