//! A coarse timer wheel of deadlines, one per shard, instead of 100,000 timers. A connection has
//! one valid entry. A heartbeat does not touch the wheel: when the connection's bucket expires, the
//! connection checks whether its deadline has really passed, and is armed again if not.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_timebase::Mono;

use super::key::Key;

/// The interval at which the wheel advances, one bucket each time. A deadline is handled within two
/// intervals, plus any delay of the machine; the protocol allows 500 ms.
pub(super) const WHEEL_INTERVAL: Duration = Duration::from_nanos(BUCKET_NS);
const BUCKET_NS: u64 = 100_000_000;
/// The number of buckets, which span 51 s. A deadline further ahead goes into the last bucket and
/// is armed again when that expires.
const BUCKETS: usize = 512;

/// A bucket of the wheel, numbered by intervals since time zero of the shard's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket(u64);

impl Bucket {
    /// The value for a connection that is not in the wheel.
    pub(super) const NONE: Self = Self(u64::MAX);

    /// Returns the first bucket that does not expire before `deadline`.
    fn after(deadline: Mono) -> Self {
        Self(deadline.as_nanos().div_ceil(BUCKET_NS))
    }
}

/// The wheel.
pub(super) struct Wheel {
    buckets: Vec<Vec<(Key, Bucket)>>,
    /// The bucket that expires next.
    next: Bucket,
}

impl Wheel {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            buckets: vec![Vec::new(); BUCKETS],
            next: Bucket::after(now),
        }
    }

    /// Adds `key` to the bucket for `deadline` and returns the bucket. If a connection has several
    /// entries, only the one in the bucket that the connection remembers counts.
    pub(super) fn arm(&mut self, key: Key, deadline: Mono) -> Bucket {
        let furthest = self.next.0 + BUCKETS as u64 - 1;
        let bucket = Bucket(Bucket::after(deadline).0.clamp(self.next.0, furthest));
        self.buckets[index(bucket)].push((key, bucket));
        bucket
    }

    /// Returns the bucket that `deadline` belongs to, or the next one to expire if it is in the
    /// past.
    pub(super) fn bucket_of(&self, deadline: Mono) -> Bucket {
        Bucket::after(deadline).max(self.next)
    }

    /// Moves all buckets that have expired by `now` to `expired`, in order, without copying their
    /// contents.
    pub(super) fn advance(&mut self, now: Mono, expired: &mut VecDeque<Vec<(Key, Bucket)>>) {
        let until = Bucket(now.as_nanos() / BUCKET_NS);
        // After a long pause, visit every bucket once rather than once per missed interval.
        let first = self.next.0.max(until.0.saturating_sub(BUCKETS as u64 - 1));
        for number in first..=until.0 {
            let bucket = std::mem::take(&mut self.buckets[index(Bucket(number))]);
            if !bucket.is_empty() {
                expired.push_back(bucket);
            }
        }
        self.next = Bucket(self.next.0.max(until.0 + 1));
    }
}

fn index(bucket: Bucket) -> usize {
    usize::try_from(bucket.0 % BUCKETS as u64).expect("less than BUCKETS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn expired_ids(wheel: &mut Wheel, now: Mono) -> Vec<u64> {
        let mut expired = VecDeque::new();
        wheel.advance(now, &mut expired);
        expired.iter().flatten().map(|(key, _)| key.id).collect()
    }

    #[test]
    fn a_deadline_expires_never_early_and_at_most_one_interval_late() {
        let mut wheel = Wheel::new(at(1_000));
        wheel.arm(Key { slot: 0, id: 7 }, at(2_050));
        for ms in (1_000..2_100).step_by(100) {
            assert!(expired_ids(&mut wheel, at(ms)).is_empty(), "{ms}");
        }
        assert_eq!(expired_ids(&mut wheel, at(2_100)), [7]);
    }

    #[test]
    fn a_past_deadline_expires_at_the_next_advance() {
        let mut wheel = Wheel::new(at(5_000));
        expired_ids(&mut wheel, at(5_000));
        wheel.arm(Key { slot: 0, id: 1 }, at(100));
        assert_eq!(expired_ids(&mut wheel, at(5_100)), [1]);
    }

    #[test]
    fn a_far_deadline_goes_to_the_last_bucket_and_a_long_pause_skips_none() {
        let mut wheel = Wheel::new(at(0));
        let bucket = wheel.arm(Key { slot: 0, id: 1 }, at(3_600_000));
        assert_eq!(bucket, Bucket(BUCKETS as u64 - 1));
        wheel.arm(Key { slot: 1, id: 2 }, at(700));
        let mut all = expired_ids(&mut wheel, at(10_000_000));
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    }

    #[test]
    fn a_small_step_back_in_time_is_harmless() {
        let mut wheel = Wheel::new(at(0));
        assert!(expired_ids(&mut wheel, at(1_000)).is_empty());
        wheel.arm(Key { slot: 0, id: 1 }, at(1_200));
        assert!(expired_ids(&mut wheel, at(900)).is_empty());
        assert_eq!(expired_ids(&mut wheel, at(1_200)), [1]);
    }
}
