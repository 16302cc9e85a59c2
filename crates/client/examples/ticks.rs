//! Prints each tick.

use std::error::Error;

use tickstorm_client::Options;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::new("127.0.0.1:8080").credentials("stream_user", "stream_pass");
    let mut ticks = tickstorm_client::connect(options).await?.into_tick_stream();
    while let Some(tick) = ticks.next().await {
        println!("{} {:?}", tick.epoch.as_ms(), tick.quality);
    }
    Ok(())
}
