//! Finds the card in a PNG: in a text chunk `ccv3`, else in a text chunk `chara`, wherever in the file it stands.
//!
//! The chunks are skipped from header to header, and only the text chunks of a card reach the crate `png`, each as part
//! of a minimal image of its own. So image data is never inflated, and neither its faults nor wrong checksums matter.

use png::{DecodeOptions, StreamingDecoder};

use super::problems::{Unreadable, Warning};
use super::{MAX_BYTES, decoded_base64};

/// The first bytes of each PNG.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// The signature and the header of a grey image of one pixel. Its checksum is not verified.
const MINIMAL: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\0\0\0\0";
/// The keywords of a card's chunks, the preferred one first.
const KEYWORDS: [&str; 2] = ["ccv3", "chara"];
/// Limit of the chunks of each keyword that are tried, so that a file of many broken chunks costs no more than a few.
const MAX_TRIED: usize = 3;
/// Limit of the length of a keyword in the format.
const MAX_KEYWORD: usize = 79;

/// A text chunk that may hold a card.
struct Candidate<'a> {
    keyword: &'static str,
    kind: [u8; 4],
    /// The content, without length, kind and checksum; `None` if the file ends within it.
    content: Option<&'a [u8]>,
}

/// Returns what `parse` makes of the best chunk that it can read, and a warning if that is not the first choice.
///
/// # Errors
/// The PNG has no card, or the error of the first choice if no chunk can be read.
pub(super) fn read<T>(
    file: &[u8],
    parse: impl Fn(Vec<u8>) -> Result<T, Unreadable>,
) -> Result<(T, Option<Warning>), Unreadable> {
    let candidates = candidates(file);
    let mut first_problem = None;
    for candidate in KEYWORDS
        .into_iter()
        .flat_map(|keyword| candidates.iter().filter(move |one| one.keyword == keyword))
    {
        let used = candidate.keyword;
        match (candidate.card().and_then(&parse), first_problem.take()) {
            (Ok(card), None) => return Ok((card, None)),
            (Ok(card), Some((unread, problem))) => {
                let warning = Warning::OtherChunk {
                    unread,
                    problem,
                    used,
                };
                return Ok((card, Some(warning)));
            }
            (Err(problem), first) => first_problem = first.or(Some((used, problem))),
        }
    }
    Err(first_problem.map_or(Unreadable::PngWithoutCard, |(_, problem)| problem))
}

/// Returns the text chunks that may hold a card, at most [`MAX_TRIED`] of each keyword.
fn candidates(file: &[u8]) -> Vec<Candidate<'_>> {
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    let mut rest = file.get(SIGNATURE.len()..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>()
        && let Some((kind, after)) = after.split_first_chunk::<4>()
    {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let content = after.get(..length);
        if let Some(keyword) = keyword(kind, content.unwrap_or(after))
            && candidates
                .iter()
                .filter(|one| one.keyword == keyword)
                .count()
                < MAX_TRIED
        {
            candidates.push(Candidate {
                keyword,
                kind: *kind,
                content,
            });
        }
        // The content and its checksum.
        rest = length
            .checked_add(4)
            .and_then(|skipped| after.get(skipped..))
            .unwrap_or_default();
    }
    candidates
}

/// Returns the keyword of a text chunk if it is one of a card's, in any case.
fn keyword(kind: &[u8; 4], content: &[u8]) -> Option<&'static str> {
    if !matches!(kind, b"tEXt" | b"zTXt" | b"iTXt") {
        return None;
    }
    let (start, _) = content.split_at(content.len().min(MAX_KEYWORD + 1));
    let found = start.split(|byte| *byte == 0).next()?;
    KEYWORDS
        .into_iter()
        .find(|keyword| found.eq_ignore_ascii_case(keyword.as_bytes()))
}

impl Candidate<'_> {
    /// Returns the bytes of the card's JSON.
    fn card(&self) -> Result<Vec<u8>, Unreadable> {
        let text = self.text()?;
        let text = text.trim_ascii();
        if text.starts_with(super::ENCRYPTED) {
            return Err(Unreadable::Encrypted);
        }
        // Some tools leave the base64 out.
        if text.starts_with(b"{") {
            return Ok(text.to_vec());
        }
        decoded_base64(text).ok_or(Unreadable::NotBase64 {
            chunk: self.keyword,
        })
    }

    /// Returns the chunk's text, inflated.
    fn text(&self) -> Result<Vec<u8>, Unreadable> {
        let damaged = || Unreadable::DamagedChunk {
            chunk: self.keyword,
        };
        let content = self.content.ok_or_else(damaged)?;
        if content.len() > MAX_BYTES {
            return Err(Unreadable::TooLarge {
                what: "the PNG's text chunk with the card",
                bytes: content.len(),
            });
        }
        let mut options = DecodeOptions::default();
        options.set_ignore_checksums(true);
        let mut decoder = StreamingDecoder::new_with_options(options);
        let length = u32::try_from(content.len()).map_err(|_| damaged())?;
        for part in [MINIMAL, &length.to_be_bytes(), &self.kind, content, &[0; 4]] {
            feed(&mut decoder, part).ok_or_else(damaged)?;
        }
        let info = decoder.info().ok_or_else(damaged)?;
        if let Some(chunk) = info.uncompressed_latin1_text.first() {
            return Ok(bytes(&chunk.text));
        }
        let inflated = |_| Unreadable::NotInflated {
            chunk: self.keyword,
        };
        if let Some(chunk) = info.compressed_latin1_text.first() {
            let mut chunk = chunk.clone();
            chunk
                .decompress_text_with_limit(MAX_BYTES)
                .map_err(inflated)?;
            return Ok(bytes(&chunk.get_text().map_err(|_| damaged())?));
        }
        let mut chunk = info.utf8_text.first().ok_or_else(damaged)?.clone();
        chunk
            .decompress_text_with_limit(MAX_BYTES)
            .map_err(inflated)?;
        Ok(chunk.get_text().map_err(|_| damaged())?.into_bytes())
    }
}

/// Passes all of `part` to the decoder; `None` if it refuses.
fn feed(decoder: &mut StreamingDecoder, mut part: &[u8]) -> Option<()> {
    while !part.is_empty() {
        let (taken, _) = decoder.update(part, None).ok()?;
        // The decoder may stop before a byte once, when a chunk begins or ends, but no text needs more than that.
        part = part.get(taken..)?;
    }
    Some(())
}

/// Returns the bytes of a text in Latin-1.
fn bytes(latin1: &str) -> Vec<u8> {
    latin1
        .chars()
        .map(|char| u8::try_from(char).unwrap_or(b'?'))
        .collect()
}
