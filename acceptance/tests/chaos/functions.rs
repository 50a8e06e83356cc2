//! The functions that clients talk to.

use std::sync::{Arc, Mutex};

use testkit::runtime::Function;

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

/// The functions besides the chats.
pub(crate) struct Others {
    pub(crate) clear: Function,
    pub(crate) session: Function,
    pub(crate) stop: Function,
}
