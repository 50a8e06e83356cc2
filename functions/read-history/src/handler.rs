//! HTTP in, HTTP out.

use shared::characters::{Audience, Characters};
use shared::http::{self, Answer, Problem, UserRequest};
use shared::memory::Memory;

const DEFAULT_MESSAGES: usize = 50;

pub(crate) async fn history(
    (memory, characters): (Memory, Characters),
    request: UserRequest,
) -> Result<Answer, Problem> {
    let character = request.character()?;
    let (most, before) = (request.limit(DEFAULT_MESSAGES)?, request.message("before")?);
    let user_name = request.user_name()?;
    let (invocation, user) = (&request.invocation, &request.user);
    let page = memory
        .messages(invocation, user, &character, most, before.as_ref())
        .await
        .map_err(Problem::history_unavailable)?
        .ok_or(Problem::MessageNotFound)?;
    let greeting = if page.messages.is_empty() && before.is_none() {
        let audience = Audience::new(user, &character, user_name.as_deref());
        characters.greeting(&character, &audience, invocation).await
    } else {
        None
    };
    Ok(http::history(&character, &page, greeting))
}
