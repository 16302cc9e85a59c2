//! Closes candles on the minute from a stream of trades.
//!
//! A trade belongs to the minute in which it was made, by its own time. A minute is closed when its
//! tick arrives, and not by this machine's clock, so all machines close it at the same moment. If
//! the connection is lost, the client receives the ticks that it missed, and no minute stays open.
//!
//! Trades are lines such as `1800000012345 101.25 3` (Unix time in milliseconds, price, size):
//!
//!     tail -f trades.txt | cargo run -p tickstorm-client --example candles

use std::collections::BTreeMap;
use std::error::Error;

use tickstorm_client::{Mode, Options};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

const MINUTE_MS: i64 = 60_000;

/// The prices and sizes of a minute's trades, in the order in which they were read.
type Trades = Vec<(f64, f64)>;

/// Returns the open, high, low and close price and the volume of a minute.
fn candle(trades: &Trades) -> Option<String> {
    let ((open, _), (close, _)) = (trades.first()?, trades.last()?);
    let high = trades
        .iter()
        .fold(*open, |high, (price, _)| high.max(*price));
    let low = trades.iter().fold(*open, |low, (price, _)| low.min(*price));
    let volume: f64 = trades.iter().map(|(_, size)| size).sum();
    Some(format!("{open} {high} {low} {close} {volume}"))
}

/// Returns a trade's time, price and size.
fn parse(line: &str) -> Option<(i64, f64, f64)> {
    let mut fields = line.split_whitespace();
    let mut next = || fields.next();
    Some((
        next()?.parse().ok()?,
        next()?.parse().ok()?,
        next()?.parse().ok()?,
    ))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_env()?.mode(Mode::Minute);
    let mut ticks = tickstorm_client::connect(options).await?.into_tick_stream();
    let mut trades = BufReader::new(stdin()).lines();
    let (mut open, mut has_input) = (BTreeMap::<i64, Trades>::new(), true);
    let mut closed_ms = i64::MIN;
    loop {
        tokio::select! {
            line = trades.next_line(), if has_input => match line? {
                Some(line) => match parse(&line) {
                    Some((time_ms, ..)) if time_ms < closed_ms => eprintln!("too late: {line}"),
                    Some((time_ms, price, size)) => {
                        let minute_ms = time_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
                        open.entry(minute_ms).or_default().push((price, size));
                    }
                    None => eprintln!("not a trade: {line}"),
                },
                None => has_input = false,
            },
            tick = ticks.next() => {
                closed_ms = tick.ok_or("the connection has ended")?.epoch.as_ms();
                let rest = open.split_off(&closed_ms);
                for (minute_ms, trades) in std::mem::replace(&mut open, rest) {
                    println!("{minute_ms} {}", candle(&trades).unwrap_or_default());
                }
            }
        }
    }
}
