//! The functions that clients talk to.

use std::sync::{Arc, Mutex};

use serde_json::json;
use testkit::events::Event;
use testkit::runtime::Function;
use testkit::tokens::token;

/// The chat processes. One that is killed is replaced by another in its place.
pub(crate) struct Chats(pub(crate) Vec<Mutex<Arc<Function>>>);

impl Chats {
    pub(crate) fn get(&self, process: usize) -> Arc<Function> {
        Arc::clone(&self.0[process].lock().expect("not poisoned"))
    }

    /// Kills a process. From then on clients find the other one.
    pub(crate) fn replace(&self, process: usize, by: Function) {
        let mut place = self.0[process].lock().expect("not poisoned");
        let killed = std::mem::replace(&mut *place, Arc::new(by));
        drop(place);
        killed.kill();
    }
}

/// Lets a new process read each character, as any process has done that has served for a while. A character may be on
/// another server than the user, and one turn of a new process may have to wait for it.
pub(crate) async fn warm(chat: &Function, characters: &[&str]) {
    for character in characters {
        // It is refused once the character is known.
        let body = json!({ "character_id": character, "replaces": "nothing" });
        let event = Event::stream().token(&token("warm")).json(&body).http();
        for _ in 0..MOST_READS {
            let answer = chat.invoke(&event).await;
            if !answer.text().contains("the character cannot be looked up") {
                break;
            }
        }
    }
}

/// A server that is down stays down for seconds, and each read takes a second at most.
const MOST_READS: usize = 10;

/// The functions besides the chats.
pub(crate) struct Others {
    pub(crate) clear: Function,
    pub(crate) session: Function,
    pub(crate) stop: Function,
}
