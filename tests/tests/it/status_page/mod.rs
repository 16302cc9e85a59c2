//! The page at `/` of an admin port, in a real browser. Some tests show the state of real programs.
//! Others show the page of a real edge with answers that were written for the test, because only
//! these contain everything that the page can show.

mod stage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::{env, fs};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tickstorm_testkit::Peer;

use self::stage::Stage;
use crate::dev::{Dev, http};
use crate::support::browser::{Browser, Screen};
use crate::support::daemon::{Daemon, USER};
use crate::support::eventually;
use crate::tickstorm::PATIENCE;

/// The screens on which the page must be readable.
const SCREENS: [Screen; 4] = [
    screen(1_280, "light"),
    screen(1_280, "dark"),
    screen(390, "light"),
    screen(390, "dark"),
];

const fn screen(width: u32, colours: &'static str) -> Screen {
    Screen {
        width,
        height: 844,
        colours,
    }
}

/// Asserts that nothing is wrong with the page on this screen, whatever it shows.
async fn expect_readable(browser: &Browser, screen: Screen) {
    let widths = browser
        .run("return [document.documentElement.scrollWidth, window.innerWidth];")
        .await;
    assert_eq!(widths, json!([screen.width, screen.width]), "{screen:?}");
    // Text may neither overlap its box nor be as dark as what is behind it.
    let cut = browser
        .run(
            "return [...document.querySelectorAll('section, td, th, dd, li, p')]
                 .filter((box) => box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0)
                 .map((box) => box.outerHTML.slice(0, 100));",
        )
        .await;
    assert_eq!(cut, json!([]), "{screen:?}");
    let contrasts = browser.run(CONTRASTS).await;
    assert_eq!(contrasts, json!([]), "too little contrast: {screen:?}");
    let expected = if screen.colours == "dark" {
        "dark"
    } else {
        "light"
    };
    let shade = browser
        .run(
            "const [red, green, blue] = getComputedStyle(document.body).backgroundColor
                 .match(/\\d+/g).map(Number);
             return red + green + blue > 382 ? 'light' : 'dark';",
        )
        .await;
    assert_eq!(shade, expected, "{screen:?}");
    let console = browser.console().await;
    assert!(console.is_empty(), "{screen:?}: {console:?}");
}

/// Returns texts whose contrast with what is behind them is below 4.5, the least that WCAG 2 asks
/// for.
const CONTRASTS: &str = "
    const luminance = ([red, green, blue]) => {
        const linear = [red, green, blue].map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const behind = (node) => {
        const colour = parse(getComputedStyle(node).backgroundColor);
        return colour.length === 4 && colour[3] === 0 ? behind(node.parentElement) : colour;
    };
    const found = [];
    for (const node of document.body.querySelectorAll('*')) {
        const ownText = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE
            && child.textContent.trim() !== '');
        if (!ownText || !node.checkVisibility() || node.closest('script, style, noscript')) {
            continue;
        }
        const [a, b] = [parse(getComputedStyle(node).color), behind(node)].map(luminance);
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) {
            found.push([node.textContent.slice(0, 50), contrast]);
        }
    }
    return found;";

/// Opens the page of an admin port and waits until it shows an answer.
async fn open(browser: &Browser, admin: SocketAddr) {
    browser.open(&format!("http://{admin}/")).await;
    browser.await_text("#age", "Live").await;
}

/// Returns the values of a list of terms, by term.
async fn terms(browser: &Browser, id: &str) -> Value {
    let script = format!(
        "return Object.fromEntries([...document.querySelectorAll('#{id} dt')]
             .map((term) => [term.innerText, term.nextElementSibling.innerText]));"
    );
    browser.run(&script).await
}

