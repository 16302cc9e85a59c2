//! Wakes a fleet of devices every five minutes, spread over some seconds (here 20).
//!
//! If all devices acted at the same instant, they would overload what they call. So each has a slot
//! of its own in the window after the tick, which follows from its name: it stays the same over
//! restarts and on all machines, and the devices are spread evenly. The wait is counted from the
//! time of the tick, not from its arrival, so a late tick wakes no device later than it must.
//!
//!     cargo run -p tickstorm-client --example fleet -- 20 lamp-1 lamp-2 lamp-3

use std::error::Error;
use std::time::Duration;

use tickstorm_client::{Mode, Options, Tick};
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

/// Returns how late the tick is, or zero as long as that is not known.
fn lateness(tick: &Tick) -> Duration {
    let micros = tick.late_us().unwrap_or(0).max(0);
    Duration::from_micros(micros.unsigned_abs())
}

async fn wake_later(device: String, tick: Tick, window_ms: u64) {
    sleep(offset(&device, window_ms).saturating_sub(lateness(&tick))).await;
    println!("{device} wakes for {}", tick.epoch.as_ms());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let window_secs: u32 = args.next().ok_or("name the window in seconds")?.parse()?;
    let (devices, window_ms) = (Vec::from_iter(args), u64::from(window_secs) * 1_000);
    let options = Options::from_env()?.mode(Mode::Minute);
    let mut ticks = tickstorm_client::connect(options).await?.into_tick_stream();
    while let Some(tick) = ticks.next().await {
        // After an outage, devices are woken once for the latest tick, and not for each one.
        let is_outdated = lateness(&tick) > Duration::from_millis(EVERY_MS.unsigned_abs());
        if tick.epoch.as_ms() % EVERY_MS != 0 || is_outdated {
            continue;
        }
        for device in &devices {
            tokio::spawn(wake_later(device.clone(), tick, window_ms));
        }
    }
    Ok(())
}
