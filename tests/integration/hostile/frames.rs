//! HTTP/2 by hand: frames as they are asked for, right or wrong, and what comes back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::support::wait::DEADLINE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITISED: u8 = 0x20;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A block of fields: each a literal that nobody remembers, no Huffman code.
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            integer(text.len(), &mut bytes);
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// RFC 7541 §5.1, with a prefix of seven bits.
fn integer(mut value: usize, bytes: &mut Vec<u8>) {
    if value < 127 {
        bytes.push(value as u8);
        return;
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
}

/// A frame that came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer; its body.
    Answered(String),
    /// By RST_STREAM with this code; what had come of the body.
    Reset(u32, String),
    /// Together with the connection, by GOAWAY with this code.
    Goaway(u32),
    /// Together with the connection, without a word.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Frames {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Frames {
    /// A client that has sent its preface and no settings of note.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let mut frames = Self::over(TcpStream::connect(address).unwrap());
        frames.send(PREFACE);
        frames.send(frame(SETTINGS, 0, 0, b"\0\x01\0\0\0\0"));
        frames
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Whether all of it could be written: the other side may have hung up.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Gives up a write that nobody takes after a moment.
    pub(crate) fn hurry(&self) {
        self.stream.set_write_timeout(Some(std::time::Duration::from_millis(700))).unwrap();
    }

    /// The next frame; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let head = self.take(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload: self.take(length)? })
    }

    /// So many bytes; `None` at the end.
    pub(crate) fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut block = [0; 16 * 1024];
        while self.buffer.len() < count {
            match self.stream.read(&mut block) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came"),
                Err(_) => return None,
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// Reads until this stream, or the connection, ends.
    pub(crate) fn end_of(&mut self, stream: u32) -> Ended {
        let (mut body, mut goaway) = (Vec::new(), None);
        while let Some(frame) = self.next() {
            match frame.kind {
                GOAWAY if frame.code() != 0 => goaway = Some(frame.code()),
                SETTINGS if frame.flags & ACK == 0 => {
                    self.send(self::frame(SETTINGS, ACK, 0, ""));
                }
                PING if frame.flags & ACK == 0 => {
                    self.send(self::frame(PING, ACK, 0, &frame.payload));
                }
                RST_STREAM if frame.stream == stream => {
                    return Ended::Reset(frame.code(), String::from_utf8_lossy(&body).into_owned());
                }
                DATA | HEADERS if frame.stream == stream => {
                    if frame.kind == DATA {
                        body.extend_from_slice(&frame.payload);
                    }
                    if frame.flags & END_STREAM != 0 {
                        return Ended::Answered(String::from_utf8_lossy(&body).into_owned());
                    }
                }
                _ => {}
            }
        }
        goaway.map_or(Ended::Closed, Ended::Goaway)
    }
}

/// The frames of a GET by way of literals.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", path)];
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block(&fields))
}
