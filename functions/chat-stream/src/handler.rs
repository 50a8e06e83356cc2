//! HTTP in, HTTP out.

use std::convert::Infallible;
use std::sync::Arc;

use lambda_http::Request;
use lambda_http::http::{Method, Response};
use shared::auth::Authenticator;
use shared::chat::{Ask, Chat};
use shared::http::sse::{self, StreamingBody};
use shared::http::{self, ChatBody, Problem};
use shared::telemetry::{Invocation, Telemetry};

/// Serves the route. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct Handler {
    telemetry: Telemetry,
    authenticator: Arc<Authenticator>,
    chat: Chat,
}

impl Handler {
    pub(crate) fn new(telemetry: Telemetry, authenticator: Authenticator, chat: Chat) -> Self {
        Self {
            telemetry,
            authenticator: Arc::new(authenticator),
            chat,
        }
    }

    /// The service, to wait for its turns when the process ends.
    pub(crate) fn chat(&self) -> Chat {
        self.chat.clone()
    }

    pub(crate) async fn handle(
        self,
        request: Request,
    ) -> Result<Response<StreamingBody>, Infallible> {
        let invocation = http::begin(&self.telemetry, &request);
        http::respond(&invocation, self.stream(&request, &invocation), sse::whole).await
    }

    async fn stream(
        &self,
        request: &Request,
        invocation: &Invocation,
    ) -> Result<Response<StreamingBody>, Problem> {
        http::expect_method(request, &[Method::POST], "POST")?;
        let user = http::authenticate(&self.authenticator, request, invocation).await?;
        let ChatBody {
            character,
            message,
            metadata,
        } = ChatBody::parse(request)?;
        let deadline = http::deadline(request);
        let turn = self
            .chat
            .begin(
                Ask {
                    user,
                    character,
                    message,
                    metadata,
                    deadline,
                },
                invocation.clone(),
            )
            .await?;
        Ok(sse::stream(turn))
    }
}
