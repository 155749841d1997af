//! curl, for a client that we did not write.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// One call of curl.
pub(crate) struct Curl(Command);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// 0 without an answer.
    pub(crate) status: u16,
    /// `1.1`, `2`.
    pub(crate) version: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// curl's exit status.
    pub(crate) exit: i32,
}

impl Curl {
    /// Asks `url`, whose host is looked up nowhere: every connection goes to `address`.
    pub(crate) fn new(url: &str, address: SocketAddr) -> Self {
        let mut command = Command::new("curl");
        command.args([
            "-q",
            "--silent",
            "--show-error",
            "--max-time",
            "30",
            "--noproxy",
            "*",
            "--dump-header",
        ]);
        command.args(["/dev/stderr", "--write-out", "\n%{http_code} %{http_version}"]);
        command.args(["--connect-to", &format!("::{}:{}", address.ip(), address.port())]).arg(url);
        command.stdin(Stdio::null());
        Self(command)
    }

    pub(crate) fn arg(mut self, argument: &str) -> Self {
        self.0.arg(argument);
        self
    }

    pub(crate) fn file(mut self, option: &str, path: &Path) -> Self {
        self.0.arg(option).arg(path);
        self
    }

    pub(crate) fn header(self, field: &str) -> Self {
        self.arg("--header").arg(field)
    }

    pub(crate) fn run(mut self) -> Fetched {
        let output = self.0.output().expect("curl (Debian: apt-get install curl; `make test` does it)");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, written) = stdout.rsplit_once('\n').unwrap_or_default();
        let (status, version) = written.split_once(' ').unwrap_or_default();
        let headers = String::from_utf8_lossy(&output.stderr);
        let headers = headers.lines().filter_map(|line| line.split_once(": "));
        Fetched {
            status: status.parse().unwrap_or_default(),
            version: version.to_owned(),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect(),
            body: body.to_owned(),
            exit: output.status.code().unwrap_or(-1),
        }
    }
}

impl Fetched {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Fails, showing everything, unless the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}
