//! The end of a process that has loaded libtorch.

/// From now on this process ends without libtorch's destructors, however it ends: they take its registry of operators apart entry by
/// entry (80 ms, a third of what a verb takes that computes nothing), and may race with threads that still run. The kernel frees the
/// same memory at once. What Rust buffers is flushed before.
pub fn skip_teardown() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::{c_int, c_void};
        use std::ptr::null_mut;

        unsafe extern "C" {
            fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
            fn _exit(status: c_int) -> !;
        }
        extern "C" fn leave(status: c_int, _: *mut c_void) {
            // SAFETY: `_exit` may be called from anywhere.
            unsafe { _exit(status) }
        }
        // SAFETY: both signatures are glibc's; `leave` uses no argument and nothing that is gone at exit. Handlers run in the reverse
        // order of their registration, thus before the destructors of everything that was loaded earlier.
        unsafe { on_exit(leave, null_mut()) };
    }
}
