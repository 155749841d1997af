//! Requests that break off when the answer to them has begun.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use http::Response;

use crate::support::Setup;
use crate::support::wait::DEADLINE;

/// An upstream of HTTP/2 that begins each answer and never ends one.
fn half_an_answer() -> SocketAddr {
    let (tell, told) = sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    let mut held = Vec::new();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let mut send = respond.send_response(Response::new(()), false).unwrap();
                        send.send_data(Bytes::from_static(b"half"), false).unwrap();
                        held.push((request, send));
                    }
                });
            }
        });
    });
    told.recv().unwrap()
}

#[test]
fn an_answer_over_http2_does_not_look_complete_when_its_request_broke_off() {
    let upstream = half_an_answer();
    let gateway = Setup::without_auth()
        .server("max_body = \"1KiB\"")
        .section(&format!("[[upstreams]]\nname = \"up\"\ntargets = [\"h2c://{upstream}\"]"))
        .route("all", "/", "up", "public")
        .start();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
        .write_all(b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .unwrap();
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    while !all.windows(4).any(|window| window == b"half") {
        let count = client.read(&mut piece).unwrap();
        assert!(count > 0, "{}", all.escape_ascii());
        all.extend_from_slice(&piece[..count]);
    }
    let much = format!("800\r\n{}\r\n", "x".repeat(0x800));
    client.write_all(much.as_bytes()).unwrap();
    // Until the end, or a reset.
    while let Ok(count @ 1..) = client.read(&mut piece) {
        all.extend_from_slice(&piece[..count]);
    }
    assert!(!all.ends_with(b"0\r\n\r\n"), "{}", all.escape_ascii());
}
