//! Wakes a fleet of devices every five minutes, spread over some seconds (here 20).
//!
//! If all devices acted at the same instant, they would overload what they call. So each has a slot
//! of its own in the window after the tick, which follows from its name: it stays the same over
//! restarts and on all machines, and the devices are spread evenly. The wait is counted from the
//! time of the tick, not from its arrival, so a late tick wakes no device later than it must.
//!
//!     TICKSTORM_URL=tickstorm://stream_user:stream_pass@127.0.0.1:8080 \
//!         cargo run -p tickstorm-client --example fleet -- 20 lamp-1 lamp-2 lamp-3

use std::error::Error;
use std::time::Duration;

use tickstorm_client::{Mode, Options, Tick, TickStream};
use tokio::time::sleep;

const EVERY_MS: i64 = 5 * 60_000;

/// Returns the device's offset in a window of so many milliseconds.
fn offset(device: &str, window_ms: u64) -> Duration {
    // FNV-1a with a finalizer, so that similar names get different slots.
    let mut hash = device
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    Duration::from_millis(((hash >> 32) * window_ms) >> 32)
}

/// Returns how long ago the time of a tick was. Ticks that were missed in an outage may arrive
/// before authority time is known again, so this waits for it.
async fn lateness(ticks: &TickStream, tick: &Tick) -> Duration {
    loop {
        if let Some(now) = ticks.subscription().authority_time() {
            let late_us = now.unix.as_micros() - tick.epoch.time().as_micros();
            return Duration::from_micros(u64::try_from(late_us).unwrap_or(0));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn wake_later(device: String, tick: Tick, wait: Duration) {
    sleep(wait).await;
    println!("{device} wakes for {}", tick.epoch.as_ms());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let window_secs: u32 = args.next().ok_or("name the window in seconds")?.parse()?;
    let (devices, window_ms) = (Vec::from_iter(args), u64::from(window_secs) * 1_000);
    let options = Options::from_env()?.mode(Mode::Minute);
    let mut ticks = tickstorm_client::connect(options).await?.into_tick_stream();
    let mut last = None;
    while let Some(tick) = ticks.next().await {
        // If the time is stepped back a little, the last tick arrives again.
        if tick.epoch.as_ms() % EVERY_MS != 0 || last == Some(tick.epoch) {
            continue;
        }
        // After an outage, devices are woken once for the latest tick, and not for each one.
        let late = lateness(&ticks, &tick).await;
        if late >= Duration::from_millis(EVERY_MS.unsigned_abs()) {
            continue;
        }
        last = Some(tick.epoch);
        for device in &devices {
            let wait = offset(device, window_ms).saturating_sub(late);
            tokio::spawn(wake_later(device.clone(), tick, wait));
        }
    }
    Ok(())
}
