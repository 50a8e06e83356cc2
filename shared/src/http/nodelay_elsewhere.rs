//! The replacement of `nodelay.rs` for other systems than Linux, where the runtime's sockets cannot be reached.
//! Frames may be delayed there. Lambda runs on Linux.

/// Does nothing: the runtime's sockets cannot be reached on this system.
#[derive(Debug, Default)]
pub(super) struct NoDelay;

impl NoDelay {
    /// Does nothing: the runtime's sockets cannot be reached on this system.
    pub(super) fn ensure(&self) {}
}
