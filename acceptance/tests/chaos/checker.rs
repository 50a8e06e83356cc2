//! What the clients were told, against what Redis holds.
//!
//! The rules are those of the contract. Times are the clients' own: an event is certain to have been before another only if
//! its end was before the other's beginning.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use serde_json::Value;

/// A session, by its user and character.
pub(crate) type Session = (String, String);

/// A turn, as its client saw it.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) session: Session,
    pub(crate) client: usize,
    /// What was said; unique in the run.
    pub(crate) said: String,
    pub(crate) handed_over: Instant,
    /// When the `start` event came: by then the turn has begun. `None` if it is not known which turn is stored.
    pub(crate) begun: Option<Instant>,
    /// After this it is not stored any more.
    pub(crate) ended: Instant,
    /// Whether somebody was promised that it is stored.
    pub(crate) saved: bool,
}

/// A clear, as its client saw it.
#[derive(Debug, Clone)]
pub(crate) struct Clear {
    pub(crate) session: Session,
    pub(crate) issued: Instant,
    pub(crate) ended: Instant,
    pub(crate) done: bool,
}

/// A change of a session's state, as its client saw it.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) session: Session,
    pub(crate) user: usize,
    pub(crate) state: &'static str,
    pub(crate) issued: Instant,
    pub(crate) ended: Instant,
    pub(crate) done: bool,
}

/// What Redis holds of a session in the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored {
    /// The elements, oldest first.
    pub(crate) messages: Vec<Value>,
    /// `message_count` of its meta.
    pub(crate) message_count: Option<i64>,
    /// `state` of its meta.
    pub(crate) state: Option<String>,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    /// One sentence each.
    pub(crate) violations: Vec<String>,
}

/// Checks every session.
pub(crate) fn check(
    turns: &[Turn],
    clears: &[Clear],
    changes: &[Change],
    stored: &BTreeMap<Session, Stored>,
) -> Verdict {
    let mut verdict = Verdict {
        acknowledged: turns.iter().filter(|turn| turn.saved).count(),
        ..Verdict::default()
    };
    let said: HashMap<&str, &Turn> = turns
        .iter()
        .map(|turn| (turn.said.as_str(), turn))
        .collect();
    for (session, stored) in stored {
        let mut problem = |text: String| {
            verdict
                .violations
                .push(format!("{}/{}: {text}", session.0, session.1))
        };
        let clears: Vec<&Clear> = clears
            .iter()
            .filter(|clear| clear.session == *session)
            .collect();

        let mut places: HashMap<&str, usize> = HashMap::new();
        for (place, pair) in stored.messages.chunks(2).enumerate() {
            let content = |index: usize| {
                pair.get(index)
                    .and_then(|message| message["content"].as_str())
                    .unwrap_or_default()
            };
            let roles: Vec<_> = pair
                .iter()
                .map(|message| message["role"].as_str())
                .collect();
            if roles != [Some("user"), Some("assistant")] {
                problem(format!("a turn is not whole: {pair:?}"));
                break;
            }
            let is_whole = pair.get(1).is_none_or(|reply| reply["metadata"].is_null());
            if is_whole && !content(1).contains(&format!("“{}”", content(0))) {
                problem(format!("a reply belongs to another message: {pair:?}"));
            }
            if places.insert(content(0), place).is_some() {
                verdict.doubled += 1;
                problem(format!("stored twice: {}", content(0)));
            }
            match said.get(content(0)) {
                None => problem(format!("nobody said: {}", content(0))),
                Some(turn) if turn.session != *session => {
                    problem(format!("said to somebody else: {}", content(0)))
                }
                Some(turn) => {
                    if let Some(clear) = clears.iter().find(|clear| {
                        clear.done && turn.begun.is_some_and(|begun| begun < clear.issued)
                    }) {
                        problem(format!(
                            "began before a clear and is here after it: {} ({clear:?})",
                            content(0)
                        ));
                    }
                }
            }
        }

        for turn in turns
            .iter()
            .filter(|turn| turn.saved && turn.session == *session)
        {
            // A clear that may have come after the turn began explains that it is gone, whatever its client was told.
            let may_be_cleared = clears.iter().any(|clear| clear.ended >= turn.handed_over);
            if !places.contains_key(turn.said.as_str()) && !may_be_cleared {
                verdict.lost += 1;
                problem(format!("acknowledged and lost: {}", turn.said));
            }
        }

        let mut newest: HashMap<usize, (usize, &Turn)> = HashMap::new();
        let mut own: Vec<&Turn> = turns
            .iter()
            .filter(|turn| turn.session == *session)
            .collect();
        own.sort_by_key(|turn| turn.handed_over);
        for turn in own {
            let Some(place) = places.get(turn.said.as_str()) else {
                continue;
            };
            if let Some((before, earlier)) = newest.insert(turn.client, (*place, turn))
                && before > *place
                && earlier.saved
                && earlier.ended <= turn.handed_over
            {
                problem(format!(
                    "{} is stored after {}, which the client said later",
                    earlier.said, turn.said
                ));
            }
        }

        if let Some(state) = &stored.state
            && !may_be_last(session, state, turns, changes)
        {
            let own = changes.iter().filter(|change| change.session == *session);
            let own: Vec<_> = own.collect();
            problem(format!(
                "the state {state} is of an earlier change: {own:?}"
            ));
        }

        let length = i64::try_from(stored.messages.len()).unwrap_or(i64::MAX);
        if stored.message_count.unwrap_or(0) != length {
            problem(format!(
                "counted {:?}, but {length} are there",
                stored.message_count
            ));
        }
    }
    verdict
}

