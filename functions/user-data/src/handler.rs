//! HTTP in, HTTP out.

use shared::data::Data;
use shared::http::sse::{self, StreamingAnswer};
use shared::http::{self, Method, Problem, UserRequest, ndjson};

pub(crate) async fn data(data: Data, request: UserRequest) -> Result<StreamingAnswer, Problem> {
    if request.method() == Method::DELETE {
        let erased = data.erase(&request.invocation, &request.user).await;
        let erased = erased.map_err(Problem::data_unavailable)?;
        return Ok(sse::whole(http::erased(erased)));
    }
    let UserRequest {
        user, invocation, ..
    } = request;
    let export = data.export(user, invocation).await;
    Ok(ndjson::stream(export.map_err(Problem::data_unavailable)?))
}
