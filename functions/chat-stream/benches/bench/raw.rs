//! The simplest HTTP client: what a request costs without anything of ours. It keeps its connection.

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

    /// Posts JSON; gives the time to the first text and to the end of a chunked answer.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        token: &str,
        body: &str,
    ) -> (Duration, Duration) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        let begun = Instant::now();
        self.stream
            .write_all(request.as_bytes())
            .await
            .expect("the server reads");
        let mut answer = Vec::new();
        let mut first = None;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = self
                .stream
                .read(&mut buffer)
                .await
                .expect("the server answers");
            assert!(
                length > 0,
                "the server left: {}",
                String::from_utf8_lossy(&answer)
            );
            answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
            if first.is_none()
                && contains(&answer, b"\"content\":\"x") | contains(&answer, b"\"content\": \"x")
            {
                first = Some(begun.elapsed());
            }
            if answer.ends_with(b"0\r\n\r\n") {
                return (first.expect("the answer has text"), begun.elapsed());
            }
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
