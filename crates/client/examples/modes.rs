//! Waits for the next whole minute, counts the seconds of that minute, and then only prints
//! minutes.

use std::error::Error;

use tickstorm_client::{Event, Mode, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut events = tickstorm_client::connect(Options::from_env()?.mode(Mode::Minute)).await?;
    let mut end_ms = None;
    while let Some(event) = events.next().await {
        let Event::Tick(tick) = event? else {
            continue;
        };
        println!("{} {}", tick.mode.name(), tick.epoch.as_ms());
        if tick.mode == Mode::Minute && end_ms.is_none() {
            end_ms = Some(tick.epoch.as_ms() + 59_000);
            events.set_mode(Mode::Second);
        } else if end_ms.is_some_and(|end_ms| tick.epoch.as_ms() >= end_ms) {
            events.set_mode(Mode::Minute);
        }
    }
    Ok(())
}
