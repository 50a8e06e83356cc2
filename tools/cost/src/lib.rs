//! What `chat-stream` costs on Lambda: the formulas and the default prices.
//!
//! `make capacity` prints the result for one load, and `make plots` draws it over many. Neither has formulas of its
//! own, and both write numbers in the same way. Not included: the model, API Gateway, Redis, logs, traffic, and the
//! other functions.

/// Price in dollars of a GB-second: the list price of us-east-1 for arm64, first tier.
pub const DOLLARS_PER_GB_SECOND: f64 = 0.000_013_333_4;

/// Price in dollars of a million requests: the list price of us-east-1.
pub const DOLLARS_PER_MILLION_REQUESTS: f64 = 0.20;

/// Seconds from the request to the last delta of a reply that are assumed where nothing else is given.
pub const REPLY_SECONDS: f64 = 8.0;

/// Returns the GB-seconds that Lambda bills for a turn. `lambda_mb` is the function's memory as Lambda counts it: 1,024
/// MB are a GB.
#[must_use]
pub fn gb_seconds_a_turn(lambda_mb: u64, reply_seconds: f64) -> f64 {
    lambda_mb as f64 / 1_024.0 * reply_seconds
}

/// Returns the price in dollars of the duration of `turns` turns.
#[must_use]
pub fn duration_dollars(turns: f64, gb_seconds_a_turn: f64, dollars_per_gb_second: f64) -> f64 {
    turns * gb_seconds_a_turn * dollars_per_gb_second
}

/// Returns the price in dollars of the requests of `turns` turns, of which each is one request.
#[must_use]
pub fn request_dollars(turns: f64, dollars_per_million_requests: f64) -> f64 {
    turns / 1e6 * dollars_per_million_requests
}

/// Formats a rounded number with a comma between thousands.
#[must_use]
pub fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let left = digits.len() - at;
        if at > 0 && left % 3 == 0 && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated_by_commas() {
        let written = [0.4, 999.0, 999.5, 12_345.0, 1e9, -1_000.0, -100.0].map(count);
        let expected = [
            "0",
            "999",
            "1,000",
            "12,345",
            "1,000,000,000",
            "-1,000",
            "-100",
        ];
        assert_eq!(written, expected);
    }

    #[test]
    fn half_the_memory_halves_the_price_of_duration_and_leaves_that_of_requests() {
        let month = |megabytes| {
            let each = gb_seconds_a_turn(megabytes, REPLY_SECONDS);
            duration_dollars(30e6, each, DOLLARS_PER_GB_SECOND).round()
        };
        assert_eq!((month(128), month(256)), (400.0, 800.0));
        assert_eq!(
            request_dollars(30e6, DOLLARS_PER_MILLION_REQUESTS).round(),
            6.0
        );
    }
}
