//! What tells one change from another: the ids of clears, rewinds, erasures and changes of state, and the marks that all
//! but the last leave.

use std::fmt;

use uuid::Uuid;

/// Length of the part of a mark that is compared: the time of the change in Unix microseconds (16 digits until 2286), a
/// point, and the id of the change. `record/marks.lua` compares as much.
const MARK_LENGTH: usize = 35;

/// The id of a change: 18 digits. It must be a decimal number, because a mark begins with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChangeId(u64);

impl ChangeId {
    /// Returns a new id.
    pub(super) fn new() -> Self {
        // The last 62 bits are random.
        let (_, random) = Uuid::now_v7().as_u64_pair();
        Self(random % 1_000_000_000_000_000_000)
    }
}

impl fmt::Display for ChangeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:018}", self.0)
    }
}

/// The mark of the last clear or rewind of a session, or of the last erasure, as a turn has read it; empty if there was
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    bytes: [u8; MARK_LENGTH],
    length: usize,
}

impl Mark {
    /// Returns the part of a stored mark that is compared.
    pub(super) fn read(stored: Option<&[u8]>) -> Self {
        let stored = stored.unwrap_or_default();
        let mut mark = Self {
            bytes: [0; MARK_LENGTH],
            length: stored.len().min(MARK_LENGTH),
        };
        for (to, from) in mark.bytes.iter_mut().zip(stored) {
            *to = *from;
        }
        mark
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_18_digits_and_no_other_has_it() {
        let ids = [ChangeId(7), ChangeId::new(), ChangeId::new()].map(|id| id.to_string());
        assert_eq!(ids[0], "000000000000000007");
        assert!(ids.iter().all(|id| id.len() == 18), "{ids:?}");
        assert_ne!(ids[1], ids[2]);
    }

    #[test]
    fn a_mark_is_the_time_and_the_newest_id() {
        let newest = b"1764122400123456.000000000000000007";
        let stored = [newest.as_slice(), b"000000000000000006"].concat();
        assert_eq!(Mark::read(Some(&stored)).as_bytes(), newest);
        assert_eq!(
            Mark::read(Some(b"1764122400123456")).as_bytes(),
            b"1764122400123456"
        );
        assert_eq!(Mark::read(None).as_bytes(), b"");
    }
}
