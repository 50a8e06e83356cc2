//! The quickest possible function: a loop over one blocking socket. What is measured with it is the cost of the
//! stand-in for the platform. The benchmark starts itself again as this function.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// The variable that names the kind of answer.
pub(crate) const KIND: &str = "BENCH_QUICKEST";
/// The number of chunks of a streamed answer, each sent separately.
pub(crate) const CHUNKS: usize = 1_000;

/// Serves as the function until the platform is gone, and returns whether this process was started as one.
pub(crate) fn was_here() -> bool {
    let Ok(kind) = std::env::var(KIND) else {
        return false;
    };
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API").expect("a platform");
    let mut socket = TcpStream::connect(address).expect("the platform listens");
    socket.set_nodelay(true).expect("a TCP socket");
    let mut answers = BufReader::new(socket.try_clone().expect("a socket"));
    loop {
        write(
            &mut socket,
            "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: platform\r\n\r\n",
        );
        let Some(id) = read_answer(&mut answers) else {
            return true;
        };
        let path = format!("POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1");
        if kind == "streamed" {
            let prelude = format!("{}{}", r#"{"statusCode":200,"headers":{}}"#, "\0".repeat(8));
            let head = format!(
                "{path}\r\nhost: platform\r\nlambda-runtime-function-response-mode: streaming\r\n\
                 transfer-encoding: chunked\r\n\r\n{:x}\r\n{prelude}\r\n",
                prelude.len()
            );
            write(&mut socket, &head);
            let frame = "id: 1\nevent: message\ndata: {\"content\":\"x\",\"done\":false}\n\n";
            let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
            for _ in 0..CHUNKS {
                write(&mut socket, &chunk);
            }
            write(&mut socket, "0\r\n\r\n");
        } else {
            let body = r#"{"statusCode":200,"body":""}"#;
            let length = body.len();
            write(
                &mut socket,
                &format!("{path}\r\nhost: platform\r\ncontent-length: {length}\r\n\r\n{body}"),
            );
        }
        read_answer(&mut answers);
    }
}

fn write(socket: &mut TcpStream, text: &str) {
    // A platform that is gone shows when it is read from.
    let _ = socket.write_all(text.as_bytes());
}

/// Reads an answer of known length to its end. Returns the id of the invocation in it, which may be empty, or nothing
/// at the end.
fn read_answer(answers: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if answers.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match name {
            "lambda-runtime-aws-request-id" => value.clone_into(&mut id),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    answers.read_exact(&mut vec![0; length]).ok()?;
    Some(id)
}
