//! What the readers of turns were told, one stream at a time, and what that makes of the turns.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::checker::{Change, Clear, Session, Stored, Turn};
use super::promptness::{Control, Hit};

/// The time after which what a single master has acknowledged is on its replicas too.
const REPLICATED_WITHIN: Duration = Duration::from_secs(1);

/// How a stream was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// A message, which begins a turn or, with a key, repeats one.
    Post,
    /// A return to a turn that is known.
    Resume,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// With its last event: all of it to the byte, and its data.
    Last { block: String, data: Value },
    /// Without a last event, although its client was still there.
    Cut,
    /// Its client left.
    Left,
    /// It did not begin.
    Refused { status: u16, code: String },
}

/// A stream, as its reader saw it.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) session: Session,
    pub(crate) user: usize,
    pub(crate) client: usize,
    /// The message whose reply this is; unique in the run, as is its key.
    pub(crate) said: String,
    pub(crate) request: Request,
    pub(crate) process: usize,
    pub(crate) handed_over: Instant,
    /// When the first event came.
    pub(crate) begun: Option<Instant>,
    /// When the last event came, or the stream ended without one.
    pub(crate) ended: Instant,
    pub(crate) turn: Option<String>,
    pub(crate) resumable: bool,
    /// The text, with what the reader had seen before it came back.
    pub(crate) text: String,
    pub(crate) end: End,
}

impl Reading {
    /// Returns the last event, if it came.
    pub(crate) fn last(&self) -> Option<&Value> {
        match &self.end {
            End::Last { data, .. } => Some(data),
            End::Cut | End::Left | End::Refused { .. } => None,
        }
    }

    /// Returns whether the last event says that the turn is stored.
    pub(crate) fn is_saved(&self) -> bool {
        self.last().is_some_and(|last| last["saved"] == true)
    }

    /// Returns the last event if the reply is complete or was stopped, and did not fail.
    pub(crate) fn done(&self) -> Option<&Value> {
        self.last().filter(|last| last["done"] == true)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.last().is_some_and(|last| last["code"] == "turn_lost")
    }

    pub(crate) fn during(&self) -> Range<Instant> {
        self.handed_over..self.ended
    }
}

/// A request to stop a turn.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) said: String,
    pub(crate) turn: String,
    pub(crate) issued: Instant,
    pub(crate) answered: Instant,
    pub(crate) status: u16,
}

/// All that is known when a run is over.
pub(crate) struct Evidence<'a> {
    pub(crate) readings: &'a [Reading],
    pub(crate) stops: &'a [Stop],
    pub(crate) clears: &'a [Clear],
    pub(crate) hits: &'a [Hit],
    pub(crate) controls: &'a [Control],
    pub(crate) stored: &'a BTreeMap<Session, Stored>,
    /// Whether there is one server alone, which loses nothing that it has acknowledged.
    pub(crate) is_single: bool,
    /// Whether what is late counts.
    pub(crate) judges_times: bool,
    /// When all processes had ended.
    pub(crate) over: Instant,
}

/// All streams of one message.
pub(crate) type Group<'a> = Vec<&'a Reading>;