/// Returns whether the last of all that set a session's state may have set this one. A stored turn sets `ACTIVE`. What
/// was given up may have taken effect before that, and not later.
fn may_be_last(session: &Session, state: &str, turns: &[Turn], changes: &[Change]) -> bool {
    let of_turns = turns
        .iter()
        .filter(|turn| turn.session == *session)
        .map(|turn| ("ACTIVE", turn.handed_over, turn.ended, turn.saved));
    let of_changes = changes
        .iter()
        .filter(|change| change.session == *session)
        .map(|change| (change.state, change.issued, change.ended, change.done));
    let all: Vec<_> = of_turns.chain(of_changes).collect();
    all.iter().any(|(sets, _, ended, _)| {
        let is_superseded =
            |(_, issued, _, done): &(&str, Instant, Instant, bool)| *done && issued > ended;
        *sets == state && !all.iter().any(is_superseded)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    struct Scene {
        start: Instant,
        turns: Vec<Turn>,
        clears: Vec<Clear>,
        changes: Vec<Change>,
        stored: Stored,
    }

    fn session() -> Session {
        ("u".into(), "luna".into())
    }

    impl Scene {
        fn new() -> Self {
            Self {
                start: Instant::now(),
                turns: Vec::new(),
                clears: Vec::new(),
                changes: Vec::new(),
                stored: Stored::default(),
            }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn turn(mut self, said: &str, begun: u64, ended: u64, saved: bool) -> Self {
            self.turns.push(Turn {
                session: session(),
                client: 0,
                said: said.into(),
                handed_over: self.at(begun),
                begun: Some(self.at(begun)),
                ended: self.at(ended),
                saved,
            });
            self
        }

        fn clear(mut self, issued: u64, ended: u64, done: bool) -> Self {
            self.clears.push(Clear {
                session: session(),
                issued: self.at(issued),
                ended: self.at(ended),
                done,
            });
            self
        }

        fn change(mut self, state: &'static str, issued: u64, ended: u64, done: bool) -> Self {
            self.changes.push(Change {
                session: session(),
                user: 0,
                state,
                issued: self.at(issued),
                ended: self.at(ended),
                done,
            });
            self
        }

        fn has_state(mut self, state: &str) -> Self {
            self.stored.state = Some(state.to_owned());
            self
        }

        fn holds(mut self, said: &[&str]) -> Self {
            for said in said {
                self.stored
                    .messages
                    .push(json!({ "role": "user", "content": said }));
                self.stored
                    .messages
                    .push(json!({ "role": "assistant", "content": format!("“{said}”") }));
            }
            self.stored.message_count = i64::try_from(self.stored.messages.len()).ok();
            self
        }

        fn violations(&self) -> Vec<String> {
            check(
                &self.turns,
                &self.clears,
                &self.changes,
                &BTreeMap::from([(session(), self.stored.clone())]),
            )
            .violations
        }

        fn is_clean(&self) -> bool {
            self.violations().is_empty()
        }
    }

    #[test]
    fn what_was_promised_is_clean() {
        let scene = Scene::new()
            .turn("a", 0, 1, true)
            .turn("b", 2, 3, false)
            .turn("c", 4, 5, true);
        assert!(scene.holds(&["a", "c"]).is_clean());
        // Not acknowledged and there all the same: an answer was lost.
        let scene = Scene::new().turn("a", 0, 1, true).turn("b", 2, 3, false);
        assert!(scene.holds(&["a", "b"]).is_clean());
    }

    #[test]
    fn every_broken_promise_is_found() {
        assert!(!Scene::new().turn("a", 0, 1, true).is_clean(), "lost");
        assert!(
            !Scene::new()
                .turn("a", 0, 1, true)
                .holds(&["a", "a"])
                .is_clean(),
            "doubled"
        );
        assert!(
            !Scene::new()
                .turn("a", 0, 1, true)
                .holds(&["a", "x"])
                .is_clean(),
            "leaked"
        );
        assert!(
            !Scene::new()
                .turn("a", 0, 1, true)
                .turn("b", 2, 3, true)
                .holds(&["b", "a"])
                .is_clean(),
            "reordered"
        );
        let mut half = Scene::new().turn("a", 0, 1, true).holds(&["a"]);
        half.stored.messages.pop();
        assert!(!half.is_clean(), "half");
        let mut miscounted = Scene::new().turn("a", 0, 1, true).holds(&["a"]);
        miscounted.stored.message_count = Some(4);
        assert!(!miscounted.is_clean(), "miscounted");
        let mut mixed = Scene::new()
            .turn("a", 0, 1, true)
            .turn("b", 0, 1, true)
            .holds(&["a", "b"]);
        mixed.stored.messages.swap(1, 3);
        assert!(!mixed.is_clean(), "replies exchanged");
    }

    #[test]
    fn a_state_is_of_the_last_change_or_of_one_beside_it() {
        let scene = || {
            Scene::new()
                .turn("a", 0, 1, true)
                .change("ENDED", 2, 4, true)
                .change("INACTIVE", 3, 5, false)
                .holds(&["a"])
        };
        assert!(scene().has_state("ENDED").is_clean());
        assert!(scene().has_state("INACTIVE").is_clean(), "beside it");
        assert!(!scene().has_state("ACTIVE").is_clean(), "before it");
        let later = scene().change("ACTIVE", 6, 7, true);
        assert!(!later.has_state("INACTIVE").is_clean(), "it was given up");
        let failed = scene().change("ACTIVE", 6, 7, false);
        assert!(
            failed.has_state("ENDED").is_clean(),
            "nothing supersedes it"
        );
    }

    #[test]
    fn a_clear_takes_what_began_before_it_and_nothing_else() {
        assert!(
            Scene::new()
                .turn("a", 0, 1, true)
                .clear(2, 3, true)
                .is_clean()
        );
        assert!(
            !Scene::new()
                .turn("a", 0, 1, true)
                .clear(2, 3, true)
                .holds(&["a"])
                .is_clean(),
            "before"
        );
        assert!(
            !Scene::new()
                .turn("a", 0, 9, true)
                .clear(2, 3, true)
                .holds(&["a"])
                .is_clean(),
            "around"
        );
        assert!(
            !Scene::new()
                .clear(0, 1, true)
                .turn("a", 2, 3, true)
                .is_clean(),
            "after"
        );
        // What a clear that failed did is not known.
        assert!(
            Scene::new()
                .turn("a", 0, 1, true)
                .clear(2, 3, false)
                .is_clean()
        );
        assert!(
            Scene::new()
                .turn("a", 0, 1, true)
                .clear(2, 3, false)
                .holds(&["a"])
                .is_clean()
        );
    }
}
