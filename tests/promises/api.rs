//! An OpenAI-compatible API on loopback that serves a fixture's checkpoint and can fail in the ways that real servers do.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hydrometer::data::tokenizer;
use hydrometer::dist::Mesh;
use hydrometer::model::{Decoder, hf};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use tokenizers::Tokenizer;

use super::fixtures::folder;

/// The server's behavior. By default it answers every request correctly and at once.
#[derive(Clone, Debug, Default)]
pub struct ServerBehavior {
    /// Every other request fails, cycling through six kinds of failure.
    pub faults: bool,
    /// In an echoed prompt, the logprobs beside a token are those of the next token, as in llama-cpp-python.
    pub echo_rows_next: bool,
    /// The model assigns a high probability to two out of three tokens of the text.
    pub predicts_text: bool,
    /// Responses have no `usage`.
    pub omits_usage: bool,
    /// Delay before each response.
    pub latency: Duration,
    /// The API key required. The error for a wrong key quotes that key.
    pub key: Option<String>,
    /// Every request is refused with this status and body.
    pub refuses: Option<(u16, String)>,
}

/// A request as the server received it.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub body: Value,
    pub headers: BTreeMap<String, String>,
    /// Whether a complete response was sent.
    pub answered: bool,
}

pub struct Api {
    pub url: String,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    closed: Arc<AtomicBool>,
    address: std::net::SocketAddr,
}

struct Server {
    behavior: ServerBehavior,
    tokenizer: Tokenizer,
    decoder: Mutex<Decoder>,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
}

