mod cards;

use proptest::prelude::*;

use super::history::tokens_of;
use super::*;
use crate::message::is_blank;

fn limits(max_messages: usize, max_tokens: u64) -> Window {
    Window {
        max_messages,
        max_tokens,
    }
}

fn said(role: Role, content: &str, token_count: i64) -> Message {
    Message::new(role, content.into(), 0, token_count)
}

/// Returns `count` turns whose messages have `tokens` tokens each, and at least as many bytes.
fn turns(count: usize, tokens: usize) -> Vec<Message> {
    let long = |text: String| format!("{text:.<tokens$}");
    let counted = i64::try_from(tokens).expect("small");
    (0..count)
        .flat_map(|n| {
            [
                said(Role::User, &long(format!("q{n}")), counted),
                said(Role::Assistant, &long(format!("a{n}")), counted),
            ]
        })
        .collect()
}

/// Fits a message beside a plain system prompt.
fn fit(
    system_prompt: &str,
    messages: Vec<Message>,
    message: &str,
    window: Window,
) -> Result<Context, TooLong> {
    let past = Past {
        messages,
        ..Past::default()
    };
    super::fit(Frame::plain(system_prompt), past, message, window)
}

fn contents(context: &Context) -> Vec<&str> {
    context
        .messages
        .iter()
        .map(|message| message.content.as_str())
        .collect()
}

#[test]
fn system_prompt_then_turns_oldest_first_then_the_new_message() {
    let context = fit("s", turns(2, 1), "new", limits(50, 1_000)).expect("fits");
    assert_eq!(contents(&context), ["s", "q0", "a0", "q1", "a1", "new"]);
    assert_eq!(context.history_messages, 4);
}

#[test]
fn the_message_limit_keeps_whole_turns() {
    let context = fit("s", turns(3, 1), "new", limits(3, 1_000)).expect("fits");
    assert_eq!(contents(&context), ["s", "q2", "a2", "new"]);
    let context = fit("s", turns(3, 1), "new", limits(0, 1_000)).expect("fits");
    assert_eq!(context.history_messages, 0);
}

#[test]
fn the_token_limit_counts_everything() {
    // The format adds 10 tokens for the system prompt, the new message and the reply. A turn has 2 × (6 + 4) =
    // 20.
    for (max_tokens, kept) in [(30, 2), (29, 0), (50, 4), (49, 2)] {
        let context = fit("", turns(2, 6), "", limits(50, max_tokens)).expect("fits");
        assert_eq!(context.history_messages, kept, "{max_tokens}");
    }
    // The prompt's 15 tokens push the older turn out.
    let context = fit("一二三四五六七八九十", turns(2, 6), "", limits(50, 50)).expect("fits");
    assert_eq!(context.history_messages, 2);
}

#[test]
fn a_turn_larger_than_the_budget_is_left_out_and_ends_the_choice() {
    let mut history = turns(1, 1);
    let big = "字".repeat(1_000);
    history.push(said(Role::User, &big, 1_500));
    history.push(said(Role::Assistant, &big, 1_500));
    history.extend(turns(1, 1));
    let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
    assert_eq!(contents(&context), ["s", "q0", "a0", "new"]);
    assert!(!context.has_room);
}

#[test]
fn a_turn_with_a_blank_message_is_passed_over() {
    for (question, reply) in [("q", "\n\n"), ("\u{200B}", "a"), ("q", "")] {
        let mut history = turns(1, 1);
        history.push(said(Role::User, question, 1));
        history.push(said(Role::Assistant, reply, 1));
        history.extend(turns(1, 1));
        let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
        assert_eq!(contents(&context), ["s", "q0", "a0", "q0", "a0", "new"]);
    }
}

#[test]
fn there_is_room_until_a_limit_is_reached() {
    for (history, max_messages, max_tokens, has_room) in [
        (turns(0, 1), 50, 1_000, true),
        (turns(24, 1), 50, 1_000, true),
        (turns(25, 1), 50, 1_000, false),
        (turns(25, 1), 51, 1_000, false),
        (turns(26, 1), 50, 1_000, false),
        (turns(2, 6), 50, 50, true),
        (turns(2, 6), 50, 49, false),
        (turns(0, 1), 0, 1_000, false),
    ] {
        let context = fit("", history, "", limits(max_messages, max_tokens)).expect("fits");
        assert_eq!(context.has_room, has_room, "{max_messages}, {max_tokens}");
    }
    let notes = vec![said(Role::System, "note", 1); 50];
    let context = fit("", notes, "", limits(50, 1_000)).expect("fits");
    assert!(context.has_room);
}

#[test]
fn a_list_that_begins_with_a_reply_loses_it() {
    let mut history = vec![
        said(Role::Assistant, "orphan", 1),
        said(Role::System, "note", 1),
    ];
    history.extend(turns(1, 1));
    let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
    assert_eq!(contents(&context), ["s", "q0", "a0", "new"]);
}

#[test]
fn a_question_that_was_never_answered_is_left_out() {
    let mut history = turns(1, 1);
    history.push(said(Role::User, "unanswered", 1));
    let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
    assert_eq!(contents(&context), ["s", "q0", "a0", "new"]);
}

#[test]
fn half_turns_in_the_middle_are_passed_over() {
    let mut history = turns(1, 1);
    history.push(said(Role::Assistant, "orphan", 1));
    history.push(said(Role::System, "note", 1));
    history.push(said(Role::User, "unanswered", 1));
    history.push(said(Role::User, "q1", 1));
    history.push(said(Role::Assistant, "a1", 1));
    let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
    assert_eq!(contents(&context), ["s", "q0", "a0", "q1", "a1", "new"]);
}

