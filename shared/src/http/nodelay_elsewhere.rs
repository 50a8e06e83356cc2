//! Where the runtime's sockets cannot be reached, frames leave when the operating system sends them. Lambda is Linux.

/// Does nothing.
#[derive(Debug, Default)]
pub(super) struct NoDelay;

impl NoDelay {
    /// Does nothing.
    pub(super) fn ensure(&self) {}
}
