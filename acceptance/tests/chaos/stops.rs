//! A stop ends a turn within a second, and what the user saw is stored. A client that leaves stops nothing.

use std::time::Duration;

use serde_json::Value;

use super::promptness::longest;
use super::readings::{End, Evidence, Reading, Stop};
use super::streams::short;

/// The promise: the longest time from the answer to the end of the stream, beyond what the machine adds.
const PROMISED: Duration = Duration::from_secs(1);
/// How often a stop needs a CPU where an answer without Redis needs it once: in the journal, to count the tokens, and
/// for the commit, each of which is in the function, in Redis, and in the function again.
const CPU_TURNS: u32 = 9;

/// Returns one sentence for each promise that was broken.
pub(crate) fn judge(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for stop in evidence.stops {
        let stopped = evidence.readings.iter().filter(|reading| {
            reading.turn.as_ref() == Some(&stop.turn) && reading.during().contains(&stop.issued)
        });
        violations.extend(stopped.filter_map(|reading| in_time(evidence, stop, reading)));
    }
    for reading in evidence.readings {
        let is_stopped = reading
            .done()
            .is_some_and(|last| last["finish_reason"] == "stopped");
        if is_stopped && !is_asked_for(evidence, &reading.said) {
            violations.push(format!("{}: nobody stopped it", short(&reading.said)));
        }
    }
    violations.extend(as_seen(evidence));
    violations
}

fn is_asked_for(evidence: &Evidence<'_>, said: &str) -> bool {
    evidence.stops.iter().any(|stop| stop.said == said)
}

/// The stream of a turn that was stopped ends.
fn in_time(evidence: &Evidence<'_>, stop: &Stop, reading: &Reading) -> Option<String> {
    let during = stop.issued..reading.ended;
    let is_hit = evidence.hits.iter().any(|hit| {
        let concerns = hit.touched.contains(&reading.user) || hit.process.is_some();
        concerns && hit.overlaps(&during)
    });
    if !evidence.judges_times || is_hit || reading.last().is_none() || !reading.resumable {
        return None;
    }
    let took = reading.ended.saturating_duration_since(stop.answered);
    let process = longest(evidence.controls, Some(reading.process), &during);
    let server = longest(evidence.controls, None, &during);
    let is_late = took > PROMISED + CPU_TURNS * process + server;
    let said = short(&stop.said);
    // A turn that ends by itself is over a moment before its last event comes.
    match stop.status {
        202 if is_late => Some(format!(
            "{said}: it went on for {took:?} after the stop, an answer without Redis took {process:?}"
        )),
        404 if is_late => Some(format!(
            "{said}: it went on for {took:?} after it was said not to run"
        )),
        _ => None,
    }
}

/// Returns whether a reader saw the last event of the turn with this stored reply.
fn is_end_of(reading: &Reading, assistant: &Value) -> bool {
    reading
        .last()
        .is_some_and(|last| last["msg_id"] == assistant["msg_id"])
}

/// What is stored is what was seen, and is marked as its readers were told.
fn as_seen(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for stored in evidence.stored.values() {
        for pair in stored.messages.chunks(2) {
            let [user, assistant] = pair else {
                continue;
            };
            let said = user["content"].as_str().unwrap_or_default();
            let mark = assistant["metadata"]["finish_reason"].as_str();
            let mut problem = |text: &str| {
                violations.push(format!("{}: {text}: {assistant}", short(said)));
            };
            let readings = || {
                evidence
                    .readings
                    .iter()
                    .filter(|reading| reading.said == said)
            };
            match mark {
                None => {}
                Some("stopped") if is_asked_for(evidence, said) => {}
                Some("stopped") => problem("nobody stopped it, and it is marked as stopped"),
                // The end of a process is the end of its turns. Nobody was there any more who saw this one end.
                Some("interrupted") if !readings().any(|one| is_end_of(one, assistant)) => {}
                Some(_) => problem("it is stored with a mark of its own"),
            }
            for reading in readings() {
                let Some(last) = reading.done() else {
                    continue;
                };
                if last["msg_id"] != assistant["msg_id"] {
                    if evidence.is_single && reading.is_saved() {
                        problem("another reply is stored than a reader was told");
                    }
                    continue;
                }
                if assistant["content"] != *reading.text {
                    problem("a reader saw another reply");
                }
                if (last["finish_reason"] == "stopped") != (mark == Some("stopped")) {
                    problem("a reader was told another reason");
                }
            }
            // What was read of a turn that nobody saw end is the beginning of what is stored, if it is that turn's.
            let turns: Vec<_> = readings().filter_map(|one| one.turn.as_ref()).collect();
            let is_one = turns.iter().all(|turn| turns.first() == Some(turn));
            for reading in readings().filter(|one| is_one && one.end == End::Left) {
                let content = assistant["content"].as_str().unwrap_or_default();
                if !content.starts_with(&reading.text) {
                    problem("a reader that left saw another reply");
                }
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::scene::Scene;
    use super::*;

    fn found(scene: &Scene) -> Vec<String> {
        judge(&scene.evidence())
    }

    fn stopped() -> Scene {
        let scene = Scene::new().post("a", 0, 3).text("“");
        scene.told("finish_reason", "stopped".into())
    }

    #[test]
    fn a_stop_that_takes_long_is_found_unless_a_fault_explains_it() {
        assert_eq!(found(&stopped().stop("a", 2, 202)), [""; 0]);
        assert_eq!(found(&stopped().stop("a", 1, 202)).len(), 1);
        assert_eq!(found(&stopped().stop("a", 1, 404)).len(), 1);
        assert_eq!(found(&stopped().stop("a", 1, 503)), [""; 0]);
        assert_eq!(found(&stopped().stop("a", 1, 202).touched(1, 2)), [""; 0]);
        assert_eq!(found(&stopped().stop("a", 1, 202).killed(2, 1, 2)), [""; 0]);
    }

    #[test]
    fn what_nobody_stopped_is_not_stopped() {
        assert_eq!(found(&stopped()).len(), 1);
        let marked = || Scene::new().left("a", 0, 1).text("“");
        assert_eq!(found(&marked().holds("a", "“", "stopped")).len(), 1);
        assert_eq!(found(&marked().holds("a", "“", "interrupted")), [""; 0]);
        let ended = marked().post("a", 0, 3).holds("a", "“a”", "interrupted");
        assert_eq!(found(&ended).len(), 1);
    }

    #[test]
    fn what_was_seen_is_stored_and_marked() {
        let scene = || stopped().stop("a", 2, 202);
        assert_eq!(found(&scene().holds("a", "“", "stopped")), [""; 0]);
        assert_eq!(found(&scene().holds("a", "“a", "stopped")).len(), 1);
        assert_eq!(found(&scene().holds("a", "“", "")).len(), 1);
        let other = scene()
            .told("msg_id", "y".into())
            .holds("a", "“", "stopped");
        assert_eq!(found(&other).len(), 1, "another turn is stored");
        assert_eq!(
            found(&Scene::new().left("a", 0, 1).text("x").holds("a", "“a”", "")).len(),
            1
        );
    }
}
