//! What decorators change, and which entries no prompt can have.

use super::*;

#[test]
fn decorators_decide_whether_an_entry_matches() {
    for (content, constant, message, replies, greeting, expected) in [
        ("@@activate\n", false, "", 0, Greeting::Without, true),
        (
            "@@activate\n@@dont_activate\n",
            false,
            "",
            0,
            Greeting::Without,
            true,
        ),
        (
            "@@activate\n@@is_greeting 2\n@@exclude_keys b\n",
            false,
            "b",
            0,
            Greeting::Without,
            true,
        ),
        ("@@dont_activate\n", true, "a", 0, Greeting::Without, false),
        ("@@constant\n", false, "", 0, Greeting::Without, true),
        (
            "@@activate_only_after 2\n",
            true,
            "",
            1,
            Greeting::Without,
            false,
        ),
        (
            "@@activate_only_after 2\n",
            true,
            "",
            2,
            Greeting::Without,
            true,
        ),
        (
            "@@activate_only_after 2\n",
            false,
            "",
            2,
            Greeting::Without,
            false,
        ),
        (
            "@@activate_only_every 3\n",
            true,
            "",
            4,
            Greeting::Without,
            false,
        ),
        (
            "@@activate_only_every 3\n",
            false,
            "a",
            6,
            Greeting::Without,
            true,
        ),
        (
            "@@activate_only_every 3\n",
            true,
            "",
            0,
            Greeting::Without,
            true,
        ),
        ("@@is_greeting 1\n", true, "", 0, Greeting::Number(1), true),
        ("@@is_greeting 1\n", true, "", 0, Greeting::Number(0), false),
        ("@@is_greeting 1\n", true, "", 0, Greeting::Without, false),
        ("@@is_greeting 0\n", true, "", 0, Greeting::Without, false),
        ("@@is_greeting 1\n", true, "", 0, Greeting::Unknown, true),
        ("@@is_greeting 1\n", false, "b", 0, Greeting::Unknown, false),
        (
            "@@additional_keys b,c\n",
            false,
            "a c",
            0,
            Greeting::Without,
            true,
        ),
        (
            "@@additional_keys b,c\n",
            false,
            "a",
            0,
            Greeting::Without,
            false,
        ),
        (
            "@@additional_keys b\n@@additional_keys c\n",
            false,
            "a b",
            0,
            Greeting::Without,
            false,
        ),
        (
            "@@additional_keys b\n@@additional_keys c\n",
            false,
            "a b c",
            0,
            Greeting::Without,
            true,
        ),
        (
            "@@additional_keys b\n",
            true,
            "a",
            0,
            Greeting::Without,
            false,
        ),
        (
            "@@additional_keys b\n",
            true,
            "b",
            0,
            Greeting::Without,
            true,
        ),
        (
            "@@exclude_keys b,c\n",
            false,
            "a C",
            0,
            Greeting::Without,
            false,
        ),
        (
            "@@exclude_keys b\n@@exclude_keys c\n",
            true,
            "c",
            0,
            Greeting::Without,
            true,
        ),
        ("@@exclude_keys b\n", true, "", 0, Greeting::Without, true),
        (
            "@@keep_activate_after_match\n@@@dont_activate\n",
            false,
            "a",
            0,
            Greeting::Without,
            false,
        ),
    ] {
        let content = format!("{content}\nx");
        let entry = card::Entry {
            constant,
            ..entry("a", &content)
        };
        let chat = Chat {
            newest_first: &[message],
            replies,
            greeting,
        };
        let found = selected(&book(vec![entry]), &chat);
        assert_eq!(found, if expected { "x" } else { "" }, "{content}");
    }
}

#[test]
fn an_entry_that_no_prompt_can_have_is_told_from_one_that_is_off() {
    let off = |entry| card::Entry {
        enabled: false,
        ..entry
    };
    let selective = |secondary: &str| card::Entry {
        selective: true,
        secondary_keys: vec![secondary.to_owned()],
        ..delimited("a", "x")
    };
    let long = "k".repeat(2_000);
    for (entry, expected) in [
        (entry("a", "@@depth 2\n\n x"), Presence::Turn),
        (constant("x"), Presence::Fixed),
        (off(entry("a", "x")), Presence::Off),
        (off(entry("", "x")), Presence::Off),
        (entry("a", "@@role user\n \n"), Presence::Off),
        (constant("@@dont_activate\nx"), Presence::Off),
        (regex("(", "@@activate\nx"), Presence::Fixed),
        (entry("", "x"), Presence::Unreachable),
        (entry(" , ", "x"), Presence::Unreachable),
        (entry(&long, "x"), Presence::Unreachable),
        (entry("", "@@additional_keys a\nx"), Presence::Unreachable),
        (regex("", "x"), Presence::Unreachable),
        (regex("a,(", "x"), Presence::Unreachable),
        (delimited("/(/", "x"), Presence::Unreachable),
        (delimited("/(/,a", "x"), Presence::Turn),
        (selective("/(/"), Presence::Unreachable),
        (selective(" "), Presence::Turn),
        (entry("a", "@@scan_depth 0\nx"), Presence::Unreachable),
    ] {
        let lore = lore(&book(vec![entry.clone()]));
        let described: Vec<Described<'_>> = lore.described().collect();
        let content = match (expected, entry.content.starts_with("@@depth")) {
            (Presence::Off | Presence::Unreachable, _) => "",
            (_, true) => " x",
            (_, false) => "x",
        };
        let expected = Described {
            index: 0,
            presence: expected,
            content,
        };
        assert_eq!(described, [expected], "{entry:?}");
    }
    let lore = lore(&recursive(vec![entry("a", "@@scan_depth 0\nx")]));
    let presence = lore.described().map(|entry| entry.presence).next();
    assert_eq!(presence, Some(Presence::Turn));
}
