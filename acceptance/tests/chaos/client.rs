//! A client: it sends messages, reads the replies, leaves and comes back, stops turns, and clears its session.

use std::sync::Arc;
use std::time::Instant;

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::events::{self, Event};
use testkit::tokens::token;

use super::checker::{Change, Clear, Session};
use super::functions::{Chats, Others};
use super::period::Period;
use super::promptness::First;
use super::readings::{End, Reading, Request, Stop};
use super::{CHARACTERS, USERS};

/// The most returns to one turn.
const MAX_RETURNS: usize = 5;
/// The events of a stream after which a client leaves it, or stops the turn, at the latest.
const SOON: usize = 12;
/// What makes a message long, so that its echo takes long: characters of one to four bytes.
const LONG: &str = "慢慢说é🙂";

/// What clients do more or less often.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// Of how many requests one is a clear.
    pub(crate) one_clear_in: u8,
    /// Of how many messages one is stopped.
    pub(crate) one_stop_in: u8,
}

/// What one client saw.
#[derive(Default)]
pub(crate) struct Diary {
    pub(crate) readings: Vec<Reading>,
    pub(crate) stops: Vec<Stop>,
    pub(crate) clears: Vec<Clear>,
    pub(crate) changes: Vec<Change>,
    pub(crate) firsts: Vec<First>,
    pub(crate) keyed: usize,
}

impl Diary {
    pub(crate) fn add(&mut self, other: Self) {
        self.readings.extend(other.readings);
        self.stops.extend(other.stops);
        self.clears.extend(other.clears);
        self.changes.extend(other.changes);
        self.firsts.extend(other.firsts);
        self.keyed += other.keyed;
    }
}

/// A client.
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) rng: Rng,
    pub(crate) habits: Habits,
    pub(crate) period: Arc<Period>,
    pub(crate) chats: Arc<Chats>,
    pub(crate) others: Arc<Others>,
}

/// A message.
struct Message {
    session: Session,
    user: usize,
    token: String,
    said: String,
    key: Option<String>,
}

/// One request for a stream, and what its client does with it.
struct Ask<'a> {
    message: &'a Message,
    request: Request,
    process: usize,
    /// What was read before.
    before: Option<&'a Reading>,
    /// The id of the last event that was seen; `None` to read the whole turn.
    last_id: Option<&'a str>,
    leaves_after: Option<usize>,
    stops_after: Option<usize>,
}

/// A stream that was read, and how to go on.
struct Read {
    reading: Reading,
    last_id: Option<String>,
    stop: Option<Stop>,
    first: Option<First>,
}

impl Client {
    /// Talks until the period is over, in the client's own session or in one that others use too.
    pub(crate) async fn talk(mut self) -> Diary {
        let mut diary = Diary::default();
        let mut number = 0;
        while self.period.is_on() {
            let user = if self.rng.bool() {
                self.number % USERS
            } else {
                self.rng.usize(..USERS)
            };
            let character = CHARACTERS[self.rng.usize(..CHARACTERS.len())].to_owned();
            let session = (format!("u{user}"), character);
            let token = token(&session.0);
            if self.rng.u8(..self.habits.one_clear_in) == 0 {
                diary.clears.push(self.clear(session, &token).await);
                continue;
            }
            if self.rng.u8(..20) == 0 {
                diary.changes.push(self.change(session, user, &token).await);
                continue;
            }
            number += 1;
            // It cannot be a part of an id in the log, which may not hold what users say.
            let name = format!("say{}no{number}", self.number);
            let message = Message {
                session,
                user,
                token,
                key: self.rng.bool().then(|| format!("key-{name}")),
                said: name,
            };
            self.say(message, &mut diary).await;
        }
        diary
    }

    async fn clear(&self, session: Session, token: &str) -> Clear {
        let issued = Instant::now();
        let event = events::clear(token, &session.1);
        let answer = self.others.clear.invoke(&event).await;
        Clear {
            session,
            issued,
            ended: Instant::now(),
            done: answer.status == 200,
        }
    }

