//! A headless Chromium, driven over WebDriver (W3C) with plain HTTP to Debian's `chromedriver`.
//!
//! Whatever goes wrong here ends the test with a sentence: these tests run only when asked for.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

/// Longest wait for anything that the browser does.
const PATIENCE: Duration = Duration::from_secs(60);

/// One browser with a fresh profile; gone with the value.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: PathBuf,
}

impl Browser {
    /// Starts the driver on a free port of loopback, and a browser.
    pub(crate) fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("chromium-profile-{}-{number}", std::process::id()));
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts: apt-get install --no-install-recommends chromium chromium-driver");
        let port = announced_port(&mut driver);
        let mut browser = Self { driver, port, session: String::new(), profile };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &format!("--user-data-dir={}", browser.profile.display()),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = request(port, "POST", "/session", &capabilities);
        browser.session = session["sessionId"].as_str().expect("a new session has a name").to_owned();
        browser
    }

    /// Opens an address and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    /// Runs the body of a function in the page and gives what it returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs the body of a function again and again until it returns something true, and gives that.
    pub(crate) fn wait(&self, what: &str, script: &str) -> Value {
        let start = Instant::now();
        loop {
            let value = self.run(script);
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the page never came to: {what}\n{}",
                self.run("return document.body.innerText")
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Types into the one element that a CSS selector finds; `\u{e007}` is the Enter key.
    pub(crate) fn type_into(&self, selector: &str, keys: &str) {
        let found = self.command("/element", &json!({ "using": "css selector", "value": selector }));
        let id =
            found.as_object().and_then(|id| id.values().next()).and_then(Value::as_str).expect("an element");
        self.command(&format!("/element/{id}/value"), &json!({ "text": keys }));
    }

    /// Lets pages run scripts, or not; for the pages opened from now on.
    pub(crate) fn allow_scripts(&self, allow: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": !allow }));
    }

    /// Sets the window's inner size in CSS pixels.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Sets what `prefers-color-scheme` sees: `light` or `dark`.
    pub(crate) fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
    }

    /// What the window shows, as PNG.
    pub(crate) fn screenshot(&self) -> Vec<u8> {
        let picture =
            request(self.port, "GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        let text = picture.as_str().expect("a screenshot is text in base64");
        base64::engine::general_purpose::STANDARD.decode(text).expect("a screenshot is text in base64")
    }

    /// What the console heard since the last time: errors of scripts, violations of the page's policy.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let entries = self.command("/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().expect("the log is a list");
        entries.iter().map(|entry| entry["message"].to_string()).collect()
    }

    fn devtools(&self, command: &str, parameters: Value) {
        self.command("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        request(self.port, "POST", &format!("/session/{}{path}", self.session), body)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ending the session ends the browser; the driver alone would leave it behind.
        if !self.session.is_empty() {
            let _ = exchange(self.port, "DELETE", &format!("/session/{}", self.session), "");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

/// Reads `ChromeDriver was started successfully on port 40217.`
fn announced_port(driver: &mut Child) -> u16 {
    let output = driver.stdout.take().expect("the output is piped");
    let (sender, receiver) = mpsc::channel();
    // Goes on reading to the end, so that the driver never writes into a closed pipe.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let port = line
                .rsplit_once("successfully on port ")
                .and_then(|(_, port)| port.trim_end_matches('.').parse().ok());
            if let Some(port) = port {
                let _ = sender.send(port);
            }
        }
    });
    receiver.recv_timeout(PATIENCE).expect("chromedriver says its port")
}

/// One command; its `value`, or the end of the test with the driver's own words.
fn request(port: u16, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer =
        exchange(port, method, path, &body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let mut answer: Value = serde_json::from_str(&answer).expect("the driver answers in JSON");
    let value = answer["value"].take();
    assert!(value.get("error").is_none(), "{method} {path} {body}: {value}");
    value
}

fn exchange(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut answer = String::new();
    reader.take(length).read_to_string(&mut answer)?;
    Ok(answer)
}
