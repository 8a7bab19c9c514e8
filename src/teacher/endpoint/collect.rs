//! Sends all requests that have no response yet: several at a time, with retries, within a budget.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hydrometer_base::backoff::backoff;
use hydrometer_base::user_error;
use rand::RngExt;

use super::client::{Answer, Client, RequestError};
use super::meter::Meter;
use super::request::ApiRequest;
use super::response_log::{ResponseLog, Spending};
use super::service::Service;

/// Polling interval of the workers.
const TICK: Duration = Duration::from_millis(20);
/// The first pause after a failure; each further pause is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// Sends those of `questions` that `ledger` has no response for. Every response is synced to the ledger before anything else is
/// done. `interrupts` counts ctrl-C: after one, requests in flight are completed; after two, they are abandoned. `check` inspects
/// each new line of the ledger; if it returns an error, no more requests are sent. Returns whether all requests have responses.
///
/// # Errors
/// A request that the endpoint refuses and an exhausted budget are user errors; a request that failed too often is not. All
/// responses received so far stay in the ledger.
pub fn collect(
    name: &str,
    service: &Service,
    questions: &[ApiRequest],
    ledger: &mut ResponseLog,
    check: impl Fn(&ApiRequest, &str) -> Result<()>,
    interrupts: impl Fn() -> usize,
) -> Result<bool> {
    // Identical requests are sent once.
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
    let queue = Arc::new(RequestQueue { state: Mutex::new(state), changed: Condvar::new() });
    let (sender, outcomes) = mpsc::channel();
    for _ in 0..service.concurrency.min(left as usize) {
        let (client, queue, sender, service) = (Arc::clone(&client), Arc::clone(&queue), sender.clone(), service.clone());
        thread::spawn(move || work(&client, &queue, &service, &sender));
    }
    drop(sender);
    let (mut failure, mut objection, mut interrupted) = (None, None, false);
    loop {
        match interrupts() {
            0 => {}
            1 => {
                if !std::mem::replace(&mut interrupted, true) {
                    meter.say("stopping after the requests in flight; press ctrl-C again to abandon them");
                }
                queue.lock().closed = true;
            }
            _ => return Ok(false),
        }
        match outcomes.recv_timeout(10 * TICK) {
            Ok(RequestOutcome::Answered(question, answer)) => {
                let answer = answer.charged_for(&question);
                ledger.write(&question, &answer).inspect_err(|_| queue.lock().closed = true)?;
                meter.answered(&ledger.spent);
                if let Err(error) = check(&question, &ledger.read(&question)?) {
                    queue.lock().closed = true;
                    objection.get_or_insert(error);
                }
                queue.settle(&question, ledger.spent);
            }
            Ok(RequestOutcome::Retried { id, why, pause }) => {
                meter.say(&format!("{id}: {why}; asked again in {:.1} s", pause.as_secs_f64()));
            }
            Ok(RequestOutcome::Failed(question, failed)) => {
                queue.lock().closed = true;
                queue.settle(&question, ledger.spent);
                failure.get_or_insert((question.id, failed));
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
    // After ctrl-C, a temporary failure may just mean that the worker was about to retry.
    let failure = failure.filter(|(_, error)| !interrupted || matches!(error, RequestError::Lasting(_)));
    if let Some((id, error)) = failure {
        let kept = format!("responses so far are kept ({spent}), and the same command resumes");
        return Err(match error {
            RequestError::Lasting(why) => {
                user_error!("teacher {name} at {} refuses {id}: {why}; correct that; {kept}", service.url)
            }
            RequestError::Passing { why, .. } => {
                let tries = service.retries + 1;
                anyhow!("teacher {name} at {}: {id} failed {tries} times, last with {why}; {kept}", service.url)
            }
        });
    }
    if interrupted {
        return Ok(false);
    }
    let state = queue.lock();
    if state.beyond_budget {
        let unasked = state.waiting.len();
        return Err(user_error!(
            "teacher {name}: the budget is used up, with {unasked} of {total} requests not sent ({spent}); raise budget, and the same \
             command resumes"
        ));
    }
    if state.waiting.is_empty() {
        tracing::info!("teacher {name}: all {total} answered; {spent}");
    }
    Ok(state.waiting.is_empty())
}

enum RequestOutcome {
    Answered(ApiRequest, Answer),
    Retried { id: String, why: String, pause: Duration },
    Failed(ApiRequest, RequestError),
}

/// State shared by the workers.
struct RequestQueue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<ApiRequest>,
    spent: Spending,
    /// Requests in flight.
    under_way: Vec<ApiRequest>,
    /// The endpoint accepts no requests before this time.
    hold_until: Instant,
    /// No further requests are sent.
    closed: bool,
    beyond_budget: bool,
}

impl RequestQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Marks `question` as done; all responses so far have cost `spent`.
    fn settle(&self, question: &ApiRequest, spent: Spending) {
        let mut state = self.lock();
        state.under_way.retain(|other| other != question);
        state.spent = spent;
        self.changed.notify_all();
    }

    /// Waits until `question` is settled: a worker sends no further request before its response has been stored and checked.
    fn settled(&self, question: &ApiRequest) {
        let mut state = self.lock();
        while state.under_way.contains(question) {
            state = self.pause(state, TICK);
        }
    }

    /// Waits until something changes, for at most `time`.
    fn pause<'a>(&'a self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }

    /// The next request, once the endpoint accepts one; `None` if there is none or the budget does not allow it.
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
                // Requests in flight may turn out to cost less than their maximum.
                if state.under_way.is_empty() {
                    (state.closed, state.beyond_budget) = (true, true);
                    return None;
                }
            }
            state = self.pause(state, TICK);
        }
    }

    /// Waits for `pause`, and until the endpoint accepts requests. Returns whether to send any then.
    fn wait(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut state = self.lock();
        while !state.closed && Instant::now() < end.max(state.hold_until) {
            state = self.pause(state, TICK);
        }
        !state.closed
    }
}

