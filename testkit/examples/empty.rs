//! The smallest streaming function. The benchmark compares cold starts with it: it shows the part that the runtime
//! takes.

use std::convert::Infallible;

use http_body_util::Full;
use lambda_http::{Request, Response, run_with_streaming_response_concurrent, service_fn};

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    let answer = |_: Request| async {
        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from_static(
            b"hello",
        ))))
    };
    run_with_streaming_response_concurrent(service_fn(answer)).await
}
