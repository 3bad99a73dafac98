//! A real headless Chromium, driven over its DevTools protocol, as an operator with a keyboard would.
//!
//! The protocol goes over pipes (`--remote-debugging-pipe`: messages end with a NUL byte), so nothing listens and no library is needed. The browser
//! trusts the certificates that it is told of by the hash of their key, and no others.

use super::{Context, Json, Result, Scratch, anyhow, bail, ensure, limits, note, user};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Debian's package; `tests/run.sh` installs it.
const PROGRAM: &str = "/usr/bin/chromium";
/// One call; a page on a busy machine takes seconds.
const CALL: Duration = Duration::from_secs(40);
/// Without them it would look for updates, for a keyring, for a sandbox that a container does not have.
const FLAGS: [&str; 12] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
];

/// Fields drop in this order; the process is ended by `Drop`.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Json>,
    last_id: u64,
    /// Events that came so far, of the page and of the network.
    events: Vec<Json>,
    session: String,
    pictures: PathBuf,
}

impl Browser {
    /// With one page, which shows nothing yet. `trusted`: hashes of keys, as [`key_hash`] tells them.
    pub fn start(scratch: &Scratch, trusted: &[String]) -> Result<Browser> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM}: ./tests/run.sh installs it");
        let home = scratch.private_dir("browser")?;
        let who = user::test_user()?;
        // The protocol's descriptors are 3 and 4; a shell gives it the pipes that are there as standard input and output.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null", PROGRAM])
            .args(FLAGS);
        command.arg(format!("--user-data-dir={}", home.join("profile").display()));
        command.arg(format!("--ignore-certificate-errors-spki-list={}", trusted.join(",")));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &home);
        command.current_dir("/").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        if who.switched {
            command.uid(who.uid).gid(who.gid);
        }
        let mut child = command.spawn().context(PROGRAM)?;
        let to = child.stdin.take().context("a pipe to the browser")?;
        let out = child.stdout.take().context("a pipe from the browser")?;
        let (sender, from) = channel();
        // Ends with the browser, whose end closes the pipe.
        std::thread::spawn(move || {
            for message in BufReader::new(out).split(0).map_while(std::result::Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let pictures = match std::env::var_os("PGCONVOY_TEST_PICTURES") {
            Some(kept) => kept.into(),
            None => scratch.private_dir("pictures")?,
        };
        let mut browser =
            Browser { child, to, from, last_id: 0, events: Vec::new(), session: String::new(), pictures };
        browser.open_page()?;
        Ok(browser)
    }

    fn open_page(&mut self) -> Result<()> {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attached = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", attached)?;
        self.session = attached["sessionId"].as_str().context("a session")?.to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        self.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true}))?;
        self.size(1440, 1000, false)
    }

    /// One command of the protocol, and its result.
    pub fn call(&mut self, method: &str, parameters: Json) -> Result<Json> {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).with_context(|| format!("{method}: the browser is gone"))?;
        let deadline = Instant::now() + CALL;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.from.recv_timeout(left).map_err(|error| anyhow!("{method}: {error}"))?;
            if answer["id"] == id {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].clone());
            }
            self.note_event(answer)?;
        }
    }

    /// A dialog would hold everything up; none of our pages opens one.
    fn note_event(&mut self, event: Json) -> Result<()> {
        if event["method"] == "Page.javascriptDialogOpening" {
            bail!("a dialog opened: {event}");
        }
        self.events.push(event);
        Ok(())
    }

    /// What has come without being asked for.
    fn gather_events(&mut self) -> Result<()> {
        self.eval("0").map(drop)
    }

    pub fn eval(&mut self, script: &str) -> Result<Json> {
        let parameters = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", parameters)?;
        ensure!(result["exceptionDetails"].is_null(), "{script}: {}", result["exceptionDetails"]);
        Ok(result["result"]["value"].clone())
    }

    pub fn text(&mut self, script: &str) -> Result<String> {
        Ok(self.eval(script)?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a script's value is neither null, false, 0 nor an empty text; the value.
    pub fn until(&mut self, what: &str, script: &str) -> Result<Json> {
        let waited = limits::wait_for(what, limits::SOON, || {
            // Between two pages there is nothing to ask.
            let value = self.eval(script).unwrap_or_default();
            let is_nothing =
                value.is_null() || value == json!(false) || value == json!(0) || value == json!("");
            Ok((!is_nothing).then_some(value))
        });
        waited.with_context(|| {
            let text = "`${location.pathname} ${document.body.innerText.slice(0, 3000)}`";
            self.text(text).unwrap_or_default()
        })
    }

    pub fn go(&mut self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", json!({"url": url}))?;
        ensure!(answer["errorText"].is_null(), "{url}: {answer}");
        self.until("a page", "document.readyState === 'complete' && location.protocol === 'https:'")?;
        Ok(())
    }

    /// Presses a key and lets it go.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Space" => (32, " "),
            "End" => (35, ""),
            "Home" => (36, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            other => bail!("no key {other}"),
        };
        let name = if key == "Space" { " " } else { key };
        let mut event = json!({"type": "keyDown", "key": name, "code": key, "windowsVirtualKeyCode": code});
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", event.clone())?;
        event["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", event).map(drop)
    }

    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({"text": text})).map(drop)
    }

    /// Presses Tab until what has the focus is it: `is_it` is about `element`. An operator would not go round more than once.
    pub fn tab_to(&mut self, what: &str, is_it: &str) -> Result<()> {
        const STEPS_MAX: usize = 60;
        let script = format!(
            "(() => {{ const element = document.activeElement; return Boolean(element && ({is_it})); }})()"
        );
        for _ in 0..STEPS_MAX {
            if self.eval(&script)? == json!(true) {
                let outline = self.text("getComputedStyle(document.activeElement).outlineStyle")?;
                ensure!(outline != "none", "the focus on {what} cannot be seen");
                return Ok(());
            }
            self.press("Tab")?;
        }
        bail!("{what} is not reached with the keyboard")
    }

    pub fn size(&mut self, width: u32, height: u32, is_phone: bool) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone});
        self.call("Emulation.setDeviceMetricsOverride", size).map(drop)
    }

    pub fn dark(&mut self, is_dark: bool) -> Result<()> {
        let value = if is_dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// A picture of the whole page, for whoever looks at what a test saw.
    pub fn picture(&mut self, name: &str) -> Result<()> {
        let size = self.call("Page.getLayoutMetrics", json!({}))?["cssContentSize"].clone();
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let whole = json!({"captureBeyondViewport": true, "clip": clip});
        let taken = self.call("Page.captureScreenshot", whole)?;
        let bytes = BASE64.decode(taken["data"].as_str().context("a picture")?)?;
        let path = self.pictures.join(format!("{name}.png"));
        note(format!("{}: {} bytes", path.display(), bytes.len()));
        std::fs::write(path, bytes)?;
        Ok(())
    }

    /// Errors that pages or the browser itself wrote to the console, and exceptions.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        self.gather_events()?;
        let is_complaint = |event: &&Json| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            _ => false,
        };
        Ok(self.events.iter().filter(is_complaint).map(|event| event["params"].to_string()).collect())
    }

    /// Every address that was asked for.
    pub fn asked_for(&mut self) -> Result<Vec<String>> {
        self.gather_events()?;
        let requests = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        Ok(requests
            .filter_map(|event| Some(event["params"]["request"]["url"].as_str()?.to_owned()))
            .collect())
    }

    /// Wider than the window: something would have to be scrolled sideways.
    pub fn overflows(&mut self) -> Result<bool> {
        Ok(self.eval("document.documentElement.scrollWidth > document.documentElement.clientWidth")?
            == json!(true))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        drop(self.child.wait());
    }
}

/// The hash by which the browser is told to trust a certificate: SHA-256 of its public key.
pub fn key_hash(certificate: &Path) -> Result<String> {
    let script = "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform der \
                  | openssl dgst -sha256 -binary | openssl base64";
    let output = Command::new("sh").args(["-c", script]).arg(certificate).output().context("openssl")?;
    let hash = String::from_utf8(output.stdout)?.trim().to_owned();
    ensure!(hash.len() == 44, "{}: {}", certificate.display(), String::from_utf8_lossy(&output.stderr));
    Ok(hash)
}
