//! Progress of the requests: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use hydrometer_base::units::duration;
use indicatif::{ProgressBar, ProgressStyle};

use super::response_log::Spending;
use super::service::Service;

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A progress meter for requests.
pub struct Meter<'a> {
    name: &'a str,
    service: &'a Service,
    total: u64,
    done: u64,
    /// Number of requests answered before this run.
    before: u64,
    begun: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl<'a> Meter<'a> {
    /// A meter for `total` requests to teacher `name`, of which `before` have responses already.
    pub fn new(name: &'a str, service: &'a Service, before: u64, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("teacher {prefix}: {bar:30} {human_pos}/{human_len} requests, {msg}, {eta} left");
            let bar = ProgressBar::new(total).with_position(before).with_prefix(name.to_string());
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        let now = Instant::now();
        Self { name, service, total, done: before, before, begun: now, last_line: now, bar }
    }

    /// Counts another response; all responses have cost `spent`.
    pub fn answered(&mut self, spent: &Spending) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            bar.set_message(spent.words(self.service));
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let per_request = self.begun.elapsed().as_secs_f64() / (self.done - self.before) as f64;
            let left = duration(per_request * (self.total - self.done) as f64);
            self.say(&format!("{} of {} answered, {left} left; {}", self.done, self.total, spent.words(self.service)));
        }
    }

    /// Prints a sentence beside the bar.
    pub fn say(&self, sentence: &str) {
        let line = format!("teacher {}: {sentence}", self.name);
        match &self.bar {
            Some(bar) => bar.suspend(|| tracing::info!("{line}")),
            None => tracing::info!("{line}"),
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
