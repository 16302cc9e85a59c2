//! Acts at each whole second, as exactly as this machine can, and prints how late it was.

use std::error::Error;

use tickstorm_client::Options;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_env()?.ahead(true);
    let mut ticks = tickstorm_client::connect(options).await?.into_tick_stream();
    while let Some(tick) = ticks.next().await {
        if let (Some(late_us), Some(read)) = (tick.late_us(), tick.read) {
            println!("{} {late_us} ± {} µs", tick.epoch.as_ms(), read.error_us);
        }
    }
    Ok(())
}
