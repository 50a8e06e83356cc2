//! Lenient parsing of values that other writers of the stored format left: JSON in Python's dialect, numbers as text,
//! times as text. Pure functions. Values that this service stored do not need them.

use std::borrow::Cow;
use std::str::FromStr;

use serde_json::Value;
use serde_json::value::RawValue;

/// Length in bytes of an escape such as `\ud83d`.
const ESCAPE_BYTES: usize = 6;

/// Returns equivalent JSON that every parser accepts. `NaN`, `Infinity` and `-Infinity`, which Python writes
/// literally, become null; half of a surrogate pair becomes U+FFFD; control characters in strings are escaped. JSON
/// that is invalid for another reason stays invalid.
pub(crate) fn mended(json: &str) -> String {
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(['"', 'N', 'I', '-']) {
        let (before, found) = rest.split_at(at);
        mended.push_str(before);
        let literal = ["NaN", "-Infinity", "Infinity", "-NaN"]
            .into_iter()
            .find_map(|literal| found.strip_prefix(literal));
        rest = if let Some(after) = literal {
            mended.push_str("null");
            after
        } else if let Some(string) = found.strip_prefix('"') {
            mended.push('"');
            mend_string(string, &mut mended)
        } else {
            // The match is one ASCII byte, by the search above.
            let (one, after) = found.split_at(1);
            mended.push_str(one);
            after
        };
    }
    mended.push_str(rest);
    mended
}

/// Appends a string and its closing quote to `mended`, and returns the rest of the input.
fn mend_string<'a>(string: &'a str, mended: &mut String) -> &'a str {
    let mut rest = string;
    while let Some(at) = rest.find(|char: char| matches!(char, '"' | '\\' | '\0'..='\x1f')) {
        let (before, found) = rest.split_at(at);
        mended.push_str(before);
        let mut chars = found.chars();
        match chars.next() {
            Some('"') => {
                mended.push('"');
                return chars.as_str();
            }
            Some('\\') => rest = mend_escape(found, mended),
            Some(control) => {
                mended.push_str(&format!("\\u{:04x}", u32::from(control)));
                rest = chars.as_str();
            }
            None => break,
        }
    }
    mended.push_str(rest);
    ""
}

/// Appends one escape, or both escapes of a surrogate pair, to `mended`, and returns the rest of the input.
fn mend_escape<'a>(escape: &'a str, mended: &mut String) -> &'a str {
    let next = escape.get(ESCAPE_BYTES..).and_then(unit);
    let copied = match (unit(escape), next) {
        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 2 * ESCAPE_BYTES,
        (Some(0xD800..=0xDFFF), _) => {
            mended.push('\u{FFFD}');
            return escape.get(ESCAPE_BYTES..).unwrap_or_default();
        }
        // The backslash and the character that it escapes.
        _ => escape.chars().take(2).map(char::len_utf8).sum(),
    };
    let (copy, after) = escape.split_at(copied);
    mended.push_str(copy);
    after
}

/// Returns the UTF-16 code unit of an escape such as `\ud83d`.
fn unit(escape: &str) -> Option<u16> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    let are_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    are_hex.then(|| u16::from_str_radix(digits, 16).ok())?
}

/// Returns the same value, or an equivalent one that every parser accepts: see [`mended`].
pub(crate) fn readable(value: Box<RawValue>) -> Box<RawValue> {
    if !value.get().contains("\\u") {
        return value;
    }
    RawValue::from_string(mended(value.get())).unwrap_or(value)
}

/// Returns the integer in a number or in its text. Fractions are cut off, and values that are too large saturate.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| integer_of(&number.to_string())),
        Value::String(text) => integer_of(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns the Unix seconds in a number, in its text, or in an ISO 8601 date and time.
pub(crate) fn seconds(value: &Value) -> Option<i64> {
    integer(value).or_else(|| value.as_str().and_then(seconds_of_date))
}

/// Returns the integer in text such as `4`, `4.0` or `1e3`; `None` for infinity, NaN and other text.
pub(crate) fn integer_of(text: &str) -> Option<i64> {
    let text = text.trim();
    let float = || f64::from_str(text).ok().filter(|float| float.is_finite());
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`as` from a float saturates, and that is what is wanted"
    )]
    text.parse()
        .ok()
        .or_else(|| float().map(|float| float as i64))
}

/// Returns the Unix seconds in text: a number, or an ISO 8601 date and time.
pub(crate) fn seconds_of(text: &str) -> Option<i64> {
    integer_of(text).or_else(|| seconds_of_date(text))
}

/// Returns the Unix seconds of a time in the format of Python's `isoformat`: `2024-11-24T06:33:20.5+08:00`. A time
/// without an offset is in UTC.
fn seconds_of_date(text: &str) -> Option<i64> {
    let (date, time) = text.trim().split_at_checked(10)?;
    let time = time.strip_prefix(['T', 't', ' '])?;
    let (time, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => (time, ""),
    };
    let clock = time.split_once('.').map_or(time, |(whole, _)| whole);
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = hour < 24 && minute < 60 && second <= 60;
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    (is_date && is_time).then_some(seconds - east(offset)?)
}

