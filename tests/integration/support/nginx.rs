//! nginx as Debian has it, for an upstream that we did not write.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::wait::wait_for;

/// Somebody else may take a port between our look and nginx's.
const TRIES: usize = 20;

/// One that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    dir: TempDir,
    child: Child,
    addresses: Vec<SocketAddr>,
}

impl Nginx {
    /// Serves these bodies of `server` blocks, each on an address of its own with these words after it (`ssl http2`).
    /// The `files` lie where nginx looks for relative names; in `www/` is what it serves.
    pub(crate) fn start(servers: &[(&str, &str)], files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::Builder::new().prefix("portcullis-nginx-").tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        for _ in 0..TRIES {
            let addresses = free(servers.len());
            fs::write(dir.path().join("nginx.conf"), configuration(servers, &addresses)).unwrap();
            let mut child = run(dir.path());
            let up = |address: &SocketAddr| TcpStream::connect(address).is_ok();
            let listens = wait_for("nginx to listen", || match child.try_wait().unwrap() {
                Some(_) => Some(false),
                None => addresses.iter().all(up).then_some(true),
            });
            if listens {
                return Self { dir, child, addresses };
            }
        }
        panic!("nginx did not start {TRIES} times");
    }

    /// The address of a server, in their order.
    pub(crate) fn address(&self, server: usize) -> SocketAddr {
        self.addresses[server]
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

/// One process, so that nothing of it outlives its test.
fn configuration(servers: &[(&str, &str)], addresses: &[SocketAddr]) -> String {
    let mut text = "daemon off; master_process off; pid nginx.pid; error_log stderr warn;\n\
                    events { worker_connections 1024; }\n\
                    http {\naccess_log off; default_type text/plain; root www; client_max_body_size 0;\n"
        .to_owned();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text.push_str(&format!("{kind}_temp_path temp/{kind};\n"));
    }
    for ((words, body), address) in servers.iter().zip(addresses) {
        text.push_str(&format!("server {{ listen {address} {words};\n{body}\n}}\n"));
    }
    text.push_str("}\n");
    text
}

fn run(dir: &Path) -> Child {
    fs::create_dir_all(dir.join("temp")).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(dir).stdin(Stdio::null());
    command.spawn().expect("nginx (Debian: apt-get install nginx-light; `make test` does it)")
}
