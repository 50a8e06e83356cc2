//! The sizes of the binaries, and how much each crate takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::binary::{binary, functions};

use super::report::{Report, heading};

/// The number of crates that are reported by name; the others are summed.
const NAMED_CRATES: usize = 12;

pub(crate) fn binaries(report: &mut Report) {
    heading("Binaries, stripped as they are deployed");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in &functions() {
        let path = stripped(&binary(name), folder.path());
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        report.single("binary", name, "MB", size as f64 / 1e6);
        if let Some(bytes) = zip(&path) {
            report.single("binary", &format!("{name}, zipped"), "MB", bytes / 1e6);
        }
    }
    room(report, &binary("chat-stream"));
}

/// Returns the bytes that a zip takes of a binary without its symbols, or `None` if gzip fails.
pub(crate) fn zipped_bytes(path: &Path) -> Option<f64> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    zip(&stripped(path, folder.path()))
}

fn zip(path: &Path) -> Option<f64> {
    let zipped = Command::new("gzip").args(["-9", "-c"]).arg(path).output();
    let zipped = zipped.ok().filter(|output| output.status.success())?;
    Some(zipped.stdout.len() as f64)
}

/// Returns the path of a copy without symbols, or of the file itself if `strip` is not installed.
fn stripped(path: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join(path.file_name().unwrap_or_default());
    let done = Command::new("strip")
        .arg("-o")
        .arg(&copy)
        .arg(path)
        .status();
    match done {
        Ok(status) if status.success() => copy,
        _ => path.to_owned(),
    }
}

/// Reports the size of each crate, from the symbols of the binary. `make bench` builds binaries that keep them.
fn room(report: &mut Report, path: &Path) {
    let listed = Command::new("nm")
        .args(["--print-size", "--demangle"])
        .arg(path)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let mut crates: BTreeMap<&str, u64> = BTreeMap::new();
    for line in listed.lines() {
        let mut fields = line.splitn(4, ' ').skip(1);
        let (Some(size), Some(_), Some(name)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if let Ok(size) = u64::from_str_radix(size, 16) {
            *crates.entry(crate_of(name)).or_default() += size;
        }
    }
    let mut crates: Vec<_> = crates.into_iter().collect();
    crates.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    for (name, size) in crates.iter().take(NAMED_CRATES) {
        report.single(
            "binary",
            &format!("of that, {name}"),
            "MB",
            *size as f64 / 1e6,
        );
    }
    let others: u64 = crates.iter().skip(NAMED_CRATES).map(|(_, size)| size).sum();
    report.single("binary", "of that, all others", "MB", others as f64 / 1e6);
}

/// Returns the crate of a symbol: the first name of its path. Symbols of C have no path.
fn crate_of(symbol: &str) -> &str {
    let path = symbol.trim_start_matches(['<', '&', '*', '(', '[']);
    let path = path.strip_prefix("dyn ").unwrap_or(path);
    match path.split_once("::") {
        Some((name, _))
            if name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
        {
            name
        }
        _ if symbol.starts_with("aws_lc") => "aws-lc",
        _ => "C and others",
    }
}
