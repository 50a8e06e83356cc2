//! Event in, answer out.

use shared::characters::Shelf;
use shared::chat::Understood;
use shared::config::ContextConfig;
use shared::http::{self, Answer, CharacterCommand, Problem};
use shared::telemetry::Invocation;

pub(crate) async fn command(
    (shelf, context): (Shelf, ContextConfig),
    invocation: Invocation,
    command: CharacterCommand,
) -> Result<Answer, Problem> {
    match command {
        CharacterCommand::Put { id, file } => {
            let read = Understood::read(&id, &file, &context);
            let (json, understood) = read.map_err(|error| Problem::unreadable_card(&error))?;
            let put = shelf.put(&invocation, &id, &json).await;
            put.map_err(Problem::characters_unavailable)?;
            Ok(http::put(&id, &understood))
        }
        CharacterCommand::Get(id) => {
            let stored = shelf.get(&invocation, &id).await;
            let stored = stored.map_err(Problem::characters_unavailable)?;
            let stored = stored.ok_or(Problem::CharacterNotFound)?;
            Ok(http::stored_character(&id, &stored))
        }
        CharacterCommand::Delete(id) => {
            let deleted = shelf.delete(&invocation, &id).await;
            let deleted = deleted.map_err(Problem::characters_unavailable)?;
            Ok(http::deleted_character(&id, deleted))
        }
        CharacterCommand::List { after, most } => {
            let listed = shelf.list(&invocation, after.as_deref(), most).await;
            let listed = listed.map_err(Problem::characters_unavailable)?;
            Ok(http::characters(&listed))
        }
    }
}
