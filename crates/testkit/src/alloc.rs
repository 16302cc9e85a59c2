//! A global allocator that counts, for tests that bound what strangers can make a process allocate. The only unsafe code of
//! the test kit: `GlobalAlloc` is an unsafe trait.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator with counters, for a `#[global_allocator]` of a test binary.
#[derive(Debug)]
pub struct CountingAllocator {
    live: AtomicUsize,
    peak: AtomicUsize,
    largest: AtomicUsize,
    requests: AtomicUsize,
}

impl CountingAllocator {
    /// An allocator that has counted nothing yet.
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

    /// Lets [`Self::peak_bytes`] and [`Self::largest_bytes`] begin anew from here.
    pub fn mark(&self) {
        self.peak.store(self.live_bytes(), Ordering::SeqCst);
        self.largest.store(0, Ordering::SeqCst);
    }

    /// Bytes allocated and not freed.
    pub fn live_bytes(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// The most bytes that were live at once since the mark.
    pub fn peak_bytes(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// The largest single allocation (or growth of one to this size) since the mark, in bytes.
    pub fn largest_bytes(&self) -> usize {
        self.largest.load(Ordering::SeqCst)
    }

    /// How often memory was asked for, growing included, since the process began.
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

// SAFETY: every call goes to `System` with the arguments it came with, and its answer is returned unchanged, so the contract
// that the caller keeps is the one that `System` asks for, and what `System` promises is what the caller gets. Counting only
// touches atomics: it neither allocates nor panics (`before` contains `freed`: what is freed was counted before, by this
// allocator, since a global allocator is never exchanged).
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
