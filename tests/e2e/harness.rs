//! A server process in a temporary folder, and short ways to talk to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_mayfly");

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A guest of `tests/fixtures/guests`.
pub(crate) fn guest(name: &str) -> Vec<u8> {
    let file = root().join(format!("tests/fixtures/guests/target/wasm32-wasip2/release/{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}; run tests/run.sh", file.display()))
}

/// A tiny model of `tests/fixtures/models`.
pub(crate) fn tiny_model(name: &str) -> PathBuf {
    root().join("tests/fixtures/models").join(name)
}

/// A real model package, `minilm` or `magika`.
pub(crate) fn real_model(name: &str) -> PathBuf {
    let folder = std::env::var_os("MAYFLY_TEST_MODELS")
        .map_or_else(|| root().join("target/test-models"), PathBuf::from)
        .join(name);
    assert!(folder.join(".done").exists(), "{} is not there; run tests/run.sh", folder.display());
    folder
}

/// What a server's clock and disk do, from the outside: see `tests/fixtures/faults/faults.c`.
pub(crate) struct Faults {
    library: PathBuf,
    control: PathBuf,
}

impl Faults {
    fn new(folder: &Path) -> Self {
        let (library, control) = (folder.join("faults.so"), folder.join("faults"));
        let source = root().join("tests/fixtures/faults/faults.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(built.expect("a C compiler, as the set-up asks for").success());
        std::fs::write(&control, [0; 16]).unwrap();
        Self { library, control }
    }

    fn environment(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [("LD_PRELOAD".to_owned(), text(&self.library)), ("FAULTS_FILE".to_owned(), text(&self.control))]
    }

    /// The wall clock is `seconds` ahead of the real one, or behind it.
    pub(crate) fn shift_clock(&self, seconds: i64) {
        self.set(0, seconds);
    }

    /// The file system is read-only, or no more.
    pub(crate) fn read_only(&self, is: bool) {
        self.set(8, i64::from(is));
    }

    /// Changed in place: the server has the file mapped.
    fn set(&self, at: u64, value: i64) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).open(&self.control).unwrap();
        file.write_all_at(&value.to_ne_bytes(), at).unwrap();
    }
}

/// A running server. Dropping it kills the process.
pub(crate) struct Server {
    pub(crate) folder: TempDir,
    pub(crate) data: String,
    pub(crate) admin: String,
    pub(crate) key: String,
    pub(crate) http: Client,
    child: Child,
    environment: Vec<(String, String)>,
}

/// Usage, cost and timings are in the head of each short answer, however busy the machine is: by default an answer that
/// takes longer than a moment is streamed, and they come in its trailers.
pub(crate) const WHOLE_ANSWERS: (&str, &str) = ("MAYFLY_CALLS__SHORT_ANSWER_WAIT_MS", "5000");