impl Api {
    /// Starts a server for the fixture `checkpoint`.
    pub fn serve(checkpoint: &str, behavior: ServerBehavior) -> Self {
        let mesh = Mesh::single(Device::Cpu);
        let decoder = hf::open(&folder(checkpoint)).unwrap().decoder(128, Kind::Float, &mesh).unwrap();
        let tokenizer = tokenizer::open(&folder(checkpoint).join("tokenizer.json")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (received, closed) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let server = Arc::new(Server { behavior, tokenizer, decoder: Mutex::new(decoder), received: Arc::clone(&received) });
        let until = Arc::clone(&closed);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                let server = Arc::clone(&server);
                thread::spawn(move || server.handle(stream.unwrap()));
            }
        });
        Self { url: format!("http://{address}/v1"), received, closed, address }
    }

    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.received.lock().unwrap().clone()
    }

    pub fn answered(&self) -> usize {
        self.received().iter().filter(|received| received.answered).count()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Server {
    fn handle(&self, mut stream: TcpStream) {
        let Some((path, headers, body)) = request(&mut stream) else { return };
        let number = {
            let mut received = self.received.lock().unwrap();
            received.push(ReceivedRequest { body: body.clone(), headers: headers.clone(), answered: false });
            received.len() - 1
        };
        thread::sleep(self.behavior.latency);
        let mut send = |status: &str, extra: &str, text: &str| {
            let length = text.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{extra}Connection: close\r\n\r\n"
            );
            stream.write_all(format!("{head}{text}").as_bytes()).and_then(|()| stream.flush()).is_ok()
        };
        if let Some((status, text)) = &self.behavior.refuses {
            send(&status.to_string(), "", text);
            return;
        }
        if let Some(key) = &self.behavior.key {
            let given = headers.get("authorization").cloned().unwrap_or_default();
            if given != format!("Bearer {key}") {
                send("401 Unauthorized", "", &json!({ "error": { "message": format!("wrong key: {given}") } }).to_string());
                return;
            }
        }
        let answer = self.answer(&path, &body).to_string();
        if self.behavior.faults && number % 2 == 0 {
            match number / 2 % 6 {
                0 => drop(send("429 Too Many Requests", "Retry-After: 0.3\r\n", r#"{"error": {"message": "slow down"}}"#)),
                1 => drop(send("500 Internal Server Error", "", "<html>oops</html>")),
                2 => drop(send("200 OK", "", &answer[..answer.len() / 2])),
                3 => {
                    // The connection breaks in the middle of the response.
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.as_bytes()[..40]));
                }
                4 => {}
                _ => thread::sleep(Duration::from_secs(4)),
            }
            return;
        }
        // Set before sending: the test may read this as soon as its client has the response.
        self.received.lock().unwrap()[number].answered = true;
        send("200 OK", "", &answer);
    }

    fn answer(&self, path: &str, body: &Value) -> Value {
        let chat = path.ends_with("chat/completions");
        let prompt = match &body["prompt"] {
            Value::String(text) => self.ids(text),
            Value::Array(ids) => ids.iter().map(|id| id.as_u64().unwrap() as u32).collect(),
            _ => self.ids(body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()),
        };
        let k = body[if chat { "top_logprobs" } else { "logprobs" }].as_u64().unwrap() as usize;
        let mut ids = prompt.clone();
        for _ in 0..body["max_tokens"].as_u64().unwrap() {
            let row = self.rows(&ids).pop().unwrap();
            ids.push((0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32);
        }
        let echo = body["echo"] == json!(true);
        let rows = self.rows(&ids);
        let from = if echo { 0 } else { prompt.len() };
        let (mut tokens, mut scores, mut tops) = (Vec::new(), Vec::new(), Vec::new());
        for at in from..ids.len() {
            tokens.push(json!(self.text(ids[at])));
            // The distribution of the token at `at` is the model's output one position before it.
            let row = if echo && self.behavior.echo_rows_next { Some(at) } else { at.checked_sub(1) };
            match row.filter(|_| at > 0).map(|row| &rows[row]) {
                None => {
                    scores.push(Value::Null);
                    tops.push(Value::Null);
                }
                Some(row) => {
                    let mut order: Vec<usize> = (0..row.len()).collect();
                    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
                    let mut top: Map<String, Value> =
                        order[..k].iter().map(|&id| (self.text(id as u32), json!(row[id]))).collect();
                    top.insert(self.text(ids[at]), json!(row[ids[at] as usize]));
                    scores.push(json!(row[ids[at] as usize]));
                    tops.push(Value::Object(top));
                }
            }
        }
        let text: String = ids[from..].iter().map(|&id| self.text(id)).collect();
        let usage = json!({ "prompt_tokens": prompt.len(), "completion_tokens": ids.len() - prompt.len() });
        let usage = if self.behavior.omits_usage { Value::Null } else { usage };
        if chat {
            let spelled = |token: &Value, logprob: &Value| json!({ "token": token, "logprob": logprob, "bytes": token.as_str().unwrap().as_bytes() });
            let content: Vec<Value> = tokens
                .iter()
                .zip(&scores)
                .zip(&tops)
                .map(|((token, score), top)| {
                    let mut item = spelled(token, score);
                    let tops = top.as_object().unwrap().iter().map(|(text, score)| spelled(&json!(text), score));
                    item["top_logprobs"] = tops.collect();
                    item
                })
                .collect();
            return json!({ "choices": [{ "message": { "content": text }, "logprobs": { "content": content }, "finish_reason": "length" }], "usage": usage });
        }
        let logprobs = json!({ "tokens": tokens, "token_logprobs": scores, "top_logprobs": tops });
        json!({ "choices": [{ "text": text, "logprobs": logprobs, "finish_reason": "length" }], "usage": usage })
    }

    /// Logprobs of the token after each of `ids`, one row of the vocabulary's size per id.
    fn rows(&self, ids: &[u32]) -> Vec<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let tokens = Tensor::from_slice(&ids).unsqueeze(0);
        let logits =
            self.decoder.lock().unwrap().logits(&tokens, &Mesh::single(Device::Cpu).tp).unwrap().get(0).to_kind(Kind::Double);
        if self.behavior.predicts_text {
            for at in (0..ids.len() - 1).filter(|at| at % 3 > 0) {
                let _ = logits.get(at as i64).get(ids[at + 1]).g_add_scalar_(12.0);
            }
        }
        Vec::<Vec<f64>>::try_from(logits.log_softmax(-1, Kind::Double)).unwrap()
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, true).unwrap().get_ids().to_vec()
    }

    /// A token as servers write it: its text, or as in vLLM `token_id:ID` if the text does not identify it.
    fn text(&self, id: u32) -> String {
        let text = self.tokenizer.decode(&[id], false).unwrap();
        let again = self.tokenizer.encode(text.as_str(), false).unwrap();
        if again.get_ids() == [id] { text } else { format!("token_id:{id}") }
    }
}

/// Reads a request: its path, headers (names in lower case) and JSON body.
fn request(stream: &mut TcpStream) -> Option<(String, BTreeMap<String, String>, Value)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            n => bytes.extend(&buffer[..n]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let path = head.split(' ').nth(1)?.to_string();
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<String, String> = fields.map(|(name, value)| (name.to_lowercase(), value.to_string())).collect();
    let length: usize = headers.get("content-length")?.parse().ok()?;
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length {
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            n => body.extend(&buffer[..n]),
        }
    }
    Some((path, headers, serde_json::from_slice(&body).ok()?))
}
