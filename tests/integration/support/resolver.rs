//! A DNS server of the test's own, and a program that resolves names by it alone: its `/etc/resolv.conf` is another file
//! than everybody else's. Both need root.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What is asked for in the file that [`resolving_by`] puts in the place of `/etc/resolv.conf`.
pub(crate) const RESOLV_CONF: &str = "resolv.conf";

const PORT: u16 = 53;
const TYPE_A: [u8; 2] = [0, 1];
/// The head of a message (RFC 1035 §4.1.1).
const HEAD_BYTES: usize = 12;

/// What the server says of every name.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    Addresses(Vec<Ipv4Addr>),
    NoSuchName,
    Failure,
    Nothing,
}

/// It answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
    _over: Arc<()>,
}

impl Resolver {
    pub(crate) fn start(says: Says) -> Self {
        // Tests of other processes and threads have theirs.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let socket = (1..=100)
            .find_map(|turn| {
                let address = Ipv4Addr::new(127, 53 + turn, b ^ a, c);
                UdpSocket::bind((address, PORT)).ok()
            })
            .expect("port 53 of a loopback address, which only root may have");
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let address = socket.local_addr().unwrap();
        let (says, asked, over) = (Arc::new(Mutex::new(says)), Arc::<AtomicUsize>::default(), Arc::new(()));
        let (now, count, alive) = (says.clone(), asked.clone(), Arc::downgrade(&over));
        thread::spawn(move || {
            let mut question = [0; 512];
            while alive.strong_count() > 0 {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer(&question[..length], &now.lock().unwrap()) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, says, asked, _over: over }
    }

    /// From now on.
    pub(crate) fn set(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Questions so far; a look-up asks two, for IPv4 and IPv6.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The file that leads to it.
    pub(crate) fn resolv_conf(&self) -> String {
        format!("nameserver {}\nsearch .\noptions timeout:1 attempts:1\n", self.address.ip())
    }
}

fn answer(question: &[u8], says: &Says) -> Option<Vec<u8>> {
    let (code, addresses): (u8, &[Ipv4Addr]) = match says {
        Says::Addresses(addresses) => (0, addresses),
        Says::Failure => (2, &[]),
        Says::NoSuchName => (3, &[]),
        Says::Nothing => return None,
    };
    let name = question.get(HEAD_BYTES..)?.iter().position(|byte| *byte == 0)?;
    let end = HEAD_BYTES + name + 1 + 4;
    let asked = question.get(HEAD_BYTES..end)?;
    // Nobody here has an address of the other family.
    let addresses = if asked[name + 1..name + 3] == TYPE_A { addresses } else { &[] };
    let count = u8::try_from(addresses.len()).unwrap();
    let mut answer = vec![question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    answer.extend_from_slice(asked);
    for address in addresses {
        // The name of the question, an address, of the Internet, good for no time, four bytes.
        answer.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    Some(answer)
}

/// The command in a mount namespace of its own, with this file as `/etc/resolv.conf`. It keeps its process id.
pub(crate) fn resolving_by(file: &Path, command: &Command) -> Command {
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "--propagation", "private", "sh", "-c"]);
    apart.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"");
    apart.arg(file).arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        apart.current_dir(dir);
    }
    apart
}
