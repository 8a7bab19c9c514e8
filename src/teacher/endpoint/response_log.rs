//! The response log: every response of an endpoint, one per line, synced before it is used, so that nothing is paid for twice.
//!
//! A line is an object with a checksum of the rest of the line, the key of the request, the request and the response. The file
//! can also be read as recorded logprobs of format `openai-jsonl`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use hydrometer_base::fs::replace_file;
use hydrometer_data::json::Json;
use hydrometer_record::journal::{Fence, TakenOver};
use serde_json::json;

use super::client::{Answer, Usage};
use super::request::ApiRequest;
use super::service::{Price, Service};

/// The file's name in its folder.
pub const FILE: &str = "answers.jsonl";

/// An open response log.
pub struct ResponseLog {
    path: PathBuf,
    file: File,
    /// Position of the response to each request, with its number of ids per token.
    index: HashMap<String, Entry>,
    pub spent: Spending,
    fence: Fence,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    length: u64,
    k: usize,
}

/// The cost of all responses in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spending {
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl Spending {
    pub fn add(&mut self, usage: Usage) {
        self.requests += 1;
        self.prompt_tokens += usage.prompt_tokens;
        self.completion_tokens += usage.completion_tokens;
    }

    /// Number of tokens charged.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }

    /// In the currency of `price`.
    pub fn cost(&self, price: Option<Price>) -> Option<f64> {
        price.map(|price| price.of(self.prompt_tokens, self.completion_tokens))
    }

    /// `34 requests, 5200 tokens read and 34 written, cost 0.0012`.
    pub fn words(&self, service: &Service) -> String {
        let cost = self.cost(service.price).map_or(String::new(), |cost| format!(", cost {cost:.4}"));
        let Self { requests, prompt_tokens, completion_tokens } = self;
        format!("{requests} requests, {prompt_tokens} tokens read and {completion_tokens} written{cost}")
    }
}

impl ResponseLog {
    /// Opens the log in `folder`, or creates it. Removes damaged lines, and a line that a crash has torn, with a note on standard
    /// error; their requests are sent again.
    ///
    /// The caller must hold the folder's lease, which `fence` belongs to.
    pub fn open(folder: &Path, fence: Fence) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(FILE);
        let damaged = remove_corrupt_lines(&path)?;
        if damaged > 0 {
            tracing::warn!("{}: {damaged} responses are damaged and will be requested again", path.display());
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let mut ledger = Self { path, file, index: HashMap::new(), spent: Spending::default(), fence };
        let mut reader = BufReader::new(File::open(&ledger.path)?);
        let (mut line, mut offset) = (Vec::new(), 0);
        while reader.read_until(b'\n', &mut line)? > 0 {
            let text = std::str::from_utf8(&line)?;
            ledger.index_line(text, offset)?;
            offset += line.len() as u64;
            line.clear();
        }
        Ok(ledger)
    }

    /// Requests answered and their cost in the log in `folder`, without opening it for writing.
    pub fn look(folder: &Path) -> Spending {
        let mut spent = Spending::default();
        let Ok(file) = File::open(folder.join(FILE)) else { return spent };
        for line in BufReader::new(file).lines().map_while(|line| line.ok()) {
            if let Some(body) = whole(&line) {
                let usage = Json::object(&format!("{{{body}")).map(|json| usage(&json)).unwrap_or_default();
                spent.add(usage);
            }
        }
        spent
    }

    /// Adds a verified line, at byte `offset` of the file, to the index.
    fn index_line(&mut self, line: &str, offset: u64) -> Result<()> {
        let json = Json::object(line.trim_end()).map_err(|damage| anyhow!("{}: {damage}", self.path.display()))?;
        let text = |key: &str| json.get(key).and_then(|value| value.text(key).ok()).map(str::to_string);
        let k = json.get("k").and_then(|k| k.id("k").ok()).unwrap_or(0) as usize;
        let key = text("question").with_context(|| format!("{}: a line without a question", self.path.display()))?;
        let entry = Entry { offset, length: line.len() as u64, k };
        self.spent.add(usage(&json));
        match self.index.get(&key) {
            Some(known) if known.k >= k => {}
            _ => drop(self.index.insert(key, entry)),
        }
        Ok(())
    }

    /// Whether there is a response to `question` with at least as many ids as it wants.
    pub fn has(&self, question: &ApiRequest) -> bool {
        self.index.get(&question.key()).is_some_and(|entry| entry.k >= question.k)
    }

    /// The line with the response to `question`.
    pub fn read(&mut self, question: &ApiRequest) -> Result<String> {
        let entry = self.index.get(&question.key()).with_context(|| format!("{} is not answered", question.id))?;
        let mut bytes = vec![0; entry.length as usize];
        self.file.seek(SeekFrom::Start(entry.offset))?;
        self.file.read_exact(&mut bytes).with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok(String::from_utf8(bytes)?.trim_end().to_string())
    }

    /// Appends the response to `question`. Once this returns, a power failure does not lose it.
    pub fn write(&mut self, question: &ApiRequest, answer: &Answer) -> Result<()> {
        ensure!((self.fence.holds)(), TakenOver);
        let (id, request) = (json!(question.id), question.body());
        let usage = json!({ "prompt_tokens": answer.usage.prompt_tokens, "completion_tokens": answer.usage.completion_tokens });
        let body = format!(
            r#""question":"{}","k":{},"id":{id},"charged":{usage},"request":{request},"response":{}}}"#,
            question.key(),
            question.k,
            answer.response
        );
        let line = format!("{{\"crc\":\"{:08x}\",{body}\n", crc32fast::hash(body.as_bytes()));
        let offset = self.file.seek(SeekFrom::End(0))?;
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.index_line(&line, offset)
    }

