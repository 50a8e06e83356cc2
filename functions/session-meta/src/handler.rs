//! HTTP in, HTTP out.

use shared::http::{self, Answer, Method, Problem, StateBody, UserRequest};
use shared::memory::Memory;

const DEFAULT_SESSIONS: usize = 20;

pub(crate) async fn route(memory: Memory, request: UserRequest) -> Result<Answer, Problem> {
    match request.resource() {
        "sessions" => list(memory, request).await,
        _ => session(memory, request).await,
    }
}

async fn list(memory: Memory, request: UserRequest) -> Result<Answer, Problem> {
    let (most, before) = (request.limit(DEFAULT_SESSIONS)?, request.place()?);
    let list = memory.sessions(&request.invocation, &request.user, most, before);
    let list = list.await.map_err(Problem::session_unavailable)?;
    Ok(http::sessions(&list))
}

async fn session(memory: Memory, request: UserRequest) -> Result<Answer, Problem> {
    let (invocation, user) = (&request.invocation, &request.user);
    let (character, session) = if request.method() == Method::PATCH {
        let StateBody { character, state } = StateBody::parse(&request)?;
        let session = memory.set_state(invocation, user, &character, state).await;
        (character, session)
    } else {
        let character = request.character()?;
        let session = memory.session(invocation, user, &character).await;
        (character, session)
    };
    session
        .map_err(Problem::session_unavailable)?
        .map(|session| http::session(&character, &session))
        .ok_or(Problem::SessionNotFound)
}
