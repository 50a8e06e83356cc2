//! HTTP in, HTTP out.

use shared::http::{self, Answer, Problem, UserRequest};
use shared::memory::Memory;

const DEFAULT_MESSAGES: usize = 50;

pub(crate) async fn history(memory: Memory, request: UserRequest) -> Result<Answer, Problem> {
    let character = request.character()?;
    let (most, before) = (request.limit(DEFAULT_MESSAGES)?, request.message("before")?);
    let (invocation, user) = (&request.invocation, &request.user);
    let page = memory
        .messages(invocation, user, &character, most, before.as_ref())
        .await
        .map_err(Problem::history_unavailable)?
        .ok_or(Problem::MessageNotFound)?;
    Ok(http::history(&character, &page))
}
