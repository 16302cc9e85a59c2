//! Closes candles on the minute from a stream of trades.
//!
//! A trade belongs to the minute in which it was made, by its own time. A minute is closed when its
//! tick arrives, and not by this machine's clock, so all machines close it at the same moment. A
//! tick closes all minutes before it, so none stays open even if ticks were lost in an outage.
//!
//! Trades are lines such as `1800000012345 101.25 3` (Unix time in milliseconds, price, size):
//!
//!     tail -f trades.txt | TICKSTORM_URL=tickstorm://stream_user:stream_pass@127.0.0.1:8080 \
//!         cargo run -p tickstorm-client --example candles

use std::collections::BTreeMap;
use std::error::Error;

use tickstorm_client::{Mode, Options};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

const MINUTE_MS: i64 = 60_000;

/// Returns the open, high, low and close price and the volume of a minute.
fn candle(trades: &[(f64, f64)]) -> Option<String> {
    let ((open, _), (close, _)) = (trades.first()?, trades.last()?);
    let prices = || trades.iter().map(|(price, _)| *price);
    let high = prices().fold(*open, f64::max);
    let low = prices().fold(*open, f64::min);
    let volume: f64 = trades.iter().map(|(_, size)| size).sum();
    Some(format!("{open} {high} {low} {close} {volume}"))
}

/// Returns a trade's time, price and size.
fn parse(line: &str) -> Option<(i64, f64, f64)> {
    let fields = Vec::from_iter(line.split_whitespace());
    let [time_ms, price, size] = fields[..] else {
        return None;
    };
    Some((
        time_ms.parse().ok()?,
        price.parse().ok()?,
        size.parse().ok()?,
    ))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_env()?.mode(Mode::Minute);
    let mut ticks = tickstorm_client::connect(options).await?.into_tick_stream();
    let mut lines = BufReader::new(stdin()).split(b'\n');
    // The prices and sizes of each minute's trades, in the order in which they were read.
    let mut open = BTreeMap::<i64, Vec<(f64, f64)>>::new();
    let mut closed_ms = i64::MIN;
    loop {
        tokio::select! {
            Some(line) = async { lines.next_segment().await.transpose() } => {
                let line = String::from_utf8_lossy(&line?).into_owned();
                match parse(&line) {
                    Some((time_ms, ..)) if time_ms < closed_ms => eprintln!("too late: {line}"),
                    Some((time_ms, price, size)) => {
                        let minute_ms = time_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
                        open.entry(minute_ms).or_default().push((price, size));
                    }
                    None => eprintln!("not a trade: {line}"),
                }
            }
            tick = ticks.next() => {
                let Some(tick) = tick else {
                    eprintln!("the connection has ended");
                    // A return would wait until the read of standard input ends.
                    std::process::exit(1);
                };
                // If the time was stepped back, the closed minutes stay closed.
                closed_ms = closed_ms.max(tick.epoch.as_ms());
                let rest = open.split_off(&closed_ms);
                for (minute_ms, trades) in std::mem::replace(&mut open, rest) {
                    println!("{minute_ms} {}", candle(&trades).unwrap_or_default());
                }
            }
        }
    }
}
