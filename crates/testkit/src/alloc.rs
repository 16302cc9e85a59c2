//! A global allocator that counts, for tests that bound how much memory unauthenticated clients can
//! make a process allocate. This is the only unsafe code of the crate: `GlobalAlloc` is an unsafe
//! trait.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system allocator with counters, for use as the `#[global_allocator]` of a test binary.
#[derive(Debug)]
pub struct CountingAllocator {
    live: AtomicUsize,
    peak: AtomicUsize,
    largest: AtomicUsize,
    requests: AtomicUsize,
}

impl CountingAllocator {
    /// Creates an allocator with all counters at 0.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a static needs a const fn")]
    pub const fn new() -> Self {
        Self {
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        }
    }

    /// Resets [`Self::peak_bytes`] and [`Self::largest_bytes`], which then count from here.
    pub fn mark(&self) {
        self.peak.store(self.live_bytes(), Ordering::SeqCst);
        self.largest.store(0, Ordering::SeqCst);
    }

    /// Returns the number of bytes that are allocated and not yet freed.
    pub fn live_bytes(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Returns the largest number of bytes that were live at the same time since the mark.
    pub fn peak_bytes(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// Returns the size of the largest single allocation since the mark, in bytes. Growth counts as
    /// an allocation of the new size.
    pub fn largest_bytes(&self) -> usize {
        self.largest.load(Ordering::SeqCst)
    }

    /// Returns the number of requests for memory, including growth, since the process started.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn count(&self, pointer: *mut u8, freed: usize, allocated: usize) {
        if pointer.is_null() {
            return;
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        let before = self.live.fetch_add(allocated, Ordering::SeqCst);
        self.live.fetch_sub(freed, Ordering::SeqCst);
        self.peak
            .fetch_max(before + allocated - freed, Ordering::SeqCst);
        self.largest.fetch_max(allocated, Ordering::SeqCst);
    }
}

// SAFETY: every call is passed to `System` with unchanged arguments, and its result is returned
// unchanged, so the caller's contract is the one that `System` requires, and what `System`
// guarantees reaches the caller. Counting only touches atomics: it neither allocates nor panics
// (`before + allocated` is at least `freed`, since memory that is freed was counted before by this
// allocator, and a global allocator is never replaced).
#[expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see above.
        let pointer = unsafe { System.alloc(layout) };
        self.count(pointer, 0, layout.size());
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see above.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        self.count(pointer, 0, layout.size());
        pointer
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: see above.
        let pointer = unsafe { System.realloc(pointer, layout, new_size) };
        self.count(pointer, layout.size(), new_size);
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { System.dealloc(pointer, layout) };
        self.live.fetch_sub(layout.size(), Ordering::SeqCst);
    }
}
