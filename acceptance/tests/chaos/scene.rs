//! A run of one user and one character, in seconds, for the tests of the rules.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::checker::{Clear, Session, Stored};
use super::promptness::Hit;
use super::readings::{End, Evidence, Reading, Request, Stop};

pub(crate) struct Scene {
    start: Instant,
    readings: Vec<Reading>,
    stops: Vec<Stop>,
    clears: Vec<Clear>,
    hits: Vec<Hit>,
    stored: BTreeMap<Session, Stored>,
    is_single: bool,
}

fn session() -> Session {
    ("u0".into(), "luna".into())
}

/// Every method that changes a reading changes the last one.
impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            readings: Vec::new(),
            stops: Vec::new(),
            clears: Vec::new(),
            hits: Vec::new(),
            stored: BTreeMap::from([(session(), Stored::default())]),
            is_single: true,
        }
    }

    pub(crate) fn evidence(&self) -> Evidence<'_> {
        Evidence {
            readings: &self.readings,
            stops: &self.stops,
            clears: &self.clears,
            hits: &self.hits,
            controls: &[],
            stored: &self.stored,
            is_single: self.is_single,
            judges_times: true,
            over: self.at(100),
        }
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn reading(mut self, said: &str, request: Request, from: u64, until: u64, end: End) -> Self {
        self.readings.push(Reading {
            session: session(),
            user: 0,
            client: 0,
            said: said.into(),
            request,
            process: 0,
            handed_over: self.at(from),
            begun: Some(self.at(from)),
            ended: self.at(until),
            turn: Some("one".into()),
            resumable: true,
            text: if end == End::Left {
                "“".into()
            } else {
                format!("“{said}”")
            },
            end,
        });
        self
    }

    fn last(&mut self) -> &mut Reading {
        self.readings.last_mut().expect("a reading")
    }

    fn whole() -> End {
        let data = json!({ "done": true, "msg_id": "x", "finish_reason": "stop", "saved": true });
        let block = data.to_string();
        End::Last { block, data }
    }

    pub(crate) fn post(self, said: &str, from: u64, until: u64) -> Self {
        self.reading(said, Request::Post, from, until, Self::whole())
    }

    pub(crate) fn resumed(self, said: &str, from: u64, until: u64) -> Self {
        self.reading(said, Request::Resume, from, until, Self::whole())
    }

    pub(crate) fn left(self, said: &str, from: u64, until: u64) -> Self {
        self.reading(said, Request::Post, from, until, End::Left)
    }

    pub(crate) fn refused(self, code: &str, from: u64, until: u64) -> Self {
        let end = End::Refused {
            status: 404,
            code: code.into(),
        };
        let mut scene = self.reading("a", Request::Resume, from, until, end);
        scene.last().text = String::new();
        scene
    }

    pub(crate) fn cut(mut self) -> Self {
        self.last().end = End::Cut;
        self
    }

    pub(crate) fn of(mut self, turn: &str) -> Self {
        self.last().turn = Some(turn.into());
        self
    }

    pub(crate) fn unclaimed(mut self) -> Self {
        self.last().resumable = false;
        self
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.last().text = text.into();
        self
    }

    /// Sets a field of the last event.
    pub(crate) fn told(mut self, field: &str, value: Value) -> Self {
        if let End::Last { block, data } = &mut self.last().end {
            data[field] = value;
            *block = data.to_string();
        }
        self
    }

    pub(crate) fn stop(mut self, said: &str, at: u64, status: u16) -> Self {
        self.stops.push(Stop {
            said: said.into(),
            turn: "one".into(),
            issued: self.at(at),
            answered: self.at(at),
            status,
        });
        self
    }

    pub(crate) fn cleared(mut self, issued: u64, ended: u64) -> Self {
        self.clears.push(Clear {
            session: session(),
            issued: self.at(issued),
            ended: self.at(ended),
            done: true,
        });
        self
    }

    fn hit(mut self, touched: &[usize], process: Option<usize>, from: u64, until: u64) -> Self {
        self.hits.push(Hit {
            name: "a fault",
            during: self.at(from)..self.at(until),
            users: Vec::new(),
            touched: touched.to_vec(),
            process,
            is_kill: process.is_some(),
        });
        self
    }

    pub(crate) fn touched(self, from: u64, until: u64) -> Self {
        self.hit(&[0], None, from, until)
    }

    pub(crate) fn killed(self, process: usize, from: u64, until: u64) -> Self {
        self.hit(&[], Some(process), from, until)
    }

    pub(crate) fn with_replicas(mut self) -> Self {
        self.is_single = false;
        self
    }

    /// Stores a reply, with this mark or none.
    pub(crate) fn holds(mut self, said: &str, reply: &str, mark: &str) -> Self {
        let metadata = match mark {
            "" => Value::Null,
            mark => json!({ "finish_reason": mark }),
        };
        let stored = self.stored.entry(session()).or_default();
        stored
            .messages
            .push(json!({ "role": "user", "content": said }));
        stored.messages.push(
            json!({ "role": "assistant", "content": reply, "msg_id": "x", "metadata": metadata }),
        );
        self
    }
}

#[test]
fn a_reader_of_a_record_promises_nothing_that_replicas_may_lack() {
    let saved = |scene: Scene| scene.evidence().turns()[0].saved;
    let read = || Scene::new().left("a", 0, 1).resumed("a", 2, 3);
    assert!(saved(read()));
    assert!(saved(read().touched(3, 4)), "one server loses nothing");
    assert!(saved(read().with_replicas()));
    assert!(!saved(read().with_replicas().touched(3, 4)));
    let owner = Scene::new().post("a", 0, 3).with_replicas().touched(3, 4);
    assert!(saved(owner), "the owner has waited for them");
}

#[test]
fn a_turn_that_nobody_saw_end_may_end_at_any_time() {
    let ended = |scene: &Scene| scene.evidence().turns()[0].ended;
    let scene = Scene::new().left("a", 0, 1);
    assert_eq!(ended(&scene), scene.at(100));
    let scene = scene.resumed("a", 2, 3);
    assert_eq!(ended(&scene), scene.at(3));
}