#[test]
fn counts_that_make_no_sense_are_estimated() {
    for count in [0, -1, i64::MIN, 9, 301, 21_000, i64::MAX] {
        let history = vec![
            said(Role::User, &"字".repeat(100), count),
            said(Role::Assistant, "b", count),
        ];
        let context = fit("", history.clone(), "", limits(50, 10 + 150 + 8)).expect("fits");
        assert_eq!(context.history_messages, 2);
        let context = fit("", history, "", limits(50, 10 + 150 + 7)).expect("fits");
        assert_eq!(context.history_messages, 0);
    }
}

#[test]
fn two_million_tokens_of_history_break_nothing() {
    let context = fit("s", turns(25, 40_000), "new", limits(50, 20_000)).expect("fits");
    assert_eq!(context.history_messages, 0);
}

#[test]
fn one_impossible_count_neither_empties_the_history_nor_lifts_the_limit() {
    let mut history = turns(3, 2);
    history[3].token_count = 21_000;
    history[4].token_count = i64::MAX;
    let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
    assert_eq!(context.history_messages, 6);

    let long = "字".repeat(6_000);
    for count in [0, 1, -1] {
        let history: Vec<Message> = (0..10)
            .flat_map(|_| {
                [
                    said(Role::User, "q", 1),
                    said(Role::Assistant, &long, count),
                ]
            })
            .collect();
        let context = fit("s", history, "new", limits(50, 20_000)).expect("fits");
        assert_eq!(context.history_messages, 4, "{count}");
    }
}

#[test]
fn the_limit_holds_for_every_script() {
    for script in ["한", "か", "ж", "ก", "ع", "ह", "Ａ", "🙂", "ა", "𠀀"] {
        let text = script.repeat(2_000);
        let history: Vec<Message> = (0..25)
            .flat_map(|_| [said(Role::User, &text, 0), said(Role::Assistant, &text, 0)])
            .collect();
        let context = fit("s", history, "new", limits(50, 20_000)).expect("fits");
        // At half a token per character, the lowest figure here, 20 messages fit.
        assert!(
            context.history_messages <= 20,
            "{script}: {}",
            context.history_messages
        );
    }
}

#[test]
fn a_message_that_cannot_fit_is_refused() {
    assert_eq!(
        fit("s", vec![], &"字".repeat(100), limits(50, 100)),
        Err(TooLong::Message)
    );
}

#[test]
fn a_prompt_that_leaves_no_room_for_any_message_is_what_is_blamed() {
    let prompt = "字".repeat(100);
    for (max_tokens, expected) in [
        (1, Err(TooLong::Character { prompt_tokens: 150 })),
        (160, Err(TooLong::Character { prompt_tokens: 150 })),
        (161, Ok(())),
    ] {
        let fitted = fit(&prompt, vec![], "a", limits(50, max_tokens)).map(|_| ());
        assert_eq!(fitted, expected, "{max_tokens}");
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let role =
        prop_oneof![3 => Just(Role::User), 3 => Just(Role::Assistant), 1 => Just(Role::System)];
    let count = prop_oneof![-10_i64..200, Just(i64::MAX), Just(i64::MIN)];
    (role, "[a字 ]{0,40}", count).prop_map(|(role, content, count)| said(role, &content, count))
}

proptest! {
    #[test]
    fn no_context_exceeds_its_limits_and_every_one_is_well_formed(
        history in proptest::collection::vec(any_message(), 0..60),
        system in "[a字]{0,30}",
        message in "[a字]{1,30}",
        max_messages in 0_usize..60,
        max_tokens in 1_u64..2_000,
    ) {
        let Ok(context) = fit(&system, history.clone(), &message, limits(max_messages, max_tokens)) else {
            prop_assert!(estimate(&system) + estimate(&message).max(1) + 10 > max_tokens);
            return Ok(());
        };
        let (first, rest) = context.messages.split_first().expect("a system prompt");
        let (last, kept) = rest.split_last().expect("a new message");
        prop_assert_eq!((first.role, first.content.as_str()), (Role::System, system.as_str()));
        prop_assert_eq!((last.role, last.content.as_str()), (Role::User, message.as_str()));
        prop_assert_eq!(kept.len(), context.history_messages);
        prop_assert!(kept.len() <= max_messages);
        for turn in kept.chunks(2) {
            prop_assert_eq!(turn.iter().map(|message| message.role).collect::<Vec<_>>(), [Role::User, Role::Assistant]);
        }
        // Every kept turn is in the history, in this order, and together they are within the limit.
        let mut said = history.windows(2).filter(|pair| pair[0].role == Role::User && pair[1].role == Role::Assistant);
        let mut tokens = estimate(&system) + estimate(&message) + 10;
        for turn in kept.chunks(2) {
            let found = said.find(|pair| pair[0].content == turn[0].content && pair[1].content == turn[1].content);
            prop_assert!(found.is_some());
        }
        let newest: Vec<_> = history
            .windows(2)
            .filter(|pair| pair[0].role == Role::User && pair[1].role == Role::Assistant)
            .filter(|pair| !pair.iter().any(|message| is_blank(&message.content)))
            .collect();
        for pair in newest.iter().rev().take(kept.len() / 2) {
            tokens += tokens_of(&pair[0]) + tokens_of(&pair[1]) + 2 * PER_MESSAGE;
        }
        prop_assert!(tokens <= max_tokens);
    }
}
