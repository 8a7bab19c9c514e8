//! Out-of-memory errors, recognised by the messages of libtorch, Rust and CUDA; and the readable part of a worker's log.

/// Phrases that precede the number of bytes requested: by libtorch on CPU, by Rust, by libtorch on CUDA.
const ASKED: [&str; 3] = ["tried to allocate ", "memory allocation of ", "Tried to allocate "];
/// Phrases of out-of-memory messages that give no number.
const ENDED: [&str; 4] = ["std::bad_alloc", "Cannot allocate memory", "CUDA out of memory", "not enough memory: you tried"];

/// `no memory: 3.2 GB were asked for`, if `text` reports a failed allocation.
pub fn shortage(text: &str) -> Option<String> {
    let asked = ASKED.iter().find_map(|phrase| {
        let (_, rest) = text.split_once(phrase)?;
        bytes(rest)
    });
    match asked {
        Some(bytes) => Some(format!("no memory: {} were asked for", shown(bytes))),
        None => ENDED.iter().any(|phrase| text.contains(phrase)).then(|| "no memory is left".to_string()),
    }
}

/// The first sentence of a panic message or a log, without stack frames.
pub fn first_words(text: &str) -> String {
    let text = text.split("\nframe #").next().unwrap_or_default();
    // A quoted message has its newlines escaped.
    let text = text.split("\\nframe #").next().unwrap_or_default();
    let text = text.split("\\nException raised from").next().unwrap_or_default();
    let line = text.lines().map(str::trim).find(|line| meaningful(line)).unwrap_or_default();
    line.chars().take(400).collect()
}

/// The last lines of a log that are not part of a backtrace, at most `count`. If the worker printed a final error, that line
/// alone.
pub fn last_words(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| meaningful(line)).collect();
    if let Some(line) = lines.iter().rev().find_map(|line| line.strip_prefix(SAID)) {
        return line.to_string();
    }
    let last = last_lines(lines.into_iter(), count);
    last.into_iter().map(|line| line.chars().take(400).collect::<String>()).collect::<Vec<_>>().join(" | ")
}

/// The last of `lines`, at most `count`, in order.
pub fn last_lines<'a>(lines: impl DoubleEndedIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    let mut last: Vec<&str> = lines.rev().take(count).collect();
    last.reverse();
    last
}

/// Prefix of a worker's final error on standard error.
pub const SAID: &str = "hydrometer: ";

/// Whether a log line is more than a stack frame.
fn meaningful(line: &str) -> bool {
    let numbered =
        line.split_once(':').is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
    let noise = ["note: ", "frame #", "stack backtrace:", "at ", "Exception raised from", "thread '"];
    !(line.is_empty() || numbered || noise.iter().any(|start| line.starts_with(start)))
}

/// The number of bytes at the start of `text`: `3200000000 bytes`, `2.00 GiB`.
fn bytes(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let unit = words.next()?.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
    let scale = match unit {
        "bytes" => 0,
        "KiB" => 1,
        "MiB" => 2,
        "GiB" => 3,
        "TiB" => 4,
        _ => return None,
    };
    Some(number * 1024f64.powi(scale))
}

/// `3.2 GB`.
pub fn shown(bytes: f64) -> String {
    match bytes {
        b if b >= 1e12 => format!("{:.1} TB", b / 1e12),
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.0} MB", b / 1e6),
        b => format!("{b:.0} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: messages of libtorch 2.11, Rust and CUDA.
    #[test]
    fn failed_allocations_are_recognised_by_their_messages() {
        let torch = "called `Result::unwrap()` on an `Err` value: Torch(\"[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: \
                     can't allocate memory: you tried to allocate 3223257088 bytes. Error code 12 (Cannot allocate memory)\\nframe #0: c10::\")";
        assert_eq!(shortage(torch).as_deref(), Some("no memory: 3.2 GB were asked for"));
        assert_eq!(shortage("memory allocation of 1048576 bytes failed").as_deref(), Some("no memory: 1 MB were asked for"));
        let cuda = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.2 GiB";
        assert_eq!(shortage(cuda).as_deref(), Some("no memory: 2.1 GB were asked for"));
        assert_eq!(shortage("terminate called after throwing 'std::bad_alloc'").as_deref(), Some("no memory is left"));
        assert_eq!(shortage("index out of range in self"), None);
    }

    #[test]
    fn the_last_words_of_a_log_leave_out_stack_frames() {
        let log = "thread 'main' panicked at src/a.rs:1:2:\nthe shape is wrong\nstack backtrace:\n   0: std::panicking\n             \
                   at /rustc/x.rs:1:2\n   7: hydrometer::main\nnote: Some details are omitted";
        assert_eq!(last_words(log, 3), "the shape is wrong");
        assert_eq!(last_words("hydrometer: it is so\nlater noise", 3), "it is so");
        assert_eq!(last_words("", 3), "");
        assert_eq!(first_words("the size is wrong\nframe #0: c10::Error"), "the size is wrong");
    }
}
