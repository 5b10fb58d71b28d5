//! One GET over plain HTTP, for the pages that a hub shows on loopback: health, readiness, metrics.
//!
//! Bounded in time and in length. No TLS, no redirects: what needs those is no business of these pages.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// An answer: its code, and its body.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: String,
}

/// Asks for a page.
///
/// # Errors
/// What the network says, or that the answer is none.
pub fn get(at: SocketAddr, path: &str) -> io::Result<Answer> {
    let until = Instant::now() + PATIENCE;
    let mut socket = TcpStream::connect_timeout(&dialled(at), PATIENCE)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || bytes.len() > BYTES_MAX {
            return Err(io::Error::other("the answer takes too long, or is too long"));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut buffer)? {
            0 => break,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    parse(&bytes).ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// Where something is reached that is bound to every address.
pub fn dialled(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        at => at,
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let body = body.to_owned();
    Some(Answer { code, body })
}

const PATIENCE: Duration = Duration::from_secs(5);
const BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n{}\n").expect("an answer");
        assert_eq!((answer.code, answer.body.as_str()), (503, "{}\n"));
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_none());
        assert!(parse(b"HTTP/1.1 abc\r\n\r\n").is_none());
        let all = SocketAddr::from(([0, 0, 0, 0], 80));
        assert_eq!(dialled(all), SocketAddr::from(([127, 0, 0, 1], 80)));
    }
}
