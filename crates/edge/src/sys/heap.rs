//! The allocator's free memory.

/// Returns the memory that the allocator holds but does not use to the system. Allocations of other
/// threads wait meanwhile, for some milliseconds if there is much of it.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate wraps this call")]
pub(crate) fn trim() {
    // SAFETY: the function takes no pointer, may be called at any time by any thread, and does not
    // touch memory that is in use. The return value only says whether memory was returned.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Does nothing: only glibc's allocator keeps free memory without a bound.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim() {}
