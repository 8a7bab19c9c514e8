//! Prints what libraries log through `tracing` as lines on standard error.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::terminal;

/// Prints messages from now on, except those of dependencies.
pub fn install() {
    // Fails harmlessly if it was installed before, as in tests that run several subcommands in one process.
    let _ = tracing::subscriber::set_global_default(Lines);
}

/// Prints each message as one line, without time or level.
struct Lines;

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("hydrometer")
    }

    fn event(&self, event: &Event) {
        let mut message = Message(String::new());
        event.record(&mut message);
        terminal::note(format_args!("{}", message.0));
    }

    // Spans are not used.
    fn new_span(&self, _: &Attributes) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}
