//! Calls into code that panics on bad input or when memory ends: the panic becomes its message, and nothing is printed.

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
    /// Guarded calls that this thread is inside of.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where the last panic of this thread arose.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Guarded calls in progress on any thread, whose helper threads are guarded too.
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// What helper threads said when they panicked.
static HELPERS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A panic of the program itself.
pub struct Panic {
    pub message: String,
    /// File and line.
    pub place: String,
}

/// Calls `f`; the message of its panic where it panics. Threads that a dependency keeps for itself are guarded meanwhile: what
/// one of them says is printed after the call if the call does not fail for it.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    CALLS.fetch_add(1, Ordering::SeqCst);
    let result = outermost(f);
    if CALLS.fetch_sub(1, Ordering::SeqCst) == 1 {
        let said = std::mem::take(&mut *HELPERS.lock().unwrap_or_else(PoisonError::into_inner));
        if result.is_ok() {
            said.iter().for_each(|message| crate::note!("{message}"));
        }
    }
    result.map_err(|panic| panic.message)
}

/// The same for the whole of a thread's work, less the threads of dependencies, whose panics are printed as they come.
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
            } else if CALLS.load(Ordering::SeqCst) > 0 && helps() {
                HELPERS.lock().unwrap_or_else(PoisonError::into_inner).push(told(info));
            } else {
                before(info);
            }
        }));
    });
}

/// Whether this thread may be one that a dependency computes on: those of polars bear its name, those of rayon none.
fn helps() -> bool {
    thread::current().name().is_none_or(|name| name.starts_with("polars") || name.starts_with("rayon"))
}

fn told(info: &PanicHookInfo) -> String {
    let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
    format!("a thread panicked{place}: {}", message(info.payload()))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}

/// Opens a regular file. Opening a pipe may wait for ever, a device never ends, and neither can be read twice.
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

/// The content of a regular file.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open_file(path)?, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message_and_calls_can_be_nested() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| -> () { panic!("thrift {}", "bool") }), Err("thrift bool".to_string()));
        let outer = caught(|| {
            let inner = caught(|| -> () { panic!("inner") });
            (inner, DEPTH.get())
        });
        assert_eq!(outer, Ok((Err("inner".to_string()), 1)));
        assert_eq!(DEPTH.get(), 0, "a panic outside is printed again");
        let Err(panic) = outermost(|| -> () { panic!("a bug") }) else { panic!("it was caught") };
        assert!(panic.place.contains("guard.rs:"), "{}", panic.place);
    }
}
