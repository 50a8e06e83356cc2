//! Finds the card in a CHARX: the entry `card.json` at the root of a ZIP archive, which may stand behind other data, as
//! RisuAI appends it to a JPEG.
//!
//! What the archive says about sizes is not believed: the card is counted while it is inflated, and all that is read
//! from the file has a limit, which also bounds the memory of the directory.

use std::io::{Cursor, ErrorKind, Read, Result as IoResult, Seek, SeekFrom};

use zip::ZipArchive;
use zip::result::ZipError;

use super::MAX_BYTES;
use super::problems::Unreadable;

/// The name of the card's entry.
const CARD: &[u8] = b"card.json";
/// Limit of the bytes that are read from the file: the directory, in which 100,000 entries take about 8 MB, and the
/// card.
const MAX_READ: usize = 16 * 1024 * 1024;

/// Returns the bytes of the card's JSON. If several entries have its name, the last one counts.
///
/// # Errors
/// The file has no readable archive, the archive has no card, or the card in it cannot be read.
pub(super) fn card(file: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let reader = Bounded {
        file: Cursor::new(file),
        left: MAX_READ,
    };
    let mut archive = ZipArchive::new(reader).map_err(|_| Unreadable::DamagedArchive)?;
    let index = archive
        .index_for_name_raw(CARD)
        .or_else(|| {
            let mut names = archive.file_names_raw();
            names.position(|name| {
                let name = name.strip_prefix(b"./").unwrap_or(name);
                name.eq_ignore_ascii_case(CARD)
            })
        })
        .ok_or(Unreadable::CharxWithoutCard)?;
    let entry = archive.by_index(index).map_err(|error| match error {
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => Unreadable::EncryptedEntry,
        ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => {
            Unreadable::OtherCompression
        }
        _ => Unreadable::DamagedEntry,
    })?;
    // One byte beyond the limit shows that there is more.
    let limit = u64::try_from(MAX_BYTES).map_or(u64::MAX, |limit| limit + 1);
    let mut card = Vec::new();
    entry
        .take(limit)
        .read_to_end(&mut card)
        .map_err(|error| match error.kind() {
            // The archive names its compression when the entry is opened, and the crate refuses it when it is read.
            ErrorKind::Unsupported => Unreadable::OtherCompression,
            _ => Unreadable::DamagedEntry,
        })?;
    if card.len() > MAX_BYTES {
        return Err(Unreadable::InflatesTooFar);
    }
    Ok(card)
}

/// A file of which only so many bytes are read.
struct Bounded<'a> {
    file: Cursor<&'a [u8]>,
    left: usize,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        let read = self.file.read(buffer)?;
        self.left = self.left.checked_sub(read).ok_or(ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

impl Seek for Bounded<'_> {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        self.file.seek(to)
    }
}