impl Server {
    /// A fresh one.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A fresh one with settings (`MAYFLY_SECTION__KEY`).
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let environment: Vec<_> = settings.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let command = Command::new(BINARY);
        Self::first_start(folder, environment, command)
    }

    /// A fresh one whose data folder is a disk of its own of `bytes`, gone with the process. None where this system
    /// lets nobody mount one.
    pub(crate) fn start_on_small_disk(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let on_disk = |then: &str| {
            let mut command = Command::new("unshare");
            let script = format!("mount -t tmpfs -o size=$0 mayfly \"$1\" && shift && {then}");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, &bytes.to_string()]);
            command.arg(folder.path().join("data"));
            command
        };
        if !on_disk("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = on_disk("exec \"$@\"");
        command.arg(BINARY);
        Some(Self::first_start(folder, Vec::new(), command))
    }

    /// A fresh one whose clock and disk do what the test says.
    pub(crate) fn start_with_faults(settings: &[(&str, &str)]) -> (Self, Faults) {
        let folder = tempfile::tempdir().unwrap();
        let faults = Faults::new(folder.path());
        let environment = settings.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        let environment = environment.chain(faults.environment()).collect();
        (Self::first_start(folder, environment, Command::new(BINARY)), faults)
    }

    fn first_start(folder: TempDir, environment: Vec<(String, String)>, command: Command) -> Self {
        let (child, data, admin, key) = spawn(command, folder.path(), &environment);
        let http = Client::builder().pool_idle_timeout(Duration::from_secs(1)).build().unwrap();
        Self { folder, data, admin, key: key.expect("the first start prints the admin key"), http, child, environment }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit status.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Starts again on the same folder, with other settings.
    pub(crate) fn restart_with(&mut self, settings: &[(&str, &str)]) {
        self.environment = settings.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        self.restart();
    }

    /// Starts again on the same folder.
    pub(crate) fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let (child, data, admin, key) = spawn(Command::new(BINARY), self.folder.path(), &self.environment);
        assert!(key.is_none(), "the admin key is printed only once");
        (self.child, self.data, self.admin) = (child, data, admin);
    }

    /// The data folder as the process sees it, whatever it has mounted.
    pub(crate) fn data_folder(&self) -> PathBuf {
        let path = self.folder.path().join("data");
        PathBuf::from(format!("/proc/{}/root", self.child.id())).join(path.strip_prefix("/").unwrap())
    }

    /// A data-plane request with the admin key (which may call everything).
    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.data)).bearer_auth(&self.key)
    }

    /// A control-plane request.
    pub(crate) fn api(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.admin)).bearer_auth(&self.key)
    }

    /// The answer of a control-plane GET.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.api(Method::GET, path).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Stores a component.
    pub(crate) async fn upload(&self, wasm: Vec<u8>) -> (StatusCode, Value) {
        let response = self.api(Method::PUT, "/projects/default/artifacts").body(wasm).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Deploys `handler` (`{"builtin": …}` or `{"digest": …}`) with the rest of the spec.
    pub(crate) async fn deploy(&self, name: &str, mut spec: Value) -> (StatusCode, Value) {
        spec.as_object_mut().unwrap().entry("models").or_insert_with(|| json!({}));
        let path = format!("/projects/default/deployments/{name}");
        let response = self.api(Method::POST, &path).json(&spec).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Uploads and deploys a guest; it must succeed.
    pub(crate) async fn deploy_guest(&self, name: &str, guest_name: &str, mut spec: Value) {
        let (status, stored) = self.upload(guest(guest_name)).await;
        assert!(status.is_success(), "{stored}");
        spec["handler"] = json!({ "digest": stored["digest"] });
        let (status, deployed) = self.deploy(name, spec).await;
        assert!(status.is_success(), "{deployed}");
    }

    /// A fresh one where deployment `meter` runs rows of a model that is called `rows` in the price book.
    pub(crate) async fn start_metered(settings: &[(&str, &str)]) -> Self {
        Self::start_with(settings).metered().await
    }

    /// With deployment `meter`, as [`Self::start_metered`].
    pub(crate) async fn metered(self) -> Self {
        self.add_model("rows", &tiny_model("rows.onnx"));
        self.deploy_guest("meter", "meter", json!({ "models": { "rows": "rows" } })).await;
        self
    }

    /// From now on a unit of `meter` costs `amount`.
    pub(crate) fn price(&self, meter: &str, amount: &str) {
        self.cli_json(&["prices", "set", "--meter", meter, "--amount", amount, "--per", "1"]);
    }

    /// Replaces the limits of a level, for example `/projects/default`.
    pub(crate) async fn limit(&self, level: &str, limits: Value) {
        let response = self.api(Method::PUT, &format!("{level}/limits")).json(&limits).send().await.unwrap();
        let status = response.status();
        assert!(status.is_success(), "{level}: {limits}: {}", response.text().await.unwrap());
    }

    /// A new key with the scope `call` for project `default`: id and secret. `more`: the rest of the body.
    pub(crate) async fn call_key(&self, more: Value) -> (String, String) {
        let mut body = json!({ "scopes": ["call"], "project": "default" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made: Value = self.api(Method::POST, "/keys").json(&body).send().await.unwrap().json().await.unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        (text(&made["key"]["id"]), text(&made["secret"]))
    }

    /// A data-plane request with that key.
    pub(crate) fn call_with(&self, secret: &str, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.data)).bearer_auth(secret)
    }

    /// Waits for the end of a call, and gives its record.
    pub(crate) async fn settled(&self, id: &str) -> Value {
        let path = format!("/requests/{id}");
        let mut record = Value::Null;
        self.eventually("the call is settled", async || {
            let response = self.api(Method::GET, &path).send().await.unwrap();
            record = if response.status() == 200 { response.json().await.unwrap() } else { Value::Null };
            record["ended"] == true
        })
        .await;
        record
    }

    /// The command line, against this server.
    pub(crate) fn cli(&self, args: &[&str]) -> std::process::Output {
        Command::new(BINARY).args(args).env("MAYFLY_URL", &self.admin).env("MAYFLY_KEY", &self.key).output().unwrap()
    }

    /// The command line with `--json`; it must succeed.
    pub(crate) fn cli_json(&self, args: &[&str]) -> Value {
        let output = self.cli(&[args, &["--json"]].concat());
        assert!(output.status.success(), "mayfly {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Adds a model through the command line, as a user does.
    pub(crate) fn add_model(&self, name: &str, path: &Path) {
        let output = self.cli(&["models", "add", name, path.to_str().unwrap()]);
        assert!(output.status.success(), "models add {name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until `reached` holds; what it waits for is a state, not a time.
    pub(crate) async fn eventually(&self, what: &str, mut reached: impl AsyncFnMut() -> bool) {
        let begin = Instant::now();
        while !reached().await {
            assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Memory of the process.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Open descriptors of the process.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Whether the process lives.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// The value of a header as text; empty if it is not there.
pub(crate) fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

/// Status, and the error's code and message in the data plane's envelope.
pub(crate) async fn refused(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let text = |name: &str| body["error"][name].as_str().unwrap_or_else(|| panic!("{status} {body}")).to_owned();
    (status, text("code"), text("message"))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    mut command: Command,
    folder: &Path,
    environment: &[(String, String)],
) -> (Child, String, String, Option<String>) {
    let mut child = command
        .args(["serve", "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.join("data"))
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the server printed {line:?}: {error}"));
    let text = |name: &str| ready[name].as_str().map(str::to_owned);
    (child, text("data").unwrap(), text("admin").unwrap(), text("admin_key"))
}
