//! Prints everything that happens to a subscription, and continues where an earlier run ended if
//! its last tick is given.

use std::error::Error;

use tickstorm_client::{Epoch, Event, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::from_env()?;
    if let Some(last) = std::env::args().nth(1) {
        options = options.resume_after(Epoch::from_ms(last.parse()?));
    }
    let mut events = tickstorm_client::connect(options).await?;
    println!("start {}", events.start_epoch().as_ms());
    while let Some(event) = events.next().await {
        match event? {
            Event::Tick(tick) => println!("tick {}", tick.epoch.as_ms()),
            Event::Gap { after, before, .. } => {
                println!("no ticks between {} and {}", after.as_ms(), before.as_ms());
            }
            Event::Reconnecting { why, after, .. } => println!("{why}; again in {after:?}"),
            Event::Reconnected { address, .. } => println!("connected to {address}"),
            Event::Moved { address, .. } => println!("moved to {address}"),
            Event::ModeChanged { mode, .. } => println!("mode {}", mode.name()),
            // Later versions may have more events.
            _ => {}
        }
    }
    Ok(())
}