    async fn change(&mut self, session: Session, user: usize, token: &str) -> Change {
        let state = ["ACTIVE", "INACTIVE", "ENDED"][self.rng.usize(..3)];
        let issued = Instant::now();
        let event = events::set_state(token, &session.1, state);
        let answer = self.others.session.invoke(&event).await;
        Change {
            session,
            user,
            state,
            issued,
            ended: Instant::now(),
            done: answer.status == 200,
        }
    }

    /// Sends a message, with a key perhaps several times at once, and reads the reply to its end, perhaps not at once.
    async fn say(&mut self, mut message: Message, diary: &mut Diary) {
        let stops = self.rng.u8(..self.habits.one_stop_in) == 0;
        if stops {
            message.said = format!("{} {}", message.said, LONG.repeat(60));
        }
        let copies = match &message.key {
            Some(_) if self.rng.u8(..3) == 0 => self.rng.usize(2..=3),
            _ => 1,
        };
        let asks: Vec<_> = (0..copies)
            .map(|copy| Ask {
                message: &message,
                request: Request::Post,
                process: self.process(),
                before: None,
                last_id: None,
                leaves_after: self.soon(!stops && copies == 1 || copy > 0, 3),
                stops_after: self.soon(stops && copy == 0, 1),
            })
            .collect();
        let this = &*self;
        let mut reads = join_all(asks.iter().map(|ask| this.read(ask))).await;
        drop(asks);
        diary.keyed += usize::from(message.key.is_some());
        if copies == 1 {
            diary
                .firsts
                .extend(reads.iter_mut().filter_map(|read| read.first.take()));
        }
        let mut whole = None;
        for read in reads {
            let last = self.come_back(&message, read, diary).await;
            if last.last().is_some() {
                whole = Some(last);
            }
        }
        if message.key.is_some() && self.rng.u8(..3) == 0 && self.period.is_on() {
            let read = self.repeat(&message).await;
            diary.readings.push(read.reading);
        }
        if let Some(whole) = whole.filter(|whole| whole.resumable)
            && self.rng.u8(..3) == 0
        {
            let read = self.resume(&message, &whole, None, None).await;
            diary.readings.push(read.reading);
        }
    }

    /// Comes back to a turn until its last event is there. Returns the last reading.
    async fn come_back(&mut self, message: &Message, read: Read, diary: &mut Diary) -> Reading {
        let mut read = read;
        for _ in 0..MAX_RETURNS {
            if read.reading.is_saved() {
                self.period.first_saved.notify_one();
            }
            diary.stops.extend(read.stop.take());
            diary.readings.push(read.reading.clone());
            let can_return = read.reading.turn.is_some() && read.reading.resumable;
            let is_cut = matches!(read.reading.end, End::Cut | End::Left);
            if !self.period.is_on() || !is_cut || (!can_return && message.key.is_none()) {
                return read.reading;
            }
            read = if can_return {
                let leaves_after = self.soon(true, 3);
                let last_id = read.last_id.as_deref();
                self.resume(message, &read.reading, last_id, leaves_after)
                    .await
            } else {
                // It does not know whether its request has arrived.
                self.repeat(message).await
            };
        }
        diary.stops.extend(read.stop.take());
        diary.readings.push(read.reading.clone());
        read.reading
    }

    /// Sends a message again, and reads to the end.
    async fn repeat(&mut self, message: &Message) -> Read {
        let ask = Ask {
            message,
            request: Request::Post,
            process: self.process(),
            before: None,
            last_id: None,
            leaves_after: None,
            stops_after: None,
        };
        self.read(&ask).await
    }

    async fn resume(
        &mut self,
        message: &Message,
        before: &Reading,
        last_id: Option<&str>,
        leaves_after: Option<usize>,
    ) -> Read {
        let ask = Ask {
            message,
            request: Request::Resume,
            process: self.process(),
            before: Some(before),
            last_id,
            leaves_after,
            stops_after: None,
        };
        self.read(&ask).await
    }

    fn process(&mut self) -> usize {
        self.rng.usize(..self.chats.0.len())
    }

    /// Returns after how many events something happens, if it may, which is once in `one_in`.
    fn soon(&mut self, may: bool, one_in: u8) -> Option<usize> {
        (may && self.rng.u8(..one_in) == 0).then(|| self.rng.usize(1..SOON))
    }

