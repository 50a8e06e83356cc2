//! Where entries stand in a prompt, and in which order.

use super::*;

#[test]
fn an_entry_for_a_section_that_is_missing_stands_in_its_own_place() {
    let entry = constant("@@position scenario\nx");
    for (scenario, place) in [(true, Place::Scenario), (false, Place::BeforeChar)] {
        let sections = Sections {
            personality: true,
            scenario,
        };
        let lore = Lore::new(&book(vec![entry.clone()]), "Mira", sections);
        let fixed = lore.fixed(&text, &bytes).kept;
        assert_eq!(fixed.first().map(|placed| placed.place), Some(place));
    }
}

#[test]
fn what_may_change_stands_behind_and_what_is_fixed_in_front() {
    let after = |entry| card::Entry {
        position: Position::AfterChar,
        ..entry
    };
    for (entry, place, is_fixed) in [
        (constant("x"), Place::BeforeChar, true),
        (after(constant("x")), Place::AfterChar, true),
        (
            constant("@@position personality\nx"),
            Place::Personality,
            true,
        ),
        (
            constant("@@position scenario\n@@depth 3\nx"),
            Place::Scenario,
            true,
        ),
        (constant("@@position after_desc\nx"), Place::AfterChar, true),
        (
            after(constant("@@position before_desc\nx")),
            Place::BeforeChar,
            true,
        ),
        (
            constant("@@position nowhere\n@@@depth 1\nx"),
            Place::Depth(1),
            false,
        ),
        (constant("@@depth 2\nx"), Place::Depth(2), false),
        (constant("@@exclude_keys b\nx"), Place::Behind, false),
        (constant("@@activate_only_after 0\nx"), Place::Behind, false),
        (after(entry("a", "x")), Place::Behind, false),
        (
            entry("a", "@@position personality\nx"),
            Place::Behind,
            false,
        ),
        (entry("a", "@@depth 0\nx"), Place::Depth(0), false),
        (
            entry("b", "@@activate\n@@exclude_keys a\nx"),
            Place::BeforeChar,
            true,
        ),
    ] {
        let content = entry.content.clone();
        let lore = lore(&book(vec![entry]));
        let found = lore.select(&chat(&["a"]), &text, &bytes);
        let places: Vec<Place> = found.iter().map(|placed| placed.place).collect();
        assert_eq!(places, [place], "{content}");
        let presence = lore.described().map(|entry| entry.presence).next();
        let expected = if is_fixed {
            Presence::Fixed
        } else {
            Presence::Turn
        };
        assert_eq!(presence, Some(expected), "{content}");
        let fixed = lore.fixed(&text, &bytes);
        assert_eq!(
            fixed.kept,
            if is_fixed { found } else { Vec::new() },
            "{content}"
        );
    }
}

#[test]
fn an_entry_may_speak_in_a_role() {
    for (content, role) in [
        ("x", Role::System),
        ("@@role user\n@@depth 0\nx", Role::User),
        ("@@role assistant\nx", Role::Assistant),
    ] {
        let found = placed(&book(vec![constant(content)]), &chat(&[]));
        assert_eq!(found.first().map(|placed| placed.role), Some(role));
    }
}

#[test]
fn entries_come_in_their_order_with_their_macros_expanded() {
    let ordered = |order, content| card::Entry {
        insertion_order: order,
        ..entry("a", content)
    };
    let book = book(vec![
        ordered(2, "c={{user}}"),
        ordered(-1, "a={{char}}"),
        ordered(2, "d"),
        ordered(0, "b"),
    ]);
    assert_eq!(selected(&book, &chat(&["A"])), "a=Mira b c=Ann d");
}
