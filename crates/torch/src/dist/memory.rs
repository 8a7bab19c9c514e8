//! Memory that the allocator keeps.

/// From now on freed memory stays with the process, for its next tensors. By default glibc maps each large tensor afresh and unmaps it
/// when it is freed, so that the kernel clears the pages every time: up to a quarter of a forward pass.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        const M_TRIM_THRESHOLD: c_int = -1;
        const M_MMAP_THRESHOLD: c_int = -3;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        for parameter in [M_MMAP_THRESHOLD, M_TRIM_THRESHOLD] {
            // SAFETY: glibc's signature; it returns 0 for a value that it does not take, and changes nothing.
            unsafe { mallopt(parameter, c_int::MAX) };
        }
    }
}
