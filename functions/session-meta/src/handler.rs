//! HTTP in, HTTP out.

use std::convert::Infallible;
use std::sync::Arc;

use lambda_http::Request;
use lambda_http::http::Method;
use shared::auth::Authenticator;
use shared::http::{self, Answer, Problem, StateBody};
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
            self.session(&request, &invocation),
            std::convert::identity,
        )
        .await
    }

    async fn session(&self, request: &Request, invocation: &Invocation) -> Result<Answer, Problem> {
        http::expect_method(request, &[Method::GET, Method::PATCH], "GET, PATCH")?;
        let user = http::authenticate(&self.authenticator, request, invocation).await?;
        let memory = self.memory.observed(invocation);
        let (character, session) = if request.method() == Method::PATCH {
            let StateBody { character, state } = StateBody::parse(request)?;
            invocation.note_character(&character);
            let session = memory.set_state(&user, &character, state).await;
            (character, session)
        } else {
            let character = http::character_of_query(request)?;
            invocation.note_character(&character);
            let session = memory.session(&user, &character).await;
            (character, session)
        };
        let session = session.map_err(Problem::session_unavailable)?;
        session
            .map(|session| http::session(&character, &session))
            .ok_or(Problem::SessionNotFound)
    }
}
