//! HTTP in, HTTP out.

use shared::http::{self, Answer, Problem, UserRequest};
use shared::turns::Turns;

pub(crate) async fn stop(turns: Option<Turns>, request: UserRequest) -> Result<Answer, Problem> {
    let character = request.character()?;
    let turn = request.turn()?;
    // Turns that are not recorded cannot be stopped.
    let turns = turns.ok_or(Problem::TurnNotFound)?;
    let stopped = turns
        .stop(&request.invocation, &request.user, &character, turn)
        .await
        .map_err(Problem::turn_unavailable)?;
    stopped.map(http::stopping).ok_or(Problem::TurnNotFound)
}
