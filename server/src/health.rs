//! Plain HTTP/1.1 for health, readiness and metrics: a few paths, GET and HEAD, one request a connection.
//!
//! Owns the few lines of HTTP that this needs, pure, and the thin shell that serves them on loopback. The API is not
//! here. Everything is bounded: the request's head, the time it may take, the connections at once.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// What is shown at each path. Called on the runtime's threads: it answers from memory.
pub trait Pages: Send + Sync {
    /// The page at a path, `None` if there is none.
    fn page(&self, path: &str) -> Option<Page>;
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// 200, or 503 for what is not ready.
    pub code: u16,
    /// Media type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// Media type of JSON.
pub const JSON: &str = "application/json";
/// Media type of metrics.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until `stop` turns true.
pub async fn serve(listener: TcpListener, pages: Arc<dyn Pages + 'static>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            continue;
        };
        // No place: the socket is dropped, and whoever asked asks again.
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(DEADLINE, answer_one(&socket, pages.as_ref())).await;
            drop(place);
        });
    }
}

async fn answer_one(socket: &TcpStream, pages: &dyn Pages) -> std::io::Result<()> {
    let mut head = Vec::new();
    let response = loop {
        match respond(&head, pages) {
            Some(response) => break response,
            None => read_some(socket, &mut head).await?,
        }
    };
    let mut rest = response.as_slice();
    while !rest.is_empty() {
        socket.writable().await?;
        match socket.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    // Closing with unread bytes would reset the connection under the answer.
    rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?;
    let mut ignored = Vec::new();
    while read_some(socket, &mut ignored).await.is_ok() && ignored.len() < IGNORED_BYTES_MAX {}
    Ok(())
}

async fn read_some(socket: &TcpStream, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        socket.readable().await?;
        match socket.try_read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                into.extend_from_slice(&buffer[..count]);
                return Ok(());
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// The answer to what has come so far; `None` if the request's head is not complete.
pub fn respond(received: &[u8], pages: &dyn Pages) -> Option<Vec<u8>> {
    let end = received.windows(4).position(|w| w == b"\r\n\r\n");
    let Some(end) = end else {
        let too_long = received.len() > HEAD_BYTES_MAX;
        return too_long.then(|| page(431, JSON, &error_body("the request's head is too long"), true));
    };
    let request_line = received[..end].split(|b| *b == b'\r').next().unwrap_or_default();
    let Ok(request_line) = std::str::from_utf8(request_line) else {
        return Some(page(400, JSON, &error_body("not HTTP/1.1"), true));
    };
    let mut words = request_line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Some(page(400, JSON, &error_body("not HTTP/1.1"), true));
    };
    if !version.starts_with("HTTP/1.") {
        return Some(page(505, JSON, &error_body("HTTP/1.1 is spoken here"), true));
    }
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Some(page(405, JSON, &error_body("GET and HEAD only"), true)),
    };
    let path = target.split('?').next().unwrap_or_default();
    Some(match pages.page(path) {
        Some(found) => page(found.code, found.content_type, &found.body, with_body),
        None => page(404, JSON, &error_body("no such page"), with_body),
    })
}

fn page(code: u16, content_type: &str, body: &str, with_body: bool) -> Vec<u8> {
    let reason = match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "HTTP Version Not Supported",
    };
    let allow = if code == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len(),
    );
    let mut bytes = head.into_bytes();
    if with_body {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

fn error_body(why: &str) -> String {
    format!("{{\"error\":{}}}\n", serde_json::Value::from(why))
}

/// A request's head is at most this long.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// What a client may send behind its request before we stop listening.
const IGNORED_BYTES_MAX: usize = 64 * 1024;
/// One request may take so long, answer included.
const DEADLINE: Duration = Duration::from_secs(5);
/// Requests at once.
const CONNECTIONS_MAX: usize = 64;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    struct Fixed(bool);

    impl Pages for Fixed {
        fn page(&self, path: &str) -> Option<Page> {
            let body = "marey_connections 3\n".to_owned();
            let code = if self.0 { 200 } else { 503 };
            (path == "/ready" || path == "/metrics").then_some(Page {
                code,
                content_type: METRICS,
                body,
            })
        }
    }

    fn code(request: &str) -> Option<u16> {
        let response = String::from_utf8(respond(request.as_bytes(), &Fixed(false))?).expect("text");
        response.split(' ').nth(1).and_then(|c| c.parse().ok())
    }

    #[test]
    fn known_paths_and_nothing_else() {
        assert_eq!(code("GET /ready?x=1 HTTP/1.1\r\n\r\n"), Some(503));
        assert_eq!(code("HEAD /metrics HTTP/1.0\r\nHost: x\r\n\r\n"), Some(503));
        assert_eq!(code("GET /secret HTTP/1.1\r\n\r\n"), Some(404));
        assert_eq!(code("POST /health HTTP/1.1\r\n\r\n"), Some(405));
        assert_eq!(code("GET /health HTTP/2\r\n\r\n"), Some(505));
        assert_eq!(code("nonsense\r\n\r\n"), Some(400));
        assert_eq!(code("GET /health HTTP/1.1\r\nHost: x\r\n"), None);
        assert_eq!(code(&"x".repeat(HEAD_BYTES_MAX + 1)), Some(431));
        let head = respond(b"HEAD /metrics HTTP/1.1\r\n\r\n", &Fixed(true)).expect("complete");
        let head = String::from_utf8(head).expect("text");
        assert!(
            head.contains("Content-Length: 20\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    }

    #[test]
    fn it_is_served_over_a_socket() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let at = listener.local_addr().expect("an address");
            let (stop, stopped) = watch::channel(false);
            let serving = tokio::spawn(serve(listener, Arc::new(Fixed(true)), stopped));
            let client = std::thread::spawn(move || {
                let mut socket = std::net::TcpStream::connect(at).expect("connected");
                socket.write_all(b"GET /metrics HTTP/1.1\r\nHo").expect("sent");
                std::thread::sleep(Duration::from_millis(10));
                socket.write_all(b"st: x\r\n\r\n").expect("sent");
                let mut text = String::new();
                socket.read_to_string(&mut text).expect("received");
                text
            });
            let text = tokio::task::spawn_blocking(move || client.join().expect("a client"))
                .await
                .expect("joined");
            assert!(
                text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("marey_connections 3\n"),
                "{text}"
            );
            stop.send(true).expect("the loop listens");
            serving.await.expect("the loop ended");
        });
    }
}
