//! Chromium with a profile of its own.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fantoccini::error::CmdError;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand, WindowHandle};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::Url;

use crate::support::process::{program, until};

/// A browser with one profile. Its processes and files are removed when it is dropped.
pub(crate) struct Chromium {
    pub(crate) client: Client,
    // Before the directory, in which it writes.
    _driver: Driver,
    _dir: TempDir,
}

/// chromedriver with the processes that it starts.
struct Driver(Child);

impl Chromium {
    /// Starts a browser. Without chromedriver, reports a skipped test and returns `None`.
    ///
    /// # Panics
    ///
    /// In CI, where a skipped test would go unnoticed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[], json!({})).await
    }

    /// Starts a browser with further arguments and preferences.
    pub(crate) async fn start_with(args: &[&str], preferences: Value) -> Option<Self> {
        let program = program("SEKISHO_TEST_CHROMEDRIVER", "/usr/bin/chromedriver")?;
        let dir = tempfile::tempdir().unwrap();
        let (driver, port) = Driver::start(&program, dir.path());
        let args = [&ARGS[..], args].concat();
        let options = json!({"args": args, "prefs": preferences});
        let capabilities = Capabilities::from_iter([("goog:chromeOptions".to_owned(), options)]);
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let address = format!("http://127.0.0.1:{port}");
        let connecting = builder.capabilities(capabilities).connect(&address);
        let client = Box::pin(connecting).await.unwrap();
        Some(Self { client, _driver: driver, _dir: dir })
    }

    /// Navigates to `url` and waits until the page has loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Returns the address of the page, with its fragment.
    pub(crate) async fn url(&self) -> Url {
        self.client.current_url().await.unwrap()
    }

    /// Runs the body of an asynchronous function in the page and returns its value.
    pub(crate) async fn run(&self, script: &str, args: &[Value]) -> Value {
        self.try_run(script, args).await.unwrap()
    }

    /// As [`run`](Self::run). Fails if the function throws or if the page is left meanwhile.
    pub(crate) async fn try_run(&self, script: &str, args: &[Value]) -> Result<Value, CmdError> {
        let script = format!("return (async function() {{ {script} }}).apply(null, arguments)");
        self.client.execute(&script, args.to_vec()).await
    }

    /// Sends a command of the Chrome DevTools Protocol.
    pub(crate) async fn devtools(&self, command: &'static str, parameters: Value) -> Value {
        self.client.issue_cmd(DevtoolsCommand { command, parameters }).await.unwrap()
    }

    /// Returns the text of the first element that matches a CSS selector.
    pub(crate) async fn text(&self, selector: &str) -> String {
        self.client.find(Locator::Css(selector)).await.unwrap().text().await.unwrap()
    }

    /// Types into a field.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().send_keys(text).await.unwrap();
    }

    /// Clicks on an element.
    pub(crate) async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Returns what is in a field.
    pub(crate) async fn value(&self, selector: &str) -> String {
        let field = self.client.find(Locator::Css(selector)).await.unwrap();
        field.prop("value").await.unwrap().unwrap_or_default()
    }

    /// Types into the element that has the focus.
    pub(crate) async fn press(&self, keys: &str) {
        self.client.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    /// Keeps the scripts of pages from running.
    pub(crate) async fn disable_scripts(&self) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    }

    /// Deletes all cookies of the profile.
    pub(crate) async fn delete_cookies(&self) {
        self.devtools("Network.clearBrowserCookies", json!({})).await;
    }

    /// Opens a tab without waiting for its page.
    pub(crate) async fn open_in_new_tab(&self, url: &str) {
        self.run("window.open(arguments[0], '_blank', 'noopener')", &[json!(url)]).await;
    }

    /// Opens an empty tab and makes it the one that commands go to.
    pub(crate) async fn switch_to_new_tab(&self) {
        let tab = self.client.new_window(true).await.unwrap().handle;
        self.switch_to(tab).await;
    }

    /// Makes a tab the one that commands go to.
    pub(crate) async fn switch_to(&self, tab: WindowHandle) {
        self.client.switch_to_window(tab).await.unwrap();
    }

    /// Waits until the page has this address and has loaded.
    pub(crate) async fn wait_for_url(&self, url: &str) {
        self.wait_until(&format!("location.href == {url:?} && document.readyState == 'complete'")).await;
    }

    /// Waits until the page has this path and has loaded.
    pub(crate) async fn wait_for_path(&self, path: &str) {
        self.wait_until(&format!("location.pathname == {path:?} && document.readyState == 'complete'")).await;
    }

    /// Waits until a script returns `true`, over navigations.
    pub(crate) async fn wait_until(&self, condition: &str) {
        let script = format!("return ({condition})");
        let what = format!("{condition} at {}", self.url().await);
        until(&what, async || {
            self.try_run(&script, &[]).await.is_ok_and(|value| value == true).then_some(())
        })
        .await;
    }
}

impl Driver {
    /// Starts chromedriver in a process group of its own and returns its port.
    fn start(program: &Path, dir: &Path) -> (Self, u16) {
        let mut command = Command::new(program);
        command.arg("--port=0").process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::null()).env("HOME", dir).env("TMPDIR", dir);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let driver = Self(child);
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("ChromeDriver was started successfully on port ")?
                .trim_end_matches('.')
                .parse()
                .ok()
        });
        (driver, port.expect("the port of chromedriver"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

/// A command of the Chrome DevTools Protocol, which chromedriver forwards.
#[derive(Debug)]
struct DevtoolsCommand {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevtoolsCommand {
    fn endpoint(&self, base_url: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base_url.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (http::Method, Option<String>) {
        let body = json!({"cmd": self.command, "params": self.parameters});
        (http::Method::POST, Some(body.to_string()))
    }
}

/// Chromium's sandbox does not work as root, nor in most containers. These tests load no foreign pages.
const ARGS: [&str; 7] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
];
