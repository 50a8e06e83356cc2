//! HTTP in, HTTP out.

use shared::chat::{Ask, Chat};
use shared::http::sse::{self, StreamingAnswer};
use shared::http::{ChatBody, Problem, UserRequest};

pub(crate) async fn stream(chat: Chat, request: UserRequest) -> Result<StreamingAnswer, Problem> {
    let ChatBody {
        character,
        message,
        metadata,
    } = ChatBody::parse(&request)?;
    let deadline = request.deadline();
    let UserRequest {
        user, invocation, ..
    } = request;
    let ask = Ask {
        user,
        character,
        message,
        metadata,
        deadline,
    };
    Ok(sse::stream(chat.begin(ask, invocation).await?))
}
