//! HTTP in, HTTP out.

use std::convert::Infallible;
use std::sync::Arc;

use lambda_http::Request;
use lambda_http::http::Method;
use shared::auth::Authenticator;
use shared::http::{self, Answer, Problem, StateBody};
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
        http::respond(self.session(&request), std::convert::identity).await
    }

    async fn session(&self, request: &Request) -> Result<Answer, Problem> {
        http::expect_method(request, &[Method::GET, Method::PATCH], "GET, PATCH")?;
        let user = http::authenticate(&self.authenticator, request).await?;
        let (character, session) = if request.method() == Method::PATCH {
            let StateBody { character, state } = StateBody::parse(request)?;
            let session = self.memory.set_state(&user, &character, state).await;
            (character, session)
        } else {
            let character = http::character_of_query(request)?;
            let session = self.memory.session(&user, &character).await;
            (character, session)
        };
        let session = session.map_err(Problem::session_unavailable)?;
        session
            .map(|session| http::session(&character, &session))
            .ok_or(Problem::SessionNotFound)
    }
}
