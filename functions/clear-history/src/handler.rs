//! HTTP in, HTTP out.

use shared::http::{self, Answer, Problem, UserRequest};
use shared::memory::{Memory, Rewind};

pub(crate) async fn clear(memory: Memory, request: UserRequest) -> Result<Answer, Problem> {
    let character = request.character()?;
    let from = request.message("from")?;
    let (invocation, user) = (&request.invocation, &request.user);
    let Some(from) = from else {
        let cleared = memory.clear(invocation, user, &character).await;
        cleared.map_err(Problem::clear_failed)?;
        return Ok(http::cleared());
    };
    let rewound = memory.rewind(invocation, user, &character, &from).await;
    match rewound.map_err(Problem::history_unavailable)? {
        Rewind::Done => Ok(http::rewound()),
        Rewind::Unknown => Err(Problem::MessageNotFound),
    }
}
