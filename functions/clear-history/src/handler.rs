//! HTTP in, HTTP out.

use std::convert::Infallible;
use std::sync::Arc;

use lambda_http::Request;
use lambda_http::http::Method;
use shared::auth::Authenticator;
use shared::http::{self, Answer, Problem};
use shared::memory::Memory;

/// Serves the route. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct Handler {
    authenticator: Arc<Authenticator>,
    memory: Memory,
}

impl Handler {
    pub(crate) fn new(authenticator: Authenticator, memory: Memory) -> Self {
        Self {
            authenticator: Arc::new(authenticator),
            memory,
        }
    }

    pub(crate) async fn handle(self, request: Request) -> Result<Answer, Infallible> {
        http::respond(self.clear(&request), std::convert::identity).await
    }

    async fn clear(&self, request: &Request) -> Result<Answer, Problem> {
        http::expect_method(request, &[Method::DELETE], "DELETE")?;
        let user = http::authenticate(&self.authenticator, request).await?;
        let character = http::character_of_query(request)?;
        self.memory
            .clear(&user, &character)
            .await
            .map_err(Problem::clear_failed)?;
        Ok(http::cleared())
    }
}
