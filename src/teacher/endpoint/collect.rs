//! Asks all questions that have no answer yet, several at a time, with patience and within a budget.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hydrometer_base::backoff::backoff;
use hydrometer_base::{note, user_error};
use rand::RngExt;

use super::client::{Answer, Client, RequestError};
use super::meter::Meter;
use super::request::ApiRequest;
use super::response_log::{ResponseLog, Spending};
use super::service::Service;

/// Time between looks at what has changed.
const TICK: Duration = Duration::from_millis(20);
/// The first pause after a failure; each that follows is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks what of `questions` is not in `ledger`; every answer is there before the next step is taken. `interrupts` counts ctrl-C:
/// at one, what is under way is waited for; at two, it is given up. `check` looks at each new line of the ledger: an error from
/// it ends the asking. Returns whether all are answered.
///
/// # Errors
/// A request that the endpoint refuses, and a budget that does not reach, are the user's; a request that failed too often is
/// not. All that was answered stays.
pub fn collect(
    name: &str,
    service: &Service,
    questions: &[ApiRequest],
    ledger: &mut ResponseLog,
    check: impl Fn(&ApiRequest, &str) -> Result<()>,
    interrupts: impl Fn() -> usize,
) -> Result<bool> {
    // One text that stands twice is asked once.
    let mut keys = HashSet::new();
    let distinct: Vec<&ApiRequest> = questions.iter().filter(|question| keys.insert(question.key())).collect();
    let waiting: VecDeque<ApiRequest> = distinct.iter().copied().filter(|question| !ledger.has(question)).cloned().collect();
    if waiting.is_empty() {
        return Ok(true);
    }
    let (left, total) = (waiting.len() as u64, distinct.len() as u64);
    let tokens: u64 = waiting.iter().map(ApiRequest::tokens).sum();
    let cost = service
        .price
        .map(|price| price.of(waiting.iter().map(|q| q.prompt_tokens).sum(), waiting.iter().map(|q| q.max_tokens).sum()));
    let client = Arc::new(Client::open(service)?);
    let mut meter = Meter::new(name, service, total - left, total);
    let cost = cost.map_or(String::new(), |cost| format!(", cost {cost:.4}"));
    meter.say(&format!("{left} requests to {}, at most {tokens} tokens{cost}", service.url));

    let (spent, under_way, hold_until) = (ledger.spent, Vec::new(), Instant::now());
    let state = State { waiting, spent, under_way, hold_until, closed: false, beyond_budget: false };
    let desk = Arc::new(RequestQueue { state: Mutex::new(state), changed: Condvar::new() });
    let (sender, news) = mpsc::channel();
    for _ in 0..service.concurrency.min(left as usize) {
        let (client, desk, sender, service) = (Arc::clone(&client), Arc::clone(&desk), sender.clone(), service.clone());
        thread::spawn(move || work(&client, &desk, &service, &sender));
    }
    drop(sender);
    let (mut trouble, mut objection, mut told) = (None, None, false);
    loop {
        match interrupts() {
            0 => {}
            1 => {
                if !std::mem::replace(&mut told, true) {
                    meter.say("stopping: what is asked already is waited for; ctrl-C again gives it up");
                }
                desk.lock().closed = true;
            }
            _ => return Ok(false),
        }
        match news.recv_timeout(10 * TICK) {
            Ok(RequestOutcome::Answered(question, answer)) => {
                let answer = answer.charged_for(&question);
                ledger.write(&question, &answer).inspect_err(|_| desk.lock().closed = true)?;
                meter.answered(&ledger.spent);
                if let Err(error) = check(&question, &ledger.read(&question)?) {
                    desk.lock().closed = true;
                    objection.get_or_insert(error);
                }
                desk.settle(&question, ledger.spent);
            }
            Ok(RequestOutcome::Retried { id, why, pause }) => {
                meter.say(&format!("{id}: {why}; asked again in {:.1} s", pause.as_secs_f64()));
            }
            Ok(RequestOutcome::Failed(question, failed)) => {
                desk.lock().closed = true;
                desk.settle(&question, ledger.spent);
                trouble.get_or_insert((question.id, failed));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let spent = ledger.spent.words(service);
    drop(meter);
    if let Some(error) = objection {
        return Err(error);
    }
    // Who was told to stop may have been about to ask once more.
    let trouble = trouble.filter(|(_, trouble)| !told || matches!(trouble, RequestError::Lasting(_)));
    if let Some((id, trouble)) = trouble {
        let kept = format!("answers so far are kept ({spent}), and the same command goes on");
        return Err(match trouble {
            RequestError::Lasting(why) => user_error!("teacher {name} at {} refuses {id}: {why}; mend that; {kept}", service.url),
            RequestError::Passing { why, .. } => {
                let tries = service.retries + 1;
                anyhow!("teacher {name} at {}: {id} failed {tries} times, at last with {why}; {kept}", service.url)
            }
        });
    }
    if told {
        return Ok(false);
    }
    let state = desk.lock();
    if state.beyond_budget {
        let unasked = state.waiting.len();
        return Err(user_error!(
            "teacher {name}: the budget stops here, with {unasked} of {total} requests unasked ({spent}); raise budget, and the same \
             command goes on"
        ));
    }
    if state.waiting.is_empty() {
        note!("teacher {name}: all {total} answered; {spent}");
    }
    Ok(state.waiting.is_empty())
}

enum RequestOutcome {
    Answered(ApiRequest, Answer),
    Retried { id: String, why: String, pause: Duration },
    Failed(ApiRequest, RequestError),
}

/// What the workers share.
struct RequestQueue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<ApiRequest>,
    spent: Spending,
    /// What is asked now.
    under_way: Vec<ApiRequest>,
    /// The endpoint wants nobody to ask before.
    hold_until: Instant,
    /// No more is asked.
    closed: bool,
    beyond_budget: bool,
}

impl RequestQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// `question` is under way no more, and all answers have cost `spent`.
    fn settle(&self, question: &ApiRequest, spent: Spending) {
        let mut state = self.lock();
        state.under_way.retain(|other| other != question);
        state.spent = spent;
        self.changed.notify_all();
    }

    /// Waits until what became of `question` is settled: nobody asks on before an answer is kept and looked at.
    fn settled(&self, question: &ApiRequest) {
        let mut state = self.lock();
        while state.under_way.contains(question) {
            state = self.pause(state, TICK);
        }
    }

    /// Waits until something changes, but not longer than `time`.
    fn pause<'a>(&'a self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }

    /// The next question, once the endpoint may be asked and if the budget reaches.
    fn next(&self, service: &Service) -> Option<ApiRequest> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let question = state.waiting.front()?.clone();
            if Instant::now() >= state.hold_until {
                if affords(service, &state.spent, state.under_way.iter().chain([&question])) {
                    state.waiting.pop_front();
                    state.under_way.push(question.clone());
                    return Some(question);
                }
                // What is under way may cost less than it could.
                if state.under_way.is_empty() {
                    (state.closed, state.beyond_budget) = (true, true);
                    return None;
                }
            }
            state = self.pause(state, TICK);
        }
    }

    /// Waits for `pause`, and as long as the endpoint wants nobody to ask. Whether to ask at all then.
    fn wait(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut state = self.lock();
        while !state.closed && Instant::now() < end.max(state.hold_until) {
            state = self.pause(state, TICK);
        }
        !state.closed
    }
}

