//! Calls into code that panics on damaged input: the panic becomes an error, and nothing is printed. And files that would never
//! end, or never begin.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is about to be caught.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; the message of its panic, if it panics. What `f` was changing must not be used after that.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(outer);
    result.map_err(|payload| {
        let message = payload.downcast_ref::<String>().cloned();
        message.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_else(|| "it panicked".into())
    })
}

/// Opens a regular file: a pipe could wait forever, a device never ends.
pub fn open_file(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    match kind.is_file() {
        true => File::open(path),
        false => Err(io::Error::other(if kind.is_dir() { "is a folder, not a file" } else { "is not a regular file" })),
    }
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
    fn a_panic_is_an_error_with_its_message_and_the_next_call_works() {
        assert_eq!(caught(|| 1 + 1), Ok(2));
        let index = std::hint::black_box(3);
        assert_eq!(caught(|| [1, 2][index % 4]).unwrap_err(), "index out of bounds: the len is 2 but the index is 3");
        assert_eq!(caught(|| panic!("plain")).map(|(): ()| ()), Err("plain".to_string()));
        // Within another, and after it.
        assert_eq!(caught(|| caught(|| panic!("inner")).map(|(): ()| ())), Ok(Err("inner".to_string())));
        assert_eq!(caught(|| 5), Ok(5));
    }
}
