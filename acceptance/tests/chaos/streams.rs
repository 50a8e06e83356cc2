//! One turn for a key, and the same stream for everyone who reads it.
//!
//! On the single server most rules hold whatever strikes, because it loses nothing. What replicas did not have yet may
//! be lost with their master; there a fault excuses what nothing else does.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::readings::{End, Evidence, Group, Reading, Request, by_turn, span};

/// The time after its last sign of life after which the owner of a turn is taken for dead.
const LEASE: Duration = Duration::from_secs(10);

/// Returns one sentence for each promise that was broken.
pub(crate) fn judge(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for group in evidence.groups() {
        let said = group.first().map_or("", |reading| short(&reading.said));
        let mut found = one_turn(evidence, &group);
        for readings in by_turn(&group).values() {
            found.extend(same_text(readings));
            found.extend(same_end(evidence, readings));
        }
        for reading in &group {
            found.extend(whole_answer(evidence, &group, reading));
        }
        violations.extend(
            found
                .into_iter()
                .map(|problem| format!("{said}: {problem}")),
        );
    }
    violations
}

/// Returns the beginning of a message, which is unique.
pub(crate) fn short(said: &str) -> &str {
    said.split(' ').next().unwrap_or(said)
}

/// All requests with one key are one turn, and one is stored.
fn one_turn(evidence: &Evidence<'_>, group: &Group<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    let promised: BTreeSet<_> = group
        .iter()
        .filter(|reading| evidence.is_promise(group, reading))
        .filter_map(|reading| reading.turn.as_deref())
        .collect();
    if promised.len() > 1 {
        problems.push(format!("two turns were said to be stored: {promised:?}"));
    }
    // A turn that could not be claimed is of its own.
    let mut claimed: Vec<(Group<'_>, &str)> = by_turn(group)
        .into_iter()
        .filter(|(_, readings)| {
            readings
                .iter()
                .any(|one| one.request == Request::Post && one.resumable)
        })
        .map(|(turn, readings)| (readings, turn))
        .collect();
    claimed.sort_by_key(|(readings, _)| span(readings).start);
    let during = span(group);
    let is_struck = evidence.is_touched(group.first().map_or(0, |one| one.user), &during)
        && (!evidence.is_single || length(&during) > LEASE);
    for ((earlier, one), (_, other)) in claimed.iter().zip(claimed.iter().skip(1)) {
        let may_be_lost = earlier.iter().any(|reading| reading.is_lost());
        if !may_be_lost && !is_struck && !evidence.is_killed(None, &during) {
            problems.push(format!("two turns for one key: {one}, then {other}"));
        }
    }
    problems
}

/// All readers of a turn see the same text, up to where they left.
fn same_text(readings: &Group<'_>) -> Vec<String> {
    let done = readings.iter().find(|reading| reading.done().is_some());
    let longest = readings.iter().max_by_key(|reading| reading.text.len());
    let Some(whole) = done.or(longest) else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    for reading in readings {
        let is_same = if reading.done().is_some() {
            reading.text == whole.text
        } else {
            whole.text.starts_with(&reading.text)
        };
        if !is_same {
            problems.push(format!(
                "the text of one turn differs: {:?} and {:?}",
                whole.text, reading.text
            ));
        }
        if reading
            .done()
            .is_some_and(|last| last["finish_reason"] == "stop")
            && !reading.text.contains(&format!("“{}”", reading.said))
        {
            problems.push(format!("the reply is not whole: {:?}", reading.text));
        }
    }
    problems
}

/// All readers of a turn see the same last event.
fn same_end(evidence: &Evidence<'_>, readings: &Group<'_>) -> Vec<String> {
    let user = readings.first().map_or(0, |reading| reading.user);
    let is_touched = evidence.is_touched(user, &span(readings));
    let mut ends = BTreeSet::new();
    for reading in readings {
        let End::Last { block, data } = &reading.end else {
            continue;
        };
        // An owner that was not answered does not know how its turn is stored.
        if is_touched && data["unsaved"] == "memory" {
            continue;
        }
        if is_touched && !evidence.is_single {
            if !reading.is_lost() {
                let of_the_reply = ["msg_id", "user_msg_id", "finish_reason", "usage"];
                ends.insert(of_the_reply.map(|field| data[field].to_string()).join(" "));
            }
            continue;
        }
        ends.insert(block.clone());
    }
    if ends.len() > 1 {
        vec![format!("one turn ended in two ways: {ends:?}")]
    } else {
        Vec::new()
    }
}

/// A stream that was not left ends with a last event that makes sense, and a turn that is remembered is found.
fn whole_answer(evidence: &Evidence<'_>, group: &Group<'_>, reading: &Reading) -> Option<String> {
    let begun = span(group).start;
    let until_now: Range<Instant> = begun..reading.ended;
    let is_touched = evidence.is_touched(reading.user, &until_now);
    let posts = group.iter().filter(|one| one.request == Request::Post);
    let may_read_the_record = reading.request == Request::Resume || posts.count() > 1;
    match &reading.end {
        End::Left => None,
        End::Cut => {
            let is_excused = evidence.is_killed(Some(reading.process), &reading.during())
                || (may_read_the_record && evidence.is_touched(reading.user, &reading.during()));
            (!is_excused).then(|| format!("a stream ended without a last event: {reading:?}"))
        }
        End::Last { data, .. } if data["done"] == true => None,
        End::Last { data, .. } if data["code"] == "turn_lost" => {
            let is_excused = is_touched || evidence.is_killed(None, &until_now);
            (!is_excused).then(|| format!("lost without a reason: {reading:?}"))
        }
        End::Last { data, .. } => Some(format!("the reply failed: {data}")),
        End::Refused { code, .. } if code == "turn_not_found" => {
            let is_excused = evidence.may_be_cleared(&reading.session, &until_now)
                || (is_touched && !evidence.is_single)
                || (reading.request == Request::Post && evidence.is_killed(None, &until_now));
            (!is_excused).then(|| format!("a turn was not found: {reading:?}"))
        }
        End::Refused { code, .. } if code == "memory_unavailable" => {
            (!is_touched).then(|| format!("a well server was not asked: {reading:?}"))
        }
        End::Refused { status, code } => Some(format!("refused with {status} {code}")),
    }
}

fn length(range: &Range<Instant>) -> Duration {
    range.end.saturating_duration_since(range.start)
}

#[cfg(test)]
mod tests {
    use super::super::scene::Scene;
    use super::*;

    fn found(scene: &Scene) -> Vec<String> {
        judge(&scene.evidence())
    }

    #[test]
    fn one_turn_that_everyone_sees_whole_is_clean() {
        let scene = Scene::new()
            .post("a", 0, 3)
            .post("a", 0, 3)
            .left("a", 1, 2)
            .resumed("a", 4, 5);
        assert_eq!(found(&scene), [""; 0]);
    }

    #[test]
    fn two_turns_for_one_key_are_found_unless_the_first_is_lost() {
        let two = || Scene::new().post("a", 0, 3).post("a", 1, 4).of("other");
        let turns = found(&two());
        assert!(
            turns
                .iter()
                .any(|one| one.contains("two turns for one key")),
            "{turns:?}"
        );
        assert!(
            turns.iter().any(|one| one.contains("said to be stored")),
            "{turns:?}"
        );
        let unclaimed = two().told("saved", false.into()).unclaimed();
        assert_eq!(found(&unclaimed), [""; 0]);
        let killed = two().told("saved", false.into()).killed(9, 1, 2);
        assert_eq!(found(&killed), [""; 0]);
    }

    #[test]
    fn a_text_or_an_end_that_differs_is_found() {
        let pair = || Scene::new().post("a", 0, 3).resumed("a", 4, 5);
        assert_eq!(found(&pair()), [""; 0]);
        assert_eq!(found(&pair().text("“a” and more")).len(), 1);
        assert_eq!(found(&pair().text("“a")).len(), 2, "and it is not whole");
        assert_eq!(found(&pair().told("msg_id", "y".into())).len(), 1);
        assert_eq!(
            found(&Scene::new().left("a", 0, 1).text("x").post("a", 0, 3)).len(),
            1
        );
        // An owner that was not answered does not know.
        let unknown = || {
            pair()
                .told("saved", false.into())
                .told("unsaved", "memory".into())
        };
        assert_eq!(found(&unknown()).len(), 1);
        assert_eq!(found(&unknown().touched(0, 1)), [""; 0]);
        // What replicas do not have yet may be lost, but it is the same reply.
        let failed_over = || pair().told("saved", false.into()).touched(0, 1);
        assert_eq!(found(&failed_over()).len(), 1);
        assert_eq!(found(&failed_over().with_replicas()), [""; 0]);
        let other = failed_over().with_replicas().told("msg_id", "y".into());
        assert_eq!(found(&other).len(), 1);
    }

    #[test]
    fn what_is_gone_or_cut_needs_a_reason() {
        let gone = || Scene::new().post("a", 0, 3).refused("turn_not_found", 4, 5);
        assert_eq!(found(&gone()).len(), 1);
        assert_eq!(
            found(&gone().touched(0, 1)).len(),
            1,
            "one server loses nothing"
        );
        assert_eq!(found(&gone().touched(0, 1).with_replicas()), [""; 0]);
        assert_eq!(found(&gone().cleared(2, 4)), [""; 0]);
        let cut = || Scene::new().left("a", 0, 3).cut();
        assert_eq!(found(&cut()).len(), 1);
        assert_eq!(found(&cut().killed(0, 1, 2)), [""; 0]);
        assert_eq!(found(&cut().killed(1, 1, 2)).len(), 1, "another process");
        let lost = || {
            let scene = Scene::new().left("a", 0, 1).resumed("a", 12, 13).text("“");
            scene
                .told("code", "turn_lost".into())
                .told("done", false.into())
        };
        let lost = || lost().told("saved", false.into());
        assert_eq!(found(&lost()).len(), 1);
        assert_eq!(found(&lost().killed(0, 1, 2)), [""; 0]);
    }
}
