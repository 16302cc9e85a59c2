//! Prints each tick of the edge, mode and user that the environment names, and logs what else
//! happens.

use std::error::Error;

use tickstorm_client::Options;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut ticks = tickstorm_client::connect(Options::from_env()?)
        .await?
        .into_tick_stream();
    while let Some(tick) = ticks.next().await {
        println!("{}", tick.epoch.as_ms());
    }
    Ok(())
}
