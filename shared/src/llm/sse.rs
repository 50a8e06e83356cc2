//! Reads server-sent events from bytes in any chunking.
//!
//! Follows the WHATWG's "Server-sent events", with two deviations: an event that is cut short by the end of the stream
//! counts, because some servers forget the last blank line, and lines and events are limited to 1 MiB.

use bytes::{Buf, Bytes, BytesMut};

/// The maximum length of a line, and of the data of one event. A completion chunk has a few hundred bytes.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// A line or an event was longer than [`MAX_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Collects bytes and returns the `data` of each event.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: BytesMut,
    /// Number of bytes at the front of the buffer that contain no line end, so that they are searched only once.
    searched: usize,
    /// Whether the last line ended with a carriage return; a line feed right after it belongs to that line end.
    after_carriage_return: bool,
    data: BytesMut,
    has_data: bool,
    begun: bool,
}

impl Parser {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the data of the next complete event, or `None` if none is complete.
    pub(super) fn next_event(&mut self) -> Result<Option<Bytes>, TooLong> {
        while let Some(line) = self.next_line()? {
            if let Some(event) = self.take_line(line)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Returns the data of an event that was cut short by the end of the stream, if there is one.
    pub(super) fn finish(&mut self) -> Result<Option<Bytes>, TooLong> {
        self.push(b"\n\n");
        self.next_event()
    }

    fn next_line(&mut self) -> Result<Option<BytesMut>, TooLong> {
        if self.after_carriage_return && !self.buffer.is_empty() {
            if self.buffer.first() == Some(&b'\n') {
                self.buffer.advance(1);
            }
            self.after_carriage_return = false;
        }
        if !self.begun && self.buffer.len() >= BYTE_ORDER_MARK.len() {
            if self.buffer.starts_with(BYTE_ORDER_MARK) {
                self.buffer.advance(BYTE_ORDER_MARK.len());
            }
            self.begun = true;
        }
        let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
        match memchr::memchr2(b'\n', b'\r', unsearched) {
            Some(found) => {
                let mut line = self.buffer.split_to(self.searched + found + 1);
                self.searched = 0;
                self.after_carriage_return = line.last() == Some(&b'\r');
                line.truncate(line.len() - 1);
                if line.len() > MAX_BYTES {
                    Err(TooLong)
                } else {
                    Ok(Some(line))
                }
            }
            None if self.buffer.len() > MAX_BYTES => Err(TooLong),
            None => {
                self.searched = self.buffer.len();
                Ok(None)
            }
        }
    }

    fn take_line(&mut self, mut line: BytesMut) -> Result<Option<Bytes>, TooLong> {
        if line.is_empty() {
            let had_data = std::mem::take(&mut self.has_data);
            let data = std::mem::take(&mut self.data);
            return Ok(had_data.then(|| data.freeze()));
        }
        let Some(value) = line.strip_prefix(b"data") else {
            return Ok(None);
        };
        let value = match value.split_first() {
            None => value,
            Some((b':', value)) => value.strip_prefix(b" ").unwrap_or(value),
            Some(_) => return Ok(None),
        };
        if self.data.len() + value.len() > MAX_BYTES {
            return Err(TooLong);
        }
        if std::mem::replace(&mut self.has_data, true) {
            self.data.extend_from_slice(b"\n");
            self.data.extend_from_slice(value);
        } else {
            line.advance(line.len() - value.len());
            self.data = line;
        }
        Ok(None)
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(chunks: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk);
            while let Some(event) = parser.next_event().expect("within limits") {
                events.push(String::from_utf8(event.to_vec()).expect("UTF-8"));
            }
        }
        if let Some(event) = parser.finish().expect("within limits") {
            events.push(String::from_utf8(event.to_vec()).expect("UTF-8"));
        }
        events
    }

    const STREAM: &str = ": hello\r\nid: 1\r\ndata: {\"a\":\"你好🙂\"}\r\n\r\nevent: x\ndata:two\ndata: lines\n\n\ndata\r\rdata: last";

    #[test]
    fn lines_end_in_three_ways_and_comments_are_passed_over() {
        assert_eq!(
            parse(&[STREAM.as_bytes()]),
            ["{\"a\":\"你好🙂\"}", "two\nlines", "", "last"]
        );
    }

    #[test]
    fn fields_that_only_begin_like_data_are_passed_over() {
        assert_eq!(
            parse(&[b"database: x\n\ndata2\n\n data: y\n\n"]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(parse(&[b"\xEF\xBB", b"\xBFdata: x\n\n"]), ["x"]);
    }

    #[test]
    fn a_line_without_an_end_is_refused_and_not_collected() {
        let mut parser = Parser::default();
        let chunk = [b'x'; 64 * 1024];
        for _ in 0..16 {
            parser.push(&chunk);
            assert_eq!(parser.next_event(), Ok(None));
        }
        parser.push(b"x");
        assert_eq!(parser.next_event(), Err(TooLong));
    }

    #[test]
    fn an_event_of_many_lines_is_bounded_too() {
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &[b'x'; 64 * 1024], b"\n"].concat();
        let outcome = (0..17).try_for_each(|_| {
            parser.push(&line);
            parser.next_event().map(|_| ())
        });
        assert_eq!(outcome, Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_chunking_parses_the_same(cuts in proptest::collection::vec(0..STREAM.len(), 0..40)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts
                .windows(2)
                .map(|pair| STREAM.as_bytes().get(pair[0]..pair[1]).expect("in range"))
                .collect();
            prop_assert_eq!(parse(&chunks), parse(&[STREAM.as_bytes()]));
        }

        #[test]
        fn no_bytes_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..20)) {
            let mut parser = Parser::default();
            for chunk in chunks {
                parser.push(&chunk);
                while let Ok(Some(_)) = parser.next_event() {}
            }
            let _ = parser.finish();
        }
    }
}
