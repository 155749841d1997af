//! The PROXY protocol, versions 1 and 2 (haproxy.org, doc/proxy-protocol.txt): a load balancer tells whom it speaks
//! for before anything else is said.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What version 2 begins with (§2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included (§2.1).
const LINE_BYTES_MAX: usize = 107;
/// Addresses of version 2 and what may follow them; the longest header seen in the wild has some hundred bytes.
const REST_BYTES_MAX: usize = 4096;

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// For the client at the first address, which had connected to the second one.
    For(SocketAddr, SocketAddr),
    /// For the balancer itself (a health check), or it does not say.
    Itself,
}

/// Reads the header, and not a byte behind it.
///
/// # Errors
/// `InvalidData` when what comes is no header, and whatever the stream says.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Speaker> {
    let mut start = [0; SIGNATURE.len()];
    // The shortest header of version 1, "PROXY UNKNOWN" and its line end, is longer.
    stream.read_exact(&mut start).await?;
    let speaker = if start == SIGNATURE {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if length > REST_BYTES_MAX {
            return Err(no_header());
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        version_2(head[0], head[1], &rest)
    } else if start.starts_with(b"PROXY ") {
        let mut line = start.to_vec();
        while !line.ends_with(b"\r\n") {
            // One by one: behind the line end it is not ours. This is some eighty bytes of a connection.
            if line.len() == LINE_BYTES_MAX {
                return Err(no_header());
            }
            line.push(stream.read_u8().await?);
        }
        version_1(&line[..line.len() - 2])
    } else {
        None
    };
    speaker.ok_or_else(no_header)
}

fn no_header() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY protocol header came")
}

/// A line without its end: `PROXY TCP4 192.0.2.1 192.0.2.9 56324 443`.
fn version_1(line: &[u8]) -> Option<Speaker> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let (Some("PROXY"), family) = (words.next(), words.next()?) else { return None };
    if family == "UNKNOWN" {
        return Some(Speaker::Itself); // whatever follows
    }
    let mut address = || -> Option<IpAddr> {
        let address: IpAddr = words.next()?.parse().ok()?;
        (address.is_ipv4() == (family == "TCP4")).then_some(address)
    };
    let (from, to) = (address()?, address()?);
    let mut port = || -> Option<u16> {
        let digits = words.next()?;
        let plain =
            digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        if plain { digits.parse().ok() } else { None }
    };
    let (from_port, to_port) = (port()?, port()?);
    let whole = words.next().is_none() && matches!(family, "TCP4" | "TCP6");
    whole.then(|| Speaker::For(SocketAddr::new(from, from_port), SocketAddr::new(to, to_port)))
}

/// What follows the signature: version and command, family and transport, then addresses and more.
fn version_2(command: u8, family: u8, rest: &[u8]) -> Option<Speaker> {
    match (command, family) {
        (0x20, _) => Some(Speaker::Itself),
        (0x21, 0x11) => {
            let v4 = |at: usize| {
                Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(rest.get(at..at + 4)?).ok()?)))
            };
            Some(Speaker::For(
                SocketAddr::new(v4(0)?, port(rest, 8)?),
                SocketAddr::new(v4(4)?, port(rest, 10)?),
            ))
        }
        (0x21, 0x21) => {
            let v6 = |at: usize| {
                Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(rest.get(at..at + 16)?).ok()?)))
            };
            Some(Speaker::For(
                SocketAddr::new(v6(0)?, port(rest, 32)?),
                SocketAddr::new(v6(16)?, port(rest, 34)?),
            ))
        }
        // Unspecified, or a Unix socket, whose path says nothing to anybody.
        (0x21, 0x00 | 0x31) => Some(Speaker::Itself),
        _ => None,
    }
}

fn port(rest: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(<[u8; 2]>::try_from(rest.get(at..at + 2)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(bytes: &[u8], expected: Option<&str>) {
        let mut behind = bytes.to_vec();
        behind.extend_from_slice(b"GET");
        let mut stream = &behind[..];
        let got = read(&mut stream).await;
        let words = match &got {
            Ok(Speaker::For(from, to)) => Some(format!("{from} {to}")),
            Ok(Speaker::Itself) => Some("-".to_owned()),
            Err(_) => None,
        };
        assert_eq!(words.as_deref(), expected, "{}", bytes.escape_ascii());
        assert!(got.is_err() || stream == b"GET", "{} bytes are left", stream.len());
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn version_1_is_a_line() {
        check(b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n", Some("192.0.2.1:56324 192.0.2.9:443")).await;
        check(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Some("[2001:db8::1]:1 [::1]:65535")).await;
        check(b"PROXY UNKNOWN\r\n", Some("-")).await;
        check(b"PROXY UNKNOWN ffff::1 ffff::1 1 2\r\n", Some("-")).await;
        for bad in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 56324\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 056 443\r\n",
            "PROXY TCP4 ::1 192.0.2.9 1 443\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.9 1 443\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.9 1 443\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.9 1 443\r\n",
            "proxy TCP4 192.0.2.1 192.0.2.9 1 443\r\n",
        ] {
            check(bad.as_bytes(), None).await;
        }
        check(format!("PROXY UNKNOWN {}\r\n", "x".repeat(107)).as_bytes(), None).await;
    }

    #[tokio::test]
    async fn version_2_is_binary_and_may_say_more_than_we_read() {
        let four = [192, 0, 2, 1, 192, 0, 2, 9, 0, 80, 1, 187];
        check(&v2(0x21, 0x11, &four), Some("192.0.2.1:80 192.0.2.9:443")).await;
        check(&v2(0x21, 0x11, &[&four[..], &[4, 0, 1, 0]].concat()), Some("192.0.2.1:80 192.0.2.9:443"))
            .await;
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 80, 81);
        check(&v2(0x21, 0x21, &six), Some("[::1]:80 [::2]:81")).await;
        check(&v2(0x20, 0x00, &[]), Some("-")).await;
        check(&v2(0x20, 0x11, &four), Some("-")).await;
        check(&v2(0x21, 0x00, &[]), Some("-")).await;
        check(&v2(0x21, 0x31, &[0; 216]), Some("-")).await;
        for (command, family, rest) in [
            (0x21, 0x11, &four[..11]),
            (0x21, 0x21, &four),
            (0x22, 0x11, &four),
            (0x11, 0x11, &four),
            (0x21, 0x12, &four),
        ] {
            check(&v2(command, family, rest), None).await;
        }
        check(&v2(0x20, 0, &[0; REST_BYTES_MAX + 1]), None).await;
    }
}
