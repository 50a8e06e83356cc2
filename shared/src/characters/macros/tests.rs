use std::collections::HashSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const SCOPE: Scope<'static> = Scope {
    char: "Mira",
    user: "Ann, B",
    original: "Be kind.",
    session: "s1",
};

fn expanded(text: &str) -> String {
    expand(text, &SCOPE, "description").into_owned()
}

#[test]
fn names_stand_for_their_macros_in_any_case_and_with_blanks() {
    for (text, expected) in [
        (
            "{{char}} likes {{USER}}, {{ Char }}!",
            "Mira likes Ann, B, Mira!",
        ),
        ("<BOT>, <char> & <User>", "Mira, Mira & Ann, B"),
        ("{{original}} Be brief.", "Be kind. Be brief."),
        ("{{{char}}} {{{{char}}}}", "{Mira} {{Mira}}"),
        ("{{\nuser\t}}", "Ann, B"),
    ] {
        assert_eq!(expanded(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_macro_stays_to_the_letter() {
    for text in [
        "",
        "plain, text: with \\, marks",
        "{char} }} { } <bots> < user> <us",
        "{{unknown}} {{unknown:a,b}} {{user",
        "{{char:x}} {{random}} {{reverse}} {{}} {{:}}",
        "{{roll:x}} {{roll:0}} {{roll:}} {{roll:-1}} {{roll:d}} {{roll:+6}} {{roll:99999999999999999999}}",
        "{{random:a,b",
        "{{{{",
        "一{{二}}三",
        "{{cHÄr}} {{ſ}}",
    ] {
        assert_eq!(expanded(text), text);
        assert!(matches!(
            expand(text, &SCOPE, "description"),
            Cow::Borrowed(_)
        ));
    }
}

#[test]
fn notes_vanish_and_reversed_text_is_reversed() {
    for (text, expected) in [
        ("a{{// note }}b{{//}}c", "abc"),
        ("a{{comment: {{user}} is {{x}} }}b", "ab"),
        ("a{{hidden_key:dragon}}b", "ab"),
        ("{{reverse:Hello}}", "olleH"),
        ("{{Reverse:中文é}}", "é文中"),
        ("{{reverse:}}", ""),
    ] {
        assert_eq!(expanded(text), expected, "{text}");
    }
}

#[test]
fn macros_in_macros_resolve_from_the_inside_out() {
    for (text, expected) in [
        ("{{reverse:{{char}}!}}", "!ariM"),
        ("{{reverse:a{{reverse:bc}}d}}", "dbca"),
        ("{{reverse:a{{random:bc}}d}}", "dcba"),
        ("{{reverse:{{{char}}}}}", "}ariM{"),
        ("{{reverse:a{{// x}}{{y}}}}", "}}y{{a"),
        ("{{unknown {{char}}}}", "{{unknown Mira}}"),
        ("{{never closed {{char}}", "{{never closed Mira"),
        // The comma of the user's name separates nothing.
        ("{{random:{{user}}}}", "Ann, B"),
        ("{{roll:{{roll:1}}}}", "1"),
        ("{{random:{{random:{{random:x}}}}}}", "x"),
        ("{{roll:{{char}}}}", "{{roll:Mira}}"),
    ] {
        assert_eq!(expanded(text), expected, "{text}");
    }
}

#[test]
fn what_a_macro_yields_is_not_a_macro() {
    let scope = Scope {
        char: "{{user}}",
        user: "{{char}}",
        ..SCOPE
    };
    for (text, expected) in [
        ("{{user}} <user>", "{{char}} {{char}}"),
        ("{{reverse:{{user}}}}", "}}rahc{{"),
        ("{{random:{{user}}}}", "{{char}}"),
        ("{{{{user}}}}", "{{{{char}}}}"),
    ] {
        assert_eq!(expand(text, &scope, ""), expected, "{text}");
    }
}

#[test]
fn a_choice_is_one_of_its_options() {
    for (text, options) in [
        ("{{random:a,b,c}}", vec!["a", "b", "c"]),
        ("{{pick::a,b}}", vec!["a", "b"]),
        ("{{random: a , b c }}", vec!["a", "b c"]),
        ("{{random::a, b::c}}", vec!["a, b", "c"]),
        ("{{random:a\\, b,c}}", vec!["a, b", "c"]),
        ("{{random:a,}}", vec!["a", ""]),
        ("{{random:{{char}},{{user}}}}", vec!["Mira", "Ann, B"]),
        ("{{random:{{pick:a,b}},{x:y}}}", vec!["a", "b", "{x:y}"]),
        ("{{{random:{a},{b}}}}", vec!["{{a}}", "{{b}}"]),
        ("{{{random:a,b}}}", vec!["{a}", "{b}"]),
        ("{{pick:{,b}}", vec!["{", "b"]),
        ("{{roll:3}}", vec!["1", "2", "3"]),
        ("{{roll: D2 }}", vec!["1", "2"]),
    ] {
        let drawn: HashSet<String> = (0..200)
            .map(|place| expand(text, &SCOPE, &place.to_string()).into_owned())
            .collect();
        let options: HashSet<String> = options.into_iter().map(str::to_owned).collect();
        assert_eq!(drawn, options, "{text}");
    }
}

/// The digests are the contract: a new build must not change the prompts of running sessions.
#[test]
fn a_session_draws_the_same_on_every_build() {
    let dice = "{{roll:1000}} {{roll:1000}} {{pick:a,b,c,d,e,f}}";
    assert_eq!(expanded(dice), "268 996 f");
}

#[test]
fn sessions_and_places_draw_differently() {
    let dice = "{{roll:1000000}}";
    let drawn: HashSet<String> = (0..100)
        .flat_map(|number| {
            let session = format!("session {number}");
            let scope = Scope {
                session: &session,
                ..SCOPE
            };
            ["greeting 1", "entry 2"].map(|place| expand(dice, &scope, place).into_owned())
        })
        .collect();
    assert!(drawn.len() > 190, "{}", drawn.len());
}

#[test]
fn hidden_keys_are_found_and_notes_are_not() {
    for (text, keys) in [
        ("", ""),
        (
            "a {{hidden_key:dragon, {{char}}}} b {{HIDDEN_KEY:cave}}",
            "dragon, {{char}}\ncave",
        ),
        ("{{// {{hidden_key:no}} }} {{hidden_key:never closed", ""),
    ] {
        assert_eq!(hidden_keys(text), keys, "{text}");
    }
}

#[test]
fn hostile_texts_take_linear_time() {
    let many = 150_000;
    for text in [
        "{{".repeat(many * 4),
        "{{reverse:".repeat(many) + &"x".repeat(many) + &"}}".repeat(many),
        "{{random:".repeat(many) + &"x".repeat(many) + &"}}".repeat(many),
        "{{roll:".repeat(many) + "6" + &"}}".repeat(many),
        "{{roll:{{//}}".repeat(many) + "x" + &"}}".repeat(many),
        "{{hidden_key:".repeat(many) + &"}}".repeat(many),
        "{{   ".repeat(many),
        "{{random:".to_owned() + &",".repeat(many * 10) + "}}",
        "{{random:,,".repeat(many) + &"}}".repeat(many),
    ] {
        let began = Instant::now();
        let _ = expanded(&text);
        let _ = hidden_keys(&text);
        // In quadratic time each of them would take many minutes.
        assert!(began.elapsed() < Duration::from_secs(60), "{:.40}", text);
    }
}

#[test]
fn a_long_name_cannot_fill_the_memory() {
    let name = "n".repeat(100_000);
    let scope = Scope {
        char: &name,
        ..SCOPE
    };
    let text = "{{char}}{{roll:{{char}}}}".repeat(10_000);
    let expanded = expand(&text, &scope, "");
    assert!(expanded.len() <= text.len() + MAX_ADDED);
    assert!(expanded.starts_with("nnn") && expanded.ends_with("{{roll:{{char}}}}"));
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{{"),
        Just("}}"),
        Just("{"),
        Just("}"),
        Just("random:"),
        Just("roll:"),
        Just("reverse:"),
        Just("{{char}}"),
        Just("{{user}}"),
        Just("<BOT>"),
        Just("//"),
        Just(","),
        Just("::"),
        Just("\\,"),
        Just("6"),
        Just(" "),
        Just("é")
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_expands_to_the_same_twice(text in pieces(), any in any::<String>()) {
        for text in [text, any] {
            prop_assert_eq!(expanded(&text), expanded(&text));
            let _ = hidden_keys(&text);
        }
    }

    #[test]
    fn a_text_without_macros_is_unchanged(text in "[^{<]{0,60}", around in "[ a-z{]{0,10}") {
        prop_assert_eq!(&expanded(&text), &text);
        prop_assert_eq!(expanded(&format!("{text}<{around}")), format!("{text}<{around}"));
    }

    #[test]
    fn reversed_twice_is_unchanged(text in "[^{}<]{0,60}") {
        prop_assert_eq!(expanded(&format!("{{{{reverse:{{{{reverse:{text}}}}}}}}}")), text);
    }
}
