//! A headless Chromium, driven over WebDriver and, for the size of the screen and its colours, over
//! Chromium's own protocol. WebDriver is a few requests over HTTP, so no library is needed.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};
use serde_json::{Value, json};
use tickstorm_testkit::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::tickstorm::PATIENCE;

/// The driver, which starts the browser.
const DRIVER: &str = "chromedriver";

/// The size of a screen, and its colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// `light` or `dark`.
    pub(crate) colours: &'static str,
}

/// A browser with one window.
pub(crate) struct Browser {
    driver: SocketAddr,
    session: String,
    /// The browser's own process. Its children end with it.
    process: Pid,
    _driver: Child,
    /// The browser's profile.
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser.
    pub(crate) async fn start() -> Self {
        let (child, driver) = start_driver().await;
        let profile = TempDir::new("chromium");
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--hide-scrollbars".to_owned(),
            // Grey edges of letters make pictures smaller than coloured ones.
            "--disable-lcd-text".to_owned(),
            "--force-device-scale-factor=1".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--no-first-run".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        if getuid().is_root() {
            // Chromium's sandbox does not work for root. The pages are our own.
            arguments.push("--no-sandbox".to_owned());
        }
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = request(driver, "POST", "/session", &capabilities).await;
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let process = &session["capabilities"]["goog:processID"];
        let process = process.as_i64().and_then(|pid| pid.try_into().ok());
        Self {
            driver,
            session: text(&session["sessionId"]),
            process: Pid::from_raw(process.unwrap_or_else(|| panic!("no process in {session}"))),
            _driver: child,
            _profile: profile,
        }
    }

    /// Changes the screen.
    pub(crate) async fn set_screen(&self, screen: Screen) {
        let Screen {
            width,
            height,
            colours,
        } = screen;
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.tell("Emulation.setDeviceMetricsOverride", size).await;
        let colours = json!({
            "features": [{ "name": "prefers-color-scheme", "value": colours }],
        });
        self.tell("Emulation.setEmulatedMedia", colours).await;
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    /// Runs a script in the page, and returns what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    /// Returns the text of the first element that fits the selector, as people see it.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let script = format!(
            "const found = document.querySelector({});
             return found === null ? null : found.innerText;",
            json!(selector)
        );
        let text = self.run(&script).await;
        let text = text.as_str();
        text.unwrap_or_else(|| panic!("no {selector} in the page"))
            .to_owned()
    }

    /// Waits until the text of the first element that fits the selector contains `text`.
    pub(crate) async fn await_text(&self, selector: &str, text: &str) {
        let shows = async || self.text(selector).await.contains(text);
        super::eventually(&format!("{text:?} in {selector}"), PATIENCE, shows).await;
    }

    /// Returns the messages of the browser's console since it was asked last.
    pub(crate) async fn console(&self) -> Vec<String> {
        let entries = self.post("se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().expect("a list").iter();
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    /// Returns the URLs of all requests since it was asked last.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let entries = self.post("se/log", json!({ "type": "performance" })).await;
        let entries = entries.as_array().expect("a list").iter();
        let urls = entries.filter_map(|entry| {
            let event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &event["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            let url = message["params"]["request"]["url"].as_str()?;
            is_request.then(|| url.to_owned())
        });
        urls.collect()
    }

    /// Returns a picture of the whole page in PNG, in Base64.
    pub(crate) async fn screenshot(&self) -> String {
        let size = self
            .run(
                "const page = document.documentElement;
                 return [page.clientWidth, page.scrollHeight];",
            )
            .await;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let picture = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.tell("Page.captureScreenshot", picture).await;
        picture["data"].as_str().expect("a picture").to_owned()
    }

    /// Gives Chromium a command of its own protocol.
    async fn tell(&self, command: &str, parameters: Value) -> Value {
        self.post(
            "goog/cdp/execute",
            json!({ "cmd": command, "params": parameters }),
        )
        .await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        request(self.driver, "POST", &path, &body).await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends with its `Child`, and would leave the browser behind.
        let _ = kill(self.process, Signal::SIGKILL);
    }
}

/// Starts the driver on any free port.
async fn start_driver() -> (Child, SocketAddr) {
    let mut child = Command::new(DRIVER)
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{DRIVER}: {error}: install Chromium and its driver (chromium-driver)")
        });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let port = line.split("started successfully on port ").nth(1);
            if let Some(port) = port.and_then(|port| port.trim_end_matches('.').parse().ok()) {
                return port;
            }
        }
        panic!("{DRIVER} ended without naming its port");
    };
    let port: u16 = timeout(PATIENCE, started)
        .await
        .expect("the driver starts in time");
    // What the driver writes later is read, so that it is never kept waiting.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Sends a request to the driver, and returns the value that it answers.
async fn request(driver: SocketAddr, method: &str, path: &str, body: &Value) -> Value {
    let what = format!("{method} {path} {body}");
    let answer = timeout(PATIENCE, exchange(driver, method, path, &body.to_string())).await;
    let answer = answer.unwrap_or_else(|_| panic!("no answer in time to {what}"));
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {what}"));
    let mut answer: Value = serde_json::from_slice(&answer).unwrap();
    let value = answer["value"].take();
    assert!(value.get("error").is_none(), "{what}: {value}");
    value
}

async fn exchange(driver: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = BufReader::new(TcpStream::connect(driver).await?);
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {driver}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
