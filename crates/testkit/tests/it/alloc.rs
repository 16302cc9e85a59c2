use tickstorm_testkit::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Far more than anything else in this binary allocates at a time, so that concurrent tests don't
/// disturb this one.
const LARGE: usize = 64 << 20;

#[test]
fn live_bytes_are_counted_until_freed_and_peak_and_largest_until_the_mark() {
    ALLOCATOR.mark();
    let mut bytes: Vec<u8> = Vec::with_capacity(LARGE);
    assert!(ALLOCATOR.live_bytes() >= LARGE);
    bytes.reserve_exact(2 * LARGE);
    assert_eq!(ALLOCATOR.largest_bytes(), 2 * LARGE);
    drop(bytes);
    assert!(ALLOCATOR.live_bytes() < LARGE);
    assert!(ALLOCATOR.peak_bytes() >= 2 * LARGE);
    ALLOCATOR.mark();
    assert!(ALLOCATOR.peak_bytes() < LARGE);
    assert!(ALLOCATOR.largest_bytes() < LARGE);
}