/// Whether the budget reaches for all of `asked` beside what is spent.
fn affords<'a>(service: &Service, spent: &Spending, asked: impl Iterator<Item = &'a ApiRequest>) -> bool {
    let mut most = *spent;
    for question in asked {
        most.prompt_tokens += question.prompt_tokens;
        most.completion_tokens += question.max_tokens;
    }
    let cost = most.cost(service.price).unwrap_or(0.0);
    service.budget.tokens.is_none_or(|tokens| most.tokens() <= tokens) && service.budget.cost.is_none_or(|limit| cost <= limit)
}

/// A worker: asks one question after the other.
fn work(client: &Client, desk: &RequestQueue, service: &Service, news: &Sender<RequestOutcome>) {
    while let Some(question) = desk.next(service) {
        let mut attempt = 0;
        let told = loop {
            match client.ask(&question) {
                Ok(answer) => break RequestOutcome::Answered(question.clone(), answer),
                Err(RequestError::Passing { why, wait }) if attempt < service.retries => {
                    attempt += 1;
                    let pause = wait.unwrap_or_default().max(part_of_backoff(attempt));
                    if wait.is_some() {
                        let mut state = desk.lock();
                        state.hold_until = state.hold_until.max(Instant::now() + pause);
                    }
                    if news.send(RequestOutcome::Retried { id: question.id.clone(), why: why.clone(), pause }).is_err() {
                        return;
                    }
                    if !desk.wait(pause) {
                        let why = format!("{why} (and it was told to stop)");
                        break RequestOutcome::Failed(question.clone(), RequestError::Passing { why, wait: None });
                    }
                }
                Err(trouble) => break RequestOutcome::Failed(question.clone(), trouble),
            }
        };
        if news.send(told).is_err() {
            return;
        }
        desk.settled(&question);
    }
}

/// A random part of the pause before try `attempt` + 1, so that not all come back at once.
fn part_of_backoff(attempt: u32) -> Duration {
    backoff(PAUSE, attempt).mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::service::{Budget, Price};
    use super::*;

    #[test]
    fn a_budget_holds_for_what_is_spent_and_what_is_under_way() {
        let mut service = Service::at("http://localhost/v1").unwrap();
        let question = ApiRequest::score("1".into(), "m", json!("a"), 99, 5);
        let spent = Spending { requests: 1, prompt_tokens: 800, completion_tokens: 0 };
        assert!(affords(&service, &spent, [&question; 1000].into_iter()), "nothing bounds it");
        service.budget = Budget { tokens: Some(1000), cost: None };
        assert!(affords(&service, &spent, [&question; 2].into_iter()));
        assert!(!affords(&service, &spent, [&question; 3].into_iter()));
        service.price = Some(Price { input: 1e6, output: 100e6 });
        service.budget = Budget { tokens: None, cost: Some(998.0) };
        assert!(!affords(&service, &spent, [&question].into_iter()), "800 + 99 + 100");
        service.budget.cost = Some(999.0);
        assert!(affords(&service, &spent, [&question].into_iter()));
    }

    #[test]
    fn at_least_half_of_a_pause_is_waited_for() {
        for (attempt, whole) in [(1, 0.5), (2, 1.0), (5, 8.0), (30, 60.0)] {
            let pause = part_of_backoff(attempt).as_secs_f64();
            assert!((whole / 2.0..=whole).contains(&pause), "{attempt}: {pause}");
        }
    }
}