/// Whether the budget allows all of `asked`, in addition to what is spent.
fn affords<'a>(service: &Service, spent: &Spending, asked: impl Iterator<Item = &'a ApiRequest>) -> bool {
    let mut most = *spent;
    for question in asked {
        most.prompt_tokens += question.prompt_tokens;
        most.completion_tokens += question.max_tokens;
    }
    let cost = most.cost(service.price).unwrap_or(0.0);
    service.budget.tokens.is_none_or(|tokens| most.tokens() <= tokens) && service.budget.cost.is_none_or(|limit| cost <= limit)
}

/// A worker: sends one request after the other.
fn work(client: &Client, queue: &RequestQueue, service: &Service, outcomes: &Sender<RequestOutcome>) {
    while let Some(question) = queue.next(service) {
        let mut attempt = 0;
        let outcome = loop {
            match client.ask(&question) {
                Ok(answer) => break RequestOutcome::Answered(question.clone(), answer),
                Err(RequestError::Passing { why, wait }) if attempt < service.retries => {
                    attempt += 1;
                    let pause = wait.unwrap_or_default().max(part_of_backoff(attempt));
                    if wait.is_some() {
                        let mut state = queue.lock();
                        state.hold_until = state.hold_until.max(Instant::now() + pause);
                    }
                    if outcomes.send(RequestOutcome::Retried { id: question.id.clone(), why: why.clone(), pause }).is_err() {
                        return;
                    }
                    if !queue.wait(pause) {
                        let why = format!("{why} (not tried again because the run was stopped)");
                        break RequestOutcome::Failed(question.clone(), RequestError::Passing { why, wait: None });
                    }
                }
                Err(error) => break RequestOutcome::Failed(question.clone(), error),
            }
        };
        if outcomes.send(outcome).is_err() {
            return;
        }
        queue.settled(&question);
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
    fn a_budget_covers_spent_tokens_and_requests_in_flight() {
        let mut service = Service::at("http://localhost/v1").unwrap();
        let question = ApiRequest::score("1".into(), "m", json!("a"), 99, 5);
        let spent = Spending { requests: 1, prompt_tokens: 800, completion_tokens: 0 };
        assert!(affords(&service, &spent, [&question; 1000].into_iter()), "there is no budget");
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
    fn at_least_half_of_a_backoff_is_waited() {
        for (attempt, whole) in [(1, 0.5), (2, 1.0), (5, 8.0), (30, 60.0)] {
            let pause = part_of_backoff(attempt).as_secs_f64();
            assert!((whole / 2.0..=whole).contains(&pause), "{attempt}: {pause}");
        }
    }
}
