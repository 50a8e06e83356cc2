//! The simplest HTTP client, for the cost of a request without this project's code. It keeps its connection.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection to a server.
pub(crate) struct Raw {
    stream: TcpStream,
    host: String,
}

impl Raw {
    pub(crate) async fn connect(host: &str) -> Self {
        let stream = TcpStream::connect(host).await.expect("a server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self {
            stream,
            host: host.to_owned(),
        }
    }

    /// Posts JSON. Returns the time to the first text and to the end of a chunked answer.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        token: &str,
        body: &str,
    ) -> (Duration, Duration) {
        let begun = Instant::now();
        let times = self.post_noting(path, token, body).await;
        let first = times.first().expect("the answer has text");
        (*first - begun, begun.elapsed())
    }

    /// Posts JSON and reads a chunked answer to its end. Returns the time of each read that contained text.
    pub(crate) async fn post_noting(
        &mut self,
        path: &str,
        token: &str,
        body: &str,
    ) -> Vec<Instant> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.stream
            .write_all(request.as_bytes())
            .await
            .expect("the server reads");
        let mut times = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        let mut seen = Vec::new();
        loop {
            let length = self
                .stream
                .read(&mut buffer)
                .await
                .expect("the server answers");
            let bytes = buffer.get(..length).unwrap_or_default();
            seen.extend_from_slice(bytes);
            assert!(
                length > 0,
                "the server left: {}",
                String::from_utf8_lossy(&seen)
            );
            if contains(bytes, b"\"content\":\"x") || contains(bytes, b"\"content\": \"x") {
                times.push(Instant::now());
            }
            if seen.ends_with(b"0\r\n\r\n") {
                assert!(
                    !times.is_empty(),
                    "no text came: {}",
                    String::from_utf8_lossy(&seen)
                );
                return times;
            }
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