/// Returns the offset from UTC in seconds, positive to the east, of text such as `+08:00`, `-0530` or `Z`.
fn east(offset: &str) -> Option<i64> {
    let Some((sign, by)) = offset.split_at_checked(1) else {
        return Some(0);
    };
    if sign.eq_ignore_ascii_case("z") {
        return by.is_empty().then_some(0);
    }
    let (hours, minutes) = by.split_at_checked(2)?;
    let minutes = match minutes.trim_start_matches(':') {
        "" => 0,
        minutes => minutes.parse::<u8>().ok()?,
    };
    let seconds = i64::from(hours.parse::<u8>().ok()?) * 3_600 + i64::from(minutes) * 60;
    Some(if sign == "-" { -seconds } else { seconds })
}

/// Returns the three non-negative numbers of `text`, such as `06:33:20`.
fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let parts: Option<Vec<i64>> = text
        .split(separator)
        .map(|part| part.parse::<u32>().ok().map(i64::from))
        .collect();
    parts?.try_into().ok()
}

/// Returns the number of days from 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so
/// that a leap day is the last day of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

/// Returns bytes as text: invalid UTF-8 becomes U+FFFD, and a byte order mark is removed.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_writes_is_mended() {
        for (json, expected) in [
            (
                r#"{"a":NaN,"b":[Infinity,-Infinity, -1]}"#,
                r#"{"a":null,"b":[null,null, -1]}"#,
            ),
            (
                r#"{"NaN":"NaN -Infinity \" Infinity"}"#,
                r#"{"NaN":"NaN -Infinity \" Infinity"}"#,
            ),
            (r#""a\ud83d""#, "\"a\u{FFFD}\""),
            (r#""\ude00b""#, "\"\u{FFFD}b\""),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (
                r#""\ud83d\ud83d\ude00\\ud83d""#,
                "\"\u{FFFD}\\ud83d\\ude00\\\\ud83d\"",
            ),
            (r#""\uD83Dx\ud8""#, "\"\u{FFFD}x\\ud8\""),
            ("\"a\nb\0\"", r#""a\u000ab\u0000""#),
            ("\"never ended \\", "\"never ended \\"),
            ("", ""),
        ] {
            assert_eq!(mended(json), expected, "{json}");
        }
    }

    #[test]
    fn numbers_are_read_from_text_too() {
        for (text, number) in [
            ("4", Some(4)),
            ("4.0", Some(4)),
            (" -4.9 ", Some(-4)),
            ("1e3", Some(1_000)),
            ("1e30", Some(i64::MAX)),
            ("99999999999999999999", Some(i64::MAX)),
            ("nan", None),
            ("inf", None),
            ("1e999", None),
            ("0x10", None),
            ("four", None),
            ("", None),
        ] {
            assert_eq!(integer_of(text), number, "{text}");
            assert_eq!(integer(&json!(text)), number, "{text}");
        }
        assert_eq!(integer(&json!(4.5)), Some(4));
        assert_eq!(integer(&json!(u64::MAX)), Some(i64::MAX));
        assert_eq!(integer(&json!(null)), None);
        assert_eq!(integer(&json!(true)), None);
    }

    #[test]
    fn times_are_read_from_iso_8601_too() {
        for (text, at) in [
            ("1732430000", Some(1_732_430_000)),
            ("1732430000.25", Some(1_732_430_000)),
            ("2024-11-24T06:33:20", Some(1_732_430_000)),
            ("2024-11-24 06:33:20.123456", Some(1_732_430_000)),
            ("2024-11-24T06:33:20Z", Some(1_732_430_000)),
            ("2024-11-24T14:33:20.5+08:00", Some(1_732_430_000)),
            ("2024-11-24T01:03:20-0530", Some(1_732_430_000)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800)),
            ("1970-01-01T00:00:00", Some(0)),
            ("2000-03-01T00:00:00", Some(951_868_800)),
            ("2024-13-01T00:00:00", None),
            ("2024-11-24T25:00:00", None),
            ("2024-11-24", None),
            ("yesterday evening", None),
            ("今天晚上十点钟左右", None),
        ] {
            assert_eq!(seconds_of(text), at, "{text}");
            assert_eq!(seconds(&json!(text)), at, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_json_already_says_the_same(text in "\\PC{0,40}", number in any::<i32>()) {
            let value = json!({ text.clone(): [text, number, null, -1.5] });
            let mended: Value = serde_json::from_str(&mended(&value.to_string())).expect("JSON");
            prop_assert_eq!(mended, value);
        }

        #[test]
        fn anything_can_be_mended(any in any::<String>(), bytes in any::<Vec<u8>>()) {
            let _ = mended(&any);
            let _ = mended(&text(&bytes));
            let _ = seconds_of(&any);
        }

        #[test]
        fn any_escapes_in_a_string_become_readable(units in proptest::collection::vec(any::<u16>(), 0..12)) {
            let escapes: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let read: String = serde_json::from_str(&mended(&format!("\"{escapes}\""))).expect("JSON");
            prop_assert_eq!(read, String::from_utf16_lossy(&units));
        }
    }
}
