//! Progress of a running sweep, with the time left: one bar per running job on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use hydrometer_base::text::sentence;
use hydrometer_record::journal::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::job::Work;
use super::schedule::Planned;

/// Minimum time between two plain lines about a job.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub struct Progress {
    bars: Option<MultiProgress>,
    jobs: Vec<JobProgress>,
    begun: Instant,
    /// FLOPs of all jobs.
    total: f64,
    ended: usize,
}

struct JobProgress {
    name: String,
    flops: f64,
    tokens: u64,
    done: u64,
    /// Tokens that an earlier session had processed.
    resumed: u64,
    loss: Option<f64>,
    tokens_per_s: f64,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    pub fn new(planned: &[Planned]) -> Self {
        let now = Instant::now();
        let jobs: Vec<JobProgress> = planned
            .iter()
            .map(|planned| JobProgress {
                name: planned.job.run.to_string(),
                flops: planned.flops,
                tokens: match planned.job.work {
                    Work::Teach { .. } => 0,
                    _ => planned.tokens,
                },
                done: 0,
                resumed: 0,
                loss: None,
                tokens_per_s: 0.0,
                bar: None,
                last_line: now,
            })
            .collect();
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, total: jobs.iter().map(|job| job.flops).sum(), jobs, begun: now, ended: 0 }
    }

    /// Prints a line, above the bars if there are any.
    pub fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(sentence(line))),
            None => tracing::info!("{line}"),
        }
    }

    pub fn started(&mut self, index: usize) {
        if let Some(bars) = &self.bars {
            let bar = bars.add(ProgressBar::new(self.jobs[index].tokens.max(1)));
            let template = "{prefix:<40!} {bar:24} {percent:>3}%  {msg}";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(self.jobs[index].name.clone());
            self.jobs[index].bar = Some(bar);
        } else {
            self.say(&format!("{} {}: started", self.counter(), self.jobs[index].name));
        }
        self.jobs[index].last_line = Instant::now();
    }

    pub fn event(&mut self, index: usize, event: &Event) {
        let job = &mut self.jobs[index];
        match event {
            Event::Step(step) => {
                let fresh = (step.tokens as u64).saturating_sub(job.done);
                if job.done == 0 && step.step > 1 {
                    job.resumed = step.tokens as u64;
                }
                let speed = fresh as f64 / step.seconds.max(1e-9);
                job.tokens_per_s = if job.tokens_per_s == 0.0 { speed } else { 0.9 * job.tokens_per_s + 0.1 * speed };
                job.done = step.tokens as u64;
                job.loss = Some(step.loss);
            }
            Event::Progress { done, total } => {
                job.tokens = *total;
                job.done = *done;
            }
            Event::Notice { what } => {
                let line = format!("{}: {what}", job.name);
                return self.say(&line);
            }
            _ => return,
        }
        if let Some(bar) = &job.bar {
            bar.set_length(job.tokens.max(1));
            bar.set_position(job.done);
        } else if job.last_line.elapsed() > LINE_EVERY {
            job.last_line = Instant::now();
            let line = format!("{} {}: {}", self.counter(), self.jobs[index].name, self.message(index));
            self.say(&line);
        }
    }

    /// Refreshes the text of the bars.
    pub fn tick(&self) {
        for index in 0..self.jobs.len() {
            if let Some(bar) = &self.jobs[index].bar {
                bar.set_message(self.message(index));
            }
        }
    }

    /// Job `index` does not run at present but has not ended; `sentence` says why.
    pub fn retried(&mut self, index: usize, sentence: &str) {
        if let Some(bar) = self.jobs[index].bar.take() {
            bar.finish_and_clear();
        }
        self.say(&format!("{}: {sentence}", self.jobs[index].name));
    }

    /// Job `index` has ended; `problem` says what went wrong, if anything.
    pub fn ended(&mut self, index: usize, problem: Option<&str>) {
        self.ended += 1;
        if self.jobs[index].done == 0 {
            // The job was not run by this session, so it says nothing about this session's speed.
            self.jobs[index].resumed = self.jobs[index].tokens;
        }
        self.jobs[index].done = self.jobs[index].tokens;
        if let Some(bar) = self.jobs[index].bar.take() {
            bar.finish_and_clear();
        }
        let left = self.time_left().map_or(String::new(), |left| format!(", sweep ETA {left}"));
        let name = &self.jobs[index].name;
        match problem {
            Some(problem) => self.say(&format!("{} {name}: {problem}", self.counter())),
            None => {
                let loss = self.jobs[index].loss.map_or(String::new(), |loss| format!(", last loss {loss:.4}"));
                self.say(&format!("{} {name}: ended{loss}{left}", self.counter()));
            }
        }
    }

    pub fn finish(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }

    fn counter(&self) -> String {
        format!("[{}/{}]", self.ended, self.jobs.len())
    }

    fn message(&self, index: usize) -> String {
        let job = &self.jobs[index];
        let loss = job.loss.map_or(String::new(), |loss| format!("loss {loss:.4}  "));
        let speed = if job.tokens_per_s > 0.0 { format!("{:.1}k tokens/s  ", job.tokens_per_s / 1e3) } else { String::new() };
        let left = self.time_left().map_or("...".to_string(), |left| left);
        format!("{}/{} tokens  {loss}{speed}sweep ETA {left}", short(job.done), short(job.tokens))
    }

    /// Time left for the whole sweep, from the FLOPs done so far in this session.
    fn time_left(&self) -> Option<String> {
        let share = |tokens: u64, job: &JobProgress| job.flops * tokens as f64 / job.tokens.max(1) as f64;
        let done: f64 = self.jobs.iter().map(|job| share(job.done, job)).sum();
        let fresh: f64 = self.jobs.iter().map(|job| share(job.done.saturating_sub(job.resumed), job)).sum();
        if fresh <= 0.0 {
            return None;
        }
        let seconds = (self.total - done).max(0.0) * self.begun.elapsed().as_secs_f64() / fresh;
        Some(format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60))
    }
}

fn short(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{}k", count / 1000),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}