    /// Reads one stream.
    async fn read(&self, ask: &Ask<'_>) -> Read {
        let message = ask.message;
        let chat = self.chats.get(ask.process);
        let issued = Instant::now();
        let mut stream = chat.invoke_streaming(&event(ask)).await;
        let kept = ask.before.filter(|_| ask.last_id.is_some());
        let mut read = Read {
            reading: Reading {
                session: message.session.clone(),
                user: message.user,
                client: self.number,
                said: message.said.clone(),
                request: ask.request,
                process: ask.process,
                handed_over: issued,
                begun: None,
                ended: Instant::now(),
                turn: ask.before.and_then(|before| before.turn.clone()),
                resumable: ask.before.is_some_and(|before| before.resumable),
                text: kept.map(|before| before.text.clone()).unwrap_or_default(),
                end: End::Cut,
            },
            last_id: ask.last_id.map(str::to_owned),
            stop: None,
            first: None,
        };
        let reading = &mut read.reading;
        if stream.status() != 200 {
            let answer = stream.finish().await;
            if answer.status != 0 {
                let problem: Value = serde_json::from_slice(&answer.body()).unwrap_or_default();
                reading.end = End::Refused {
                    status: answer.status,
                    code: problem["code"].as_str().unwrap_or_default().to_owned(),
                };
            }
            return read;
        }
        let over = self.period.over();
        tokio::pin!(over);
        let mut events = 0;
        let data = loop {
            let next = tokio::select! {
                next = stream.next_event() => next,
                () = &mut over => {
                    reading.end = End::Left;
                    return read;
                }
            };
            let Some(event) = next else {
                reading.ended = Instant::now();
                return read;
            };
            events += 1;
            if reading.begun.is_none() {
                reading.begun = Some(event.at);
            }
            reading.ended = event.at;
            if event.event == "start" {
                reading.turn = event.data["turn_id"].as_str().map(str::to_owned);
                reading.resumable = event.data["resumable"] == true;
            }
            reading
                .text
                .push_str(event.data["content"].as_str().unwrap_or_default());
            if event.id == "done" {
                break event.data;
            }
            read.last_id = Some(event.id);
            if ask.stops_after == Some(events)
                && let Some(turn) = &reading.turn
            {
                read.stop = Some(self.stop(message, turn).await);
            }
            if ask.leaves_after == Some(events) {
                reading.ended = Instant::now();
                reading.end = End::Left;
                return read;
            }
        };
        let answer = stream.finish().await;
        let text = String::from_utf8_lossy(&answer.body()).into_owned();
        let block = text.trim_end_matches('\n').rsplit("\n\n").next();
        reading.end = End::Last {
            block: block.unwrap_or_default().to_owned(),
            data,
        };
        if let Some(begun) = reading.begun {
            read.first = Some(First {
                user: message.user,
                process: ask.process,
                during: answer.handed_over..begun,
                said: message.said.clone(),
            });
        }
        read
    }

    async fn stop(&self, message: &Message, turn: &str) -> Stop {
        let issued = Instant::now();
        let event = Event::stop()
            .token(&message.token)
            .query("character_id", &message.session.1)
            .query("turn_id", turn);
        let answer = self.others.stop.invoke(&event.http()).await;
        Stop {
            said: message.said.clone(),
            turn: turn.to_owned(),
            issued,
            answered: Instant::now(),
            status: answer.status,
        }
    }
}

fn event(ask: &Ask<'_>) -> Value {
    let Message {
        session,
        token,
        said,
        key,
        ..
    } = ask.message;
    if ask.request == Request::Post {
        let body = json!({ "character_id": session.1, "message": said });
        let event = Event::stream().token(token).json(&body);
        return match key {
            Some(key) => event.header("Idempotency-Key", key).http(),
            None => event.http(),
        };
    }
    let turn = ask.before.and_then(|before| before.turn.as_deref());
    let event = Event::resume()
        .token(token)
        .query("character_id", &session.1)
        .query("turn_id", turn.unwrap_or_default());
    match ask.last_id {
        Some(id) => event.header("last-event-id", id).http(),
        None => event.http(),
    }
}