    /// Number of responses in the log to requests other than `questions`, which a reader of the log as a recording would read
    /// too.
    pub fn others(&self, questions: &[ApiRequest]) -> u64 {
        let keys: HashSet<String> = questions.iter().map(ApiRequest::key).collect();
        let k = questions.first().map_or(0, |question| question.k);
        let mine = self.index.iter().filter(|(key, entry)| entry.k == k && keys.contains(*key)).count();
        self.spent.requests - mine as u64
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn usage(line: &Json) -> Usage {
    let count = |key: &str| line.get("charged").and_then(|usage| usage.get(key)).and_then(|n| n.id(key).ok()).unwrap_or(0);
    Usage { prompt_tokens: count("prompt_tokens"), completion_tokens: count("completion_tokens") }
}

/// The part of a line that its checksum covers, if the line is intact.
fn whole(line: &str) -> Option<&str> {
    let (crc, body) = line.strip_prefix("{\"crc\":\"")?.split_at_checked(8)?;
    let body = body.strip_prefix("\",")?;
    (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(body.as_bytes())).then_some(body)
}

/// Removes damaged and torn lines from the file at `path`; returns how many lines were damaged.
fn remove_corrupt_lines(path: &Path) -> Result<usize> {
    let Ok(file) = File::open(path) else { return Ok(0) };
    let lines = |file: File| BufReader::new(file).split(b'\n');
    let good = |line: &[u8]| std::str::from_utf8(line).ok().and_then(whole).is_some();
    let torn = {
        let mut file = file.try_clone()?;
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            file.seek(SeekFrom::Start(0))?;
        }
        last != [b'\n']
    };
    let mut damaged = 0;
    for line in lines(file) {
        damaged += usize::from(!good(&line?));
    }
    // An intact line that lost only its newline is kept, and gets it back.
    if damaged > 0 || torn {
        replace_file(path, |to| {
            for line in lines(File::open(path)?) {
                let line = line?;
                if good(&line) {
                    to.write_all(&line)?;
                    to.write_all(b"\n")?;
                }
            }
            Ok(())
        })?;
    }
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> ResponseLog {
        ResponseLog::open(folder, Fence { generation: 1, holds: Box::new(|| true) }).unwrap()
    }

    fn question(prompt: &str, k: usize) -> ApiRequest {
        ApiRequest::score(prompt.into(), "m", json!(prompt), 3, k)
    }

    fn answer(text: &str) -> Answer {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 1 };
        Answer { response: format!(r#"{{"choices":[{{"text":"{text}","logprobs":{{}}}}]}}"#), usage }
    }

    #[test]
    fn intact_responses_survive_a_crash_and_damaged_ones_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = open(folder.path());
        for prompt in ["a", "b", "c"] {
            ledger.write(&question(prompt, 5), &answer(prompt)).unwrap();
        }
        drop(ledger);
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut ledger = open(folder.path());
            // A line that lost only its newline is intact.
            let left = ends.iter().filter(|&&end| end <= cut + 1).count();
            assert_eq!(
                ledger.spent,
                Spending { requests: left as u64, prompt_tokens: 3 * left as u64, completion_tokens: left as u64 }
            );
            for (at, prompt) in ["a", "b", "c"].into_iter().enumerate() {
                assert_eq!(ledger.has(&question(prompt, 5)), at < left, "{prompt} at {cut}");
            }
            ledger.write(&question("d", 5), &answer("d")).unwrap();
            assert_eq!(remove_corrupt_lines(&path).unwrap(), 0, "at {cut}");
            let mut again = open(folder.path());
            assert_eq!(again.spent.requests, left as u64 + 1, "at {cut}");
            assert!(again.read(&question("d", 5)).unwrap().contains(r#""text":"d""#));
        }
        // A flipped bit in the middle loses only that response.
        let mut flipped = whole.clone();
        flipped[ends[0] + 60] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert_eq!(remove_corrupt_lines(&path).unwrap(), 1);
        let ledger = open(folder.path());
        assert_eq!(ledger.spent.requests, 2);
        assert!(ledger.has(&question("a", 5)) && !ledger.has(&question("b", 5)) && ledger.has(&question("c", 5)));
    }

    #[test]
    fn a_response_with_more_ids_than_requested_is_reused_and_one_with_fewer_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = open(folder.path());
        ledger.write(&question("a", 20), &answer("twenty")).unwrap();
        assert!(ledger.has(&question("a", 5)) && ledger.has(&question("a", 20)) && !ledger.has(&question("a", 21)));
        ledger.write(&question("a", 40), &answer("forty")).unwrap();
        assert!(ledger.read(&question("a", 5)).unwrap().contains("forty"));
        assert_eq!(ResponseLog::look(folder.path()), ledger.spent);
        assert_eq!(ledger.others(&[question("a", 40)]), 1, "the response with fewer ids");
        assert_eq!(ledger.others(&[question("b", 40)]), 2);
    }

    #[test]
    fn a_process_whose_lease_was_taken_over_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = ResponseLog::open(folder.path(), Fence { generation: 1, holds: Box::new(|| false) }).unwrap();
        assert!(ledger.write(&question("a", 5), &answer("a")).unwrap_err().is::<TakenOver>());
        assert_eq!(fs::metadata(folder.path().join(FILE)).unwrap().len(), 0);
    }
}
