//! HTTP in, HTTP out.

use shared::chat::{Ask, Chat, Resume};
use shared::http::sse::{self, StreamingAnswer};
use shared::http::{self, ChatBody, Method, Problem, Protocol, Seen, UserRequest};

pub(crate) async fn stream(chat: Chat, request: UserRequest) -> Result<StreamingAnswer, Problem> {
    if request.method() == Method::GET {
        resume(chat, request).await
    } else {
        begin(chat, request).await
    }
}

async fn begin(chat: Chat, request: UserRequest) -> Result<StreamingAnswer, Problem> {
    let protocol = request.protocol()?;
    let key = request.idempotency_key()?;
    let ChatBody {
        character,
        message,
        replaces,
        user_name,
        greeting,
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
        user_name,
        greeting,
        metadata,
        key,
        deadline,
    };
    Ok(sse::stream(chat.begin(ask, invocation).await?, protocol))
}

async fn resume(chat: Chat, request: UserRequest) -> Result<StreamingAnswer, Problem> {
    let protocol = request.protocol()?;
    let character = request.character()?;
    let turn = request.turn()?;
    let after = match request.seen()? {
        Seen::Nothing => None,
        _ if protocol == Protocol::UiMessageStream => return Err(Problem::always_from_start()),
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
        Some(turn) => sse::stream(turn, protocol),
        None => sse::whole(http::nothing()),
    })
}
