//! A TCP proxy that does harm when it is told to: delays, cuts, swallows.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They pass.
    None,
    /// They pass, each piece so much later.
    Delay(Duration),
    /// Connections are ended, and new ones are ended at once.
    Cut,
    /// They are swallowed in both directions; connections stay open, new ones are accepted.
    BlackHole,
    /// What the client says passes, what the server answers is swallowed.
    HalfOpen,
}

/// A proxy before one address. Dropping it ends everything.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    fault: Mutex<Fault>,
    open: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

impl FaultProxy {
    pub(crate) fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            fault: Mutex::new(Fault::None),
            open: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.ended.load(Ordering::SeqCst) {
                    break;
                }
                if let Ok(client) = client {
                    serving.take(client);
                }
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub(crate) fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        if fault == Fault::Cut {
            self.shared.cut();
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.cut();
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn take(self: &Arc<Self>, client: TcpStream) {
        if self.fault() == Fault::Cut {
            return;
        }
        let Ok(server) = TcpStream::connect(self.target) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
        if let (Ok(one), Ok(other)) = (client.try_clone(), server.try_clone()) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).extend([one, other]);
        }
        let (there, back) = (self.clone(), self.clone());
        thread::spawn(move || there.pump(client, server, false));
        thread::spawn(move || back.pump(server_too, client_too, true));
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, answers: bool) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 {
                break;
            }
            match self.fault() {
                Fault::BlackHole => continue,
                Fault::HalfOpen if answers => continue,
                Fault::Delay(delay) => thread::sleep(delay),
                Fault::Cut => break,
                Fault::None | Fault::HalfOpen => {}
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
