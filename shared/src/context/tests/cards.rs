//! Prompts of cards: texts at their places, and history in blocks.

use proptest::prelude::*;

use super::{contents, limits, said};
use crate::context::*;

/// Whole turns of a session, of which the newest are known, and how many there were before them.
fn session(turns_before: usize, known: usize) -> Past {
    let of_turn = |n: usize| {
        [
            said(Role::User, &format!("q{n}"), 1),
            said(Role::Assistant, &format!("a{n}"), 1),
        ]
    };
    let total = turns_before + known;
    Past {
        messages: (turns_before..total).flat_map(of_turn).collect(),
        older: u64::try_from(2 * turns_before).expect("few"),
    }
}

fn in_blocks() -> Frame<'static> {
    Frame {
        in_blocks: true,
        ..Frame::plain("s")
    }
}

/// Returns the first messages of the history in the prompts of a session, each once.
fn beginnings(turns: usize, past: impl Fn(usize) -> Past, window: Window) -> Vec<String> {
    let mut beginnings = Vec::new();
    for total in 1..=turns {
        let context = fit(in_blocks(), past(total), "new", window).expect("fits");
        beginnings.push(contents(&context)[1].to_owned());
    }
    beginnings.dedup();
    beginnings
}

#[test]
fn history_is_left_out_in_blocks() {
    let newest = |total: usize| session(total - total.min(25), total.min(25));
    let found = beginnings(60, newest, limits(50, 1_000));
    assert_eq!(found, ["q0", "q16", "q32", "q48"]);
    for total in 1..=60 {
        let context = fit(in_blocks(), newest(total), "new", limits(50, 1_000));
        let turns = context.expect("fits").history_messages / 2;
        assert!((total.min(8)..=25).contains(&turns), "{total}: {turns}");
    }
}

/// Turns of many sizes, of which some ten fit: the prompt begins with another one about every fourth turn, and never
/// with an earlier one.
#[test]
fn blocks_of_turns_of_any_size_move_on_only() {
    let sizes = [30, 120, 60, 10, 200, 45, 80, 150, 20, 90];
    let history = |total: usize| Past {
        messages: (0..total)
            .flat_map(|n| {
                let long = |text: String| format!("{text:.<220}");
                let tokens = sizes[n * 7 % sizes.len()];
                [
                    said(Role::User, &long(format!("q{n:02}")), tokens),
                    said(Role::Assistant, &long(format!("a{n:02}")), 20),
                ]
            })
            .collect(),
        older: 0,
    };
    let found = beginnings(60, history, limits(200, 1_500));
    assert!(found.is_sorted(), "{found:?}");
    assert!(found.len() <= 15, "{found:?}");
}

#[test]
fn a_session_that_fits_is_sent_whole() {
    let context = fit(in_blocks(), session(0, 3), "new", limits(50, 1_000));
    assert_eq!(context.expect("fits").history_messages, 6);
}

#[test]
fn the_beginning_does_not_depend_on_the_lore_of_the_turn() {
    let text = |text: String, place, keep| Text {
        text: Cow::Owned(text),
        place,
        keep,
    };
    let prompt = |lore: usize, message: &str| {
        let mut frame = in_blocks();
        frame
            .texts
            .push(text("e".repeat(400), Place::First, Keep::Example));
        frame
            .texts
            .push(text("l".repeat(lore), Place::Behind, Keep::Turn(0)));
        let window = limits(50, 800);
        fit(frame, session(0, 20), message, window).expect("fits")
    };
    let first = prompt(1, "a");
    for (lore, message) in [(150, "a"), (1, &*"m".repeat(150)), (100, "bbbbbbbbbb")] {
        let other = prompt(lore, message);
        assert_eq!(other.messages[..20], first.messages[..20], "{lore}");
    }
}

#[test]
fn a_greeting_goes_with_the_first_turn() {
    let greeting = || Message::greeting(0, "hello".into(), 0, 1);
    for (max_messages, expected) in [
        (5, ["hello", "q0", "a0", "q1", "a1", "new"].as_slice()),
        (4, &["q1", "a1", "new"]),
    ] {
        let mut past = session(0, 2);
        past.messages.insert(0, greeting());
        let context = fit(Frame::plain("s"), past, "new", limits(max_messages, 1_000));
        assert_eq!(contents(&context.expect("fits"))[1..], *expected);
    }
    let alone = Past {
        messages: vec![greeting()],
        ..Past::default()
    };
    let context = fit(Frame::plain("s"), alone, "new", limits(5, 1_000)).expect("fits");
    assert_eq!(contents(&context), ["s", "hello", "new"]);
    assert_eq!(context.history_messages, 1);
}

fn any_text() -> impl Strategy<Value = Text<'static>> {
    let role = prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant)];
    let place = prop_oneof![
        Just(Place::First),
        Just(Place::Behind),
        (0_usize..9, role).prop_map(|(from_end, role)| Place::Within(from_end, role)),
        Just(Place::Last),
    ];
    let keep = prop_oneof![
        (0_usize..5).prop_map(Keep::Fixed),
        (0_usize..5).prop_map(Keep::Turn),
        Just(Keep::Example)
    ];
    ("[a字]{1,60}", place, keep).prop_map(|(text, place, keep)| Text {
        text: Cow::Owned(text),
        place,
        keep,
    })
}

proptest! {
    #[test]
    fn no_prompt_of_a_card_exceeds_its_limits(
        more in proptest::collection::vec(any_text(), 0..9),
        known in 0_usize..30,
        turns_before in 0_usize..40,
        greeting in proptest::option::of("[a字]{1,40}"),
        max_messages in 0_usize..60,
        max_tokens in 12_u64..900,
    ) {
        let mut frame = Frame { greeting: greeting.as_deref(), in_blocks: true, ..Frame::plain("s") };
        frame.texts.extend(more);
        let past = session(turns_before, known);
        let context = fit(frame, past, "new", limits(max_messages, max_tokens)).expect("fits");
        prop_assert!(context.history_messages <= max_messages);
        let tokens: u64 = context.messages.iter().map(|message| estimate(&message.content) + PER_MESSAGE).sum();
        prop_assert!(tokens + PER_REPLY <= max_tokens, "{} {:?}", tokens, context.messages);
        prop_assert_eq!(context.messages[0].role, Role::System);
        prop_assert_eq!(context.messages.iter().filter(|message| message.content == "new").count(), 1);
        // The history is whole turns, oldest first, up to the newest.
        let is_turn = |text: &&str| {
            let number = text.strip_prefix(['q', 'a']).unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        let kept: Vec<&str> = contents(&context).into_iter().filter(is_turn).collect();
        let total = turns_before + known;
        let expected: Vec<String> = (total - kept.len() / 2..total).flat_map(|n| [format!("q{n}"), format!("a{n}")]).collect();
        prop_assert_eq!(kept, expected);
    }
}
