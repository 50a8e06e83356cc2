//! HTTP in, HTTP out.

use shared::chat::{Ask, Chat, Resume};
use shared::http::sse::{self, StreamingAnswer};
use shared::http::{self, ChatBody, Method, Problem, Seen, UserRequest};

pub(crate) async fn stream(chat: Chat, request: UserRequest) -> Result<StreamingAnswer, Problem> {
    if request.method() == Method::GET {
        resume(chat, request).await
    } else {
        begin(chat, request).await
    }
}

async fn begin(chat: Chat, request: UserRequest) -> Result<StreamingAnswer, Problem> {
    let key = request.idempotency_key()?;
    let ChatBody {
        character,
        message,
        replaces,
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
        replaces,
        metadata,
        key,
        deadline,
    };
    Ok(sse::stream(chat.begin(ask, invocation).await?))
}

async fn resume(chat: Chat, request: UserRequest) -> Result<StreamingAnswer, Problem> {
    let character = request.character()?;
    let turn = request.turn()?;
    let after = match request.seen()? {
        Seen::Nothing => None,
        Seen::Text(bytes) => Some(bytes),
        Seen::Everything => return Ok(sse::whole(http::nothing())),
    };
    let deadline = request.deadline();
    let UserRequest {
        user, invocation, ..
    } = request;
    let resume = Resume {
        user,
        character,
        turn,
        after,
        deadline,
    };
    Ok(match chat.resume(resume, invocation).await? {
        Some(turn) => sse::stream(turn),
        None => sse::whole(http::nothing()),
    })
}
