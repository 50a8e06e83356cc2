//! HTTP in, HTTP out.

use std::convert::Infallible;
use std::sync::Arc;

use lambda_http::Request;
use lambda_http::http::Method;
use shared::auth::Authenticator;
use shared::http::{self, Answer, Problem};
use shared::memory::Memory;
use shared::telemetry::{Invocation, Telemetry};

/// Serves the route. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct Handler {
    telemetry: Telemetry,
    authenticator: Arc<Authenticator>,
    memory: Memory,
}

impl Handler {
    pub(crate) fn new(telemetry: Telemetry, authenticator: Authenticator, memory: Memory) -> Self {
        Self {
            telemetry,
            authenticator: Arc::new(authenticator),
            memory,
        }
    }

    pub(crate) async fn handle(self, request: Request) -> Result<Answer, Infallible> {
        let invocation = http::begin(&self.telemetry, &request);
        http::respond(
            &invocation,
            self.clear(&request, &invocation),
            std::convert::identity,
        )
        .await
    }

    async fn clear(&self, request: &Request, invocation: &Invocation) -> Result<Answer, Problem> {
        http::expect_method(request, &[Method::DELETE], "DELETE")?;
        let user = http::authenticate(&self.authenticator, request, invocation).await?;
        let character = http::character_of_query(request)?;
        invocation.note_character(&character);
        self.memory
            .observed(invocation)
            .clear(&user, &character)
            .await
            .map_err(Problem::clear_failed)?;
        Ok(http::cleared())
    }
}