/// Asserts that the browser has sent requests to this port only.
async fn expect_requests_to(browser: &Browser, admin: SocketAddr) {
    let requests = browser.requests().await;
    let base = format!("http://{admin}/");
    for path in ["", "status", "metrics"] {
        let url = format!("{base}{path}");
        assert!(requests.contains(&url), "no {url} in {requests:?}");
    }
    // The browser's own first page is at chrome://.
    let is_own = |url: &&String| {
        [&*base, "data:", "chrome://"]
            .iter()
            .any(|start| url.starts_with(start))
    };
    let others: Vec<_> = requests.iter().filter(|url| !is_own(url)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Returns the status that an admin port answers.
fn status(admin: SocketAddr) -> Value {
    let answer = http(admin, "/status");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn the_page_shows_what_status_says_on_each_screen() {
    let mut dev = Dev::on_free_ports().await;
    dev.tick().await;
    let browser = Browser::start().await;
    for screen in SCREENS {
        browser.set_screen(screen).await;
        open(&browser, dev.admin).await;
        browser.await_text("#used", "1 of").await;
        let status = status(dev.admin);
        assert_eq!(browser.text("#kind").await, "edge and clock");
        assert_eq!(browser.text("#id").await, status["id"]);
        let clock = status["clock"]["id"].as_str().unwrap();
        let row = browser.text("#clocks tr").await;
        assert!(row.starts_with(clock) && row.contains("followed"), "{row}");
        let process = terms(&browser, "process").await;
        assert_eq!(process["Version"], status["version"]);
        assert_eq!(process["Admin port"], status["admin_addr"]);
        assert_eq!(process["Port for clients"], status["listen_addr"]);
        let host = terms(&browser, "host").await;
        let disciplined = if status["clock"]["synchronized"] == true {
            "yes"
        } else {
            "no"
        };
        assert_eq!(host["Disciplined"], disciplined);
        let time = terms(&browser, "time").await;
        assert_eq!(time["Following"], clock);
        assert!(
            time["Error bound"].as_str().unwrap().ends_with(" ms"),
            "{time}"
        );
        let lateness = browser.text("#lateness").await;
        assert!(lateness.contains("99 % of"), "{lateness}");
        let raised = status["clock"]["alarms"].as_array().unwrap().len();
        let word = if raised == 0 { "Ready" } else { "Attention" };
        browser.await_text("#word", word).await;
        expect_readable(&browser, screen).await;
        expect_requests_to(&browser, dev.admin).await;
    }
}

#[tokio::test]
async fn an_alarm_appears_and_a_daemon_that_is_silent_or_gone_is_told() {
    let mut edge = Daemon::new("tickstorm-edge").with("AUTH_RATE_LIMIT", "0");
    edge.start().await;
    let browser = Browser::start().await;
    open(&browser, edge.admin()).await;
    // Nothing listens where its NATS should be.
    browser.await_text("#word", "Not ready").await;
    browser.await_text("#reasons", "the time is unknown").await;
    let is_shown = async || browser.text("main").await.contains("logins_refused");
    assert!(!is_shown().await);
    for _ in 0..25 {
        let mut peer = Peer::connect(edge.clients()).await;
        peer.auth(USER, "a wrong password").await;
        peer.expect_refusal("AUTH_FAILED").await;
    }
    eventually("the alarm appears", PATIENCE, is_shown).await;
    let status = edge.status().await;
    let alarms = status["alarms"].as_array().unwrap().iter();
    let alarm = alarms
        .clone()
        .find(|alarm| alarm["reason"] == "logins_refused");
    let alarms = browser.text("#alarms").await;
    for part in ["message", "action"] {
        let sentence = alarm.unwrap()[part].as_str().unwrap();
        assert!(
            alarms.contains(sentence),
            "{sentence:?} is not in {alarms:?}"
        );
    }
    let console = browser.console().await;
    assert!(console.is_empty(), "{console:?}");

    edge.pause();
    browser.await_text("#word", "No answer").await;
    browser
        .await_text("#reasons", "Everything below is from 20")
        .await;
    browser.await_text("#age", "old").await;
    edge.unpause();
    browser.await_text("#word", "Not ready").await;
    browser.await_text("#age", "Live").await;
    edge.kill().await;
    browser.await_text("#word", "No answer").await;
    let title = browser.run("return document.title;").await;
    assert!(title.as_str().unwrap().starts_with("No answer"), "{title}");
}

/// The variable with the directory into which pictures of the page are written.
const SCREENSHOTS: &str = "TICKSTORM_SCREENSHOTS";

#[tokio::test]
async fn an_edge_that_is_well_and_one_that_is_not_are_readable_on_each_screen() {
    let directory = env::var_os(SCREENSHOTS).map(PathBuf::from);
    let well = Stage::open(stage::well_edge(), stage::METRICS).await;
    let sick = Stage::open(stage::sick_edge(), stage::METRICS).await;
    let browser = Browser::start().await;
    for (stage, word, pictures) in [
        (&well, "Ready", &[(1_280, "light"), (390, "light")][..]),
        (&sick, "Attention", &[(1_280, "dark")]),
    ] {
        for screen in SCREENS {
            browser.set_screen(screen).await;
            open(&browser, stage.addr()).await;
            assert_eq!(browser.text("#word").await, word);
            expect_readable(&browser, screen).await;
            let Screen { width, colours, .. } = screen;
            if let Some(directory) = &directory
                && pictures.contains(&(width, colours))
            {
                let picture = browser.screenshot().await;
                let picture = BASE64.decode(picture.as_bytes()).unwrap();
                let file = format!("status-page-{width}-{colours}.png");
                fs::write(directory.join(file), picture).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_page_that_nobody_sees_asks_for_nothing() {
    let stage = Stage::open(stage::sick_edge(), stage::METRICS).await;
    let browser = Browser::start().await;
    open(&browser, stage.addr()).await;
    let set = |state: &str| {
        format!(
            "Object.defineProperty(document, 'visibilityState', {{
                 configurable: true, value: '{state}',
             }});
             document.dispatchEvent(new Event('visibilitychange'));"
        )
    };
    browser.run(&set("hidden")).await;
    browser.await_text("#age", "Paused").await;
    // A request may be on its way.
    let mut asked = stage.asked();
    let is_quiet = async || {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        let before = std::mem::replace(&mut asked, stage.asked());
        asked == before
    };
    eventually("the page asks for nothing", PATIENCE, is_quiet).await;
    let before = stage.asked();
    browser.run(&set("visible")).await;
    browser.await_text("#age", "Live").await;
    let asks = async || stage.asked() > before + 3;
    eventually("the page asks again", PATIENCE, asks).await;
}

#[tokio::test]
async fn an_answer_that_the_page_cannot_show_is_told_and_does_not_stop_it() {
    let browser = Browser::start().await;
    let mut strange = stage::well_edge();
    strange["clocks"] = json!([null]);
    for strange in [strange, json!(null)] {
        let stage = Stage::open(strange.clone(), stage::METRICS).await;
        browser.open(&format!("http://{}/", stage.addr())).await;
        browser.await_text("#word", "Unreadable").await;
        browser.await_text("#reasons", "can’t be read").await;
        assert!(!browser.text("#age").await.contains("Live"), "{strange}");
        // It shows the next answer that it understands, and then one that it does not.
        stage.set_status(&stage::well_edge());
        browser.await_text("#word", "Ready").await;
        browser.await_text("#age", "Live").await;
        stage.set_status(&strange);
        browser.await_text("#word", "Unreadable").await;
        let asked = stage.asked();
        let asks = async || stage.asked() > asked + 3;
        eventually("the page asks again", PATIENCE, asks).await;
        let title = browser.run("return document.title;").await;
        assert!(title.as_str().unwrap().starts_with("Unreadable"), "{title}");
        let console = browser.console().await;
        assert!(console.is_empty(), "{console:?}");
    }
}

#[tokio::test]
async fn every_value_is_shown_as_text_whatever_it_contains() {
    let hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>";
    let mut status = stage::sick_edge();
    status["reasons"] = json!([""]);
    for pointer in [
        "/id",
        "/version",
        "/reasons/0",
        "/clocks/0/id",
        "/clocks/1/state",
        "/authority/following",
        "/alarms/0/reason",
        "/alarms/0/message",
        "/alarms/0/action",
        "/alarms/0/clocks/0",
        "/nats_link/server",
    ] {
        *status.pointer_mut(pointer).expect(pointer) = json!(format!("{pointer}{hostile}"));
    }
    let stage = Stage::open(status, stage::METRICS).await;
    let browser = Browser::start().await;
    for screen in SCREENS {
        browser.set_screen(screen).await;
        open(&browser, stage.addr()).await;
        let page = browser.text("body").await;
        for part in [
            "/id",
            "/version",
            "/reasons/0",
            "/clocks/0/id",
            "/clocks/1/state",
        ] {
            assert!(
                page.contains(&format!("{part}{hostile}")),
                "{part} is not in {page}"
            );
        }
        for part in ["/alarms/0/reason", "/alarms/0/message", "/alarms/0/action"] {
            assert!(
                page.contains(&format!("{part}{hostile}")),
                "{part} is not in {page}"
            );
        }
        let elements = browser
            .run("return document.querySelectorAll('img, body script:not(:last-child)').length;")
            .await;
        assert_eq!(elements, 0);
        expect_readable(&browser, screen).await;
        expect_requests_to(&browser, stage.addr()).await;
    }
}

#[tokio::test]
async fn numbers_are_those_of_status_and_metrics() {
    let stage = Stage::open(stage::sick_edge(), stage::METRICS).await;
    let browser = Browser::start().await;
    open(&browser, stage.addr()).await;
    assert_eq!(browser.text("#word").await, "Attention");
    let reasons = browser.text("#reasons").await;
    for reason in [
        "Ready, with 3 alarms.",
        "clock-2 is silent",
        "expires in 9 days",
    ] {
        assert!(reasons.contains(reason), "{reason:?} is not in {reasons:?}");
    }
    let time = json!({
        "Time": "2026-11-21 12:58:59 UTC",
        "Error bound": "0.214 ms",
        "Following": "clock-0",
        "Rate of this machine": "-3.21 ppm",
        "Ahead of this host’s clock": "-1.250 ms",
    });
    assert_eq!(terms(&browser, "time").await, time);
    assert_eq!(browser.text("#used").await, "61,234 of 100,000 (61 %)");
    let connections = terms(&browser, "connections").await;
    for (term, value) in [
        ("Logging in", "12"),
        ("Subscribed", "61,222"),
        ("Waiting to be accepted", "3"),
        ("Logins in the last minute", "57, 2 refused"),
        ("Memory of unfinished input", "1.5 MiB"),
    ] {
        assert_eq!(connections[term], value, "{connections}");
    }
    let rows = browser
        .run(
            "return [...document.querySelectorAll('#clocks tr')]
                 .map((row) => [...row.children].map((cell) => cell.innerText));",
        )
        .await;
    let expected = json!([
        ["clock-0", "followed", "0", "+0.000 ms", "0.198 ms"],
        ["clock-1", "falseticker", "1", "+5,000.0 ms", "0.205 ms"],
        ["clock-2", "silent", "2", "–", "–"],
    ]);
    assert_eq!(rows, expected);
    let console = browser.console().await;
    assert!(console.is_empty(), "{console:?}");
}

#[tokio::test]
async fn histograms_have_a_row_for_each_bucket_from_the_first_that_is_filled_to_the_last() {
    let stage = Stage::open(stage::sick_edge(), stage::METRICS).await;
    let browser = Browser::start().await;
    open(&browser, stage.addr()).await;
    let charts = browser
        .run(
            "return [...document.querySelectorAll('#lateness > div')].map((chart) => [
                 chart.querySelector('h3').innerText,
                 [...chart.querySelectorAll('tr')].map((row) =>
                     [row.children[0].innerText, row.children[2].innerText]),
                 chart.querySelector('p').innerText,
             ]);",
        )
        .await;
    let expected = json!([
        [
            "Start of the fan-out after its time to send (second, at time)",
            [
                ["≤ 0.1 ms", "900"],
                ["≤ 0.25 ms", "0"],
                ["≤ 0.5 ms", "90"],
                ["≤ 1 ms", "8"],
                ["more", "2"]
            ],
            "99 % of 1,000: ≤ 0.5 ms",
        ],
        [
            "Start of the fan-out after its time to send (second, ahead)",
            [["≤ 0.1 ms", "1,000"]],
            "99 % of 1,000: ≤ 0.1 ms",
        ],
        [
            "Send to each client after its time to send (second, at time)",
            [["≤ 1 ms", "3,000"], ["≤ 5 ms", "57,000"]],
            "99 % of 60,000: ≤ 5 ms",
        ],
        [
            "Send to each client after its time to send (second, ahead)",
            [["≤ 1 ms", "2,000"]],
            "99 % of 2,000: ≤ 1 ms",
        ],
        [
            "Left before the tick’s time when sent ahead (second)",
            [["≤ 0 ms", "1"], ["≤ 700 ms", "19"], ["≤ 800 ms", "1,980"]],
            "1 % of 2,000: ≤ 700 ms",
        ],
    ]);
    assert_eq!(charts, expected);
}
