//! HTTP in, HTTP out.

use shared::characters::{Audience, Characters};
use shared::http::{self, Answer, Problem, UserRequest};

pub(crate) async fn character(
    characters: Characters,
    request: UserRequest,
) -> Result<Answer, Problem> {
    let (id, user_name) = (request.character()?, request.user_name()?);
    let character = characters.find(&id, &request.invocation).await?;
    let audience = Audience::new(&request.user, &id, user_name.as_deref());
    Ok(http::character(&id, &character, &audience))
}