impl<'a> Evidence<'a> {
    /// Returns the streams of each message.
    pub(crate) fn groups(&self) -> Vec<Group<'a>> {
        let mut groups: BTreeMap<&str, Group<'a>> = BTreeMap::new();
        for reading in self.readings {
            groups.entry(&reading.said).or_default().push(reading);
        }
        groups.into_values().collect()
    }

    /// Returns whether a fault may have kept a user's server from storing something.
    pub(crate) fn is_touched(&self, user: usize, during: &Range<Instant>) -> bool {
        let touches = |hit: &Hit| hit.touched.contains(&user) && hit.overlaps(during);
        self.hits.iter().any(touches)
    }

    /// Returns whether a process was killed, any or this one.
    pub(crate) fn is_killed(&self, process: Option<usize>, during: &Range<Instant>) -> bool {
        self.hits.iter().any(|hit| {
            hit.is_kill && (process.is_none() || hit.process == process) && hit.overlaps(during)
        })
    }

    /// Returns whether a clear may explain that a turn is gone, whatever the clear's client was told.
    pub(crate) fn may_be_cleared(&self, session: &Session, during: &Range<Instant>) -> bool {
        self.clears.iter().any(|clear| {
            clear.session == *session && clear.ended >= during.start && clear.issued <= during.end
        })
    }

    /// Returns whether what a reader was told counts as a promise. The owner of a turn speaks after the replicas have
    /// it; a reader may see the record of a commit that they do not have yet.
    pub(crate) fn is_promise(&self, group: &Group<'_>, reading: &Reading) -> bool {
        if !reading.is_saved() {
            return false;
        }
        // The owner is one of those who sent the message.
        let mut posts = group.iter().filter(|one| one.request == Request::Post);
        let owner_says_so = posts.all(|post| post.is_saved() && post.turn == reading.turn);
        let since = span(group).start;
        self.is_single
            || owner_says_so
            || !self.is_touched(reading.user, &(since..reading.ended + REPLICATED_WITHIN))
    }

    /// Returns the changes of states. One that was acknowledged counts as one that was given up if the replicas may not
    /// have it: a change does not wait for them.
    pub(crate) fn changes(&self, told: &[Change]) -> Vec<Change> {
        let mut changes = told.to_vec();
        for change in &mut changes {
            let during = change.issued..change.ended + REPLICATED_WITHIN;
            change.done &= self.is_single || !self.is_touched(change.user, &during);
        }
        changes
    }

    /// Returns what happened to the messages that these violations name, one line for each stream and stop and for each
    /// fault meanwhile, in the order of their beginnings.
    pub(crate) fn stories(&self, violations: &[String]) -> Vec<String> {
        let named = |said: &str| {
            let name = said.split(' ').next().unwrap_or(said);
            violations.iter().any(|text| {
                let mut words =
                    text.split(|part: char| !part.is_ascii_alphanumeric() && part != '-');
                words.any(|word| word == name)
            })
        };
        let mut lines: Vec<(Instant, String)> = Vec::new();
        for group in self.groups().iter().filter(|group| named(&group[0].said)) {
            lines.extend(
                group
                    .iter()
                    .map(|one| (one.handed_over, format!("{one:?}"))),
            );
            let stops = self.stops.iter().filter(|stop| stop.said == group[0].said);
            lines.extend(stops.map(|stop| (stop.issued, format!("{stop:?}"))));
            let hits = self.hits.iter().filter(|hit| hit.overlaps(&span(group)));
            lines.extend(hits.map(|hit| (hit.during.start, format!("{}: {hit:?}", hit.name))));
        }
        lines.sort_by_key(|(at, _)| *at);
        lines.dedup_by(|one, other| one.1 == other.1);
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// Returns the turns, as the clients know them.
    pub(crate) fn turns(&self) -> Vec<Turn> {
        self.groups()
            .iter()
            .filter_map(|group| self.turn(group))
            .collect()
    }

    fn turn(&self, group: &Group<'_>) -> Option<Turn> {
        let first = group.first()?;
        let posts = || group.iter().filter(|one| one.request == Request::Post);
        // If several turns may have begun, it is not known which of them is stored.
        let is_one =
            posts().all(|post| post.turn == first.turn || matches!(post.end, End::Refused { .. }));
        let begun = group.iter().filter_map(|one| one.begun).min();
        let has_ended = posts().all(|post| post.last().is_some())
            || (self.is_single && group.iter().any(|one| one.last().is_some()));
        let ended = span(group).end;
        Some(Turn {
            session: first.session.clone(),
            client: first.client,
            said: first.said.clone(),
            handed_over: span(group).start,
            begun: begun.filter(|_| is_one && first.turn.is_some()),
            // A turn that nobody saw end may end at any time.
            ended: if has_ended { ended } else { self.over },
            saved: group.iter().any(|reading| self.is_promise(group, reading)),
        })
    }
}

/// Returns the time from the first request to the last event.
pub(crate) fn span(group: &Group<'_>) -> Range<Instant> {
    let now = Instant::now();
    let start = group.iter().map(|one| one.handed_over).min();
    let end = group.iter().map(|one| one.ended).max();
    start.unwrap_or(now)..end.unwrap_or(now)
}

/// Returns the streams of each turn.
pub(crate) fn by_turn<'a>(group: &Group<'a>) -> BTreeMap<&'a str, Group<'a>> {
    let mut turns: BTreeMap<&str, Group<'a>> = BTreeMap::new();
    for reading in group {
        if let Some(turn) = &reading.turn {
            turns.entry(turn).or_default().push(reading);
        }
    }
    turns
}
