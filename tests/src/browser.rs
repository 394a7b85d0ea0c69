//! A real browser: Debian's Chromium, headless, driven over its own debugging protocol.
//!
//! One page at a time. What a person does (type, click, look) goes through the page's own elements, found by
//! selector or by the words on them; what a person would only suffer from (an error on the console, something
//! that the content security policy stopped) fails the test at its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::process::Launch;
use crate::{Folder, Process, Stop, needs, wait_until};

const START_WITHIN: Duration = Duration::from_secs(60);
/// One command of the debugging protocol.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Whatever a person waits for on a page, on a busy machine.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// A browser with one page open. Dropped, it ends.
pub struct Browser {
    socket: WebSocketStream<TcpStream>,
    session: String,
    commands: u64,
    complaints: Vec<String>,
    // In this order: the process before the folder it writes into.
    _process: Process,
    _folder: Folder,
}

impl Browser {
    /// Starts one that trusts every certificate: whom to trust is not what these tests are about.
    pub async fn open() -> Self {
        let folder = Folder::new("browser");
        let profile = folder.make("profile");
        let mut command = Command::new(needs::command("chromium", "chromium"));
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
        ]);
        command.args(["--ignore-certificate-errors", "--remote-debugging-port=0"]);
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let log = folder.join("chromium.log");
        let process = Process::spawn(Launch { name: "chromium", command, log, stop: Stop::Kill, user: None });
        let told = profile.join("DevToolsActivePort");
        let (port, path) = wait_until("chromium can be driven", START_WITHIN, async || {
            let text = fs::read_to_string(&told).ok()?;
            let (port, path) = text.trim().split_once('\n')?;
            Some((port.parse::<u16>().ok()?, path.to_owned()))
        })
        .await;
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("chromium listens where it says");
        let (socket, _) = client_async(format!("ws://127.0.0.1:{port}{path}"), stream)
            .await
            .expect("chromium speaks its debugging protocol");
        let mut browser = Self {
            socket,
            session: String::new(),
            commands: 0,
            complaints: Vec::new(),
            _process: process,
            _folder: folder,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let wanted = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", wanted).await;
        browser.session = attached["sessionId"].as_str().unwrap_or_default().to_owned();
        for room in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{room}.enable"), json!({})).await;
        }
        browser
    }

    /// Goes to an address and waits until the page is there.
    pub async fn goto(&mut self, url: &str) {
        // A mark on the old page tells it from the new one.
        self.eval("window.isOld = true").await;
        self.call("Page.navigate", json!({"url": url})).await;
        self.until_there().await;
    }

    /// Presses the button, or follows the link, that says `words`; waits for the page it leads to.
    pub async fn press(&mut self, words: &str) {
        self.press_within("body", words).await;
    }

    /// The same for one of several, within the first element that `selector` finds.
    pub async fn press_within(&mut self, selector: &str, words: &str) {
        let look = format!(
            "(() => {{ const found = [...document.querySelector({selector:?})?.querySelectorAll('button, a, summary') ?? []]
                .filter(one => one.innerText.trim() === {words:?} && !one.disabled && one.getClientRects().length);
              if (!found.length) return null; window.isOld = true; found[0].click(); return found[0].tagName; }})()"
        );
        let what = format!("something in {selector} says {words:?} and can be pressed");
        if self.until(&what, &look).await != "SUMMARY" {
            self.until_there().await;
        }
    }

    async fn until_there(&mut self) {
        self.until("the next page is there", "!window.isOld && document.readyState === 'complete'").await;
    }

    /// Types into a field, over what stands there, or chooses in a list.
    pub async fn fill(&mut self, field: &str, text: &str) {
        let script = format!(
            "(() => {{ const field = document.querySelector('[name={field:?}]'); if (!field) return null;
              field.value = {text:?}; field.dispatchEvent(new Event('change', {{bubbles: true}})); return true; }})()"
        );
        self.until(&format!("there is a field {field}"), &script).await;
    }

    /// Waits until the page shows `words`.
    pub async fn sees(&mut self, words: &str) {
        let look = format!("document.body.innerText.includes({words:?}) || null");
        self.until(&format!("the page says {words:?}"), &look).await;
    }

    /// Waits until `script` gives something that is neither null nor false.
    pub async fn until(&mut self, what: &str, script: &str) -> Value {
        let started = std::time::Instant::now();
        loop {
            let seen = self.eval(script).await;
            if !matches!(seen, Value::Null | Value::Bool(false)) {
                return seen;
            }
            if started.elapsed() > SEEN_WITHIN {
                let shown = self.eval("location.pathname + '\\n' + document.body.innerText").await;
                panic!("waited in vain until {what}; the page is {}", shown.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What `script` gives; null where it throws, as while one page gives way to the next.
    pub async fn eval(&mut self, script: &str) -> Value {
        let asked = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", asked).await;
        answer["result"]["value"].take()
    }

    /// How the page is looked at: its width, and in light or dark.
    pub async fn look(&mut self, width: u32, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let mobile = width < 600;
        let screen = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", screen).await;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// A picture of the whole page.
    pub async fn picture(&mut self, file: &Path) {
        let size =
            self.eval("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]").await;
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let asked = json!({"format": "png", "clip": clip, "captureBeyondViewport": true});
        let taken = self.call("Page.captureScreenshot", asked).await;
        let png = decode_base64(taken["data"].as_str().unwrap_or_default());
        fs::write(file, png).unwrap_or_else(|error| panic!("{} cannot be written: {error}", file.display()));
    }

    /// What the browser complained about since the last time: errors of scripts, things that the content
    /// security policy stopped, requests that failed.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.commands += 1;
        let id = self.commands;
        let mut command = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let answered = tokio::time::timeout(ANSWER_WITHIN, async {
            self.socket.send(Message::text(command.to_string())).await.expect("chromium still listens");
            loop {
                let message =
                    self.socket.next().await.expect("chromium still speaks").expect("and is understood");
                let Ok(text) = message.to_text() else { continue };
                let Ok(mut message) = serde_json::from_str::<Value>(text) else { continue };
                if message["id"] == id {
                    // A page that is just leaving has no answer, which reads as nothing seen.
                    return message["result"].take();
                }
                self.complaints.extend(complaint(&message));
            }
        });
        answered.await.unwrap_or_else(|_| panic!("chromium did not answer {method} within {ANSWER_WITHIN:?}"))
    }
}

/// What an event says is wrong, if it says so.
fn complaint(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
            let entry = &parameters["entry"];
            Some(format!("{} {}", entry["text"], entry["url"]))
        }
        _ => None,
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let mut bytes = Vec::with_capacity(letters.len() * 3 / 4);
    for four in letters.chunks(4) {
        let bits = four.iter().fold(0_u32, |bits, six| bits << 6 | u32::from(*six)) << (6 * (4 - four.len()));
        bytes.extend(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

/// Where pictures go: a folder that git ignores.
pub fn pictures() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let folder = target.join("ui-pictures");
    fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("{} cannot be made: {error}", folder.display()));
    folder
}
