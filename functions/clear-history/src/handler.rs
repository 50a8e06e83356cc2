//! HTTP in, HTTP out.

use shared::http::{self, Answer, Problem, UserRequest};
use shared::memory::Memory;

pub(crate) async fn clear(memory: Memory, request: UserRequest) -> Result<Answer, Problem> {
    let character = request.character()?;
    memory
        .clear(&request.invocation, &request.user, &character)
        .await
        .map_err(Problem::clear_failed)?;
    Ok(http::cleared())
}
