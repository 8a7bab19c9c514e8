//! Guards calls into code that panics on bad input or on allocation failure: the panic is caught, and its message returned.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::{io, thread};

thread_local! {
    /// Nesting depth of guarded calls on this thread.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Source location of this thread's last panic.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Number of guarded calls in progress on all threads. While it is above 0, helper threads are guarded too.
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// Panic messages of helper threads.
static HELPERS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A caught panic.
pub struct Panic {
    pub message: String,
    /// File and line.
    pub place: String,
}

/// Calls `f` and returns its result, or the message if it panics. Panics on helper threads of dependencies are collected
/// meanwhile; they are printed after the call if the call itself succeeds.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    CALLS.fetch_add(1, Ordering::SeqCst);
    let result = outermost(f);
    if CALLS.fetch_sub(1, Ordering::SeqCst) == 1 {
        let messages = std::mem::take(&mut *HELPERS.lock().unwrap_or_else(PoisonError::into_inner));
        if result.is_ok() {
            messages.iter().for_each(|message| tracing::warn!("{message}"));
        }
    }
    result.map_err(|panic| panic.message)
}

/// Like [`caught`], for the whole work of a thread. Panics on threads of dependencies are printed at once.
pub fn outermost<T>(f: impl FnOnce() -> T) -> Result<T, Panic> {
    install();
    DEPTH.set(DEPTH.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| Panic { message: message(&*payload), place: PLACE.take() })
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.get() > 0 {
                PLACE.replace(info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default());
            } else if CALLS.load(Ordering::SeqCst) > 0 && is_helper_thread() {
                HELPERS.lock().unwrap_or_else(PoisonError::into_inner).push(describe(info));
            } else {
                before(info);
            }
        }));
    });
}

/// Whether this thread may be a worker thread of a dependency: polars names its threads, rayon leaves them unnamed.
fn is_helper_thread() -> bool {
    thread::current().name().is_none_or(|name| name.starts_with("polars") || name.starts_with("rayon"))
}

fn describe(info: &PanicHookInfo) -> String {
    let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
    format!("a thread panicked{place}: {}", message(info.payload()))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}

/// Opens a regular file, and refuses everything else: opening a pipe may block for ever, a device never ends, and neither can be
/// read twice.
pub fn open_file(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    let found = match () {
        () if kind.is_file() => return File::open(path),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::other(format!(
        "not a regular file but {found}; name a file, and write what comes from elsewhere to one first"
    )))
}

/// The content of a regular file. Pipes and devices are refused, as in [`open_file`].
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open_file(path)?, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_gives_its_message_and_calls_can_be_nested() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| -> () { panic!("thrift {}", "bool") }), Err("thrift bool".to_string()));
        let outer = caught(|| {
            let inner = caught(|| -> () { panic!("inner") });
            (inner, DEPTH.get())
        });
        assert_eq!(outer, Ok((Err("inner".to_string()), 1)));
        assert_eq!(DEPTH.get(), 0, "panics outside are printed again");
        let Err(panic) = outermost(|| -> () { panic!("a bug") }) else { panic!("it was caught") };
        assert!(panic.place.contains("guard.rs:"), "{}", panic.place);
    }
}
