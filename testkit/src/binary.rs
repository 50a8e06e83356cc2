//! The functions' real binaries, built from the current tree.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a folder of binaries to test instead of building them, for example release binaries.
const OVERRIDE: &str = "COMPANION_CHAT_BIN_DIR";

/// The name of the function that no request reaches. It is invoked by callers with the right to do so, and its events and
/// answers are JSON of their own form.
pub const WITHOUT_ROUTE: &str = "put-character";

/// Returns the path of a function's binary and builds it first, unless `COMPANION_CHAT_BIN_DIR` names a folder of
/// binaries.
///
/// # Panics
/// If the build fails.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY
        .get_or_init(|| match std::env::var_os(OVERRIDE) {
            Some(directory) => directory.into(),
            // The default members are the functions alone, with the features that are deployed.
            None => built(&["--bins"]),
        })
        .join(name)
}

/// Returns the path of `chat-stream` with the feature `test-hooks` and builds it first.
///
/// The function is selected alone, as functions are for [`binary`], so that both builds share all dependencies and only
/// `shared` and the function itself are compiled twice.
///
/// # Panics
/// If the build fails.
#[must_use]
pub fn chat_stream_with_test_hooks() -> PathBuf {
    const NAME: &str = "chat-stream-with-test-hooks";
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let features = "test-hooks";
    DIRECTORY
        .get_or_init(|| {
            built(&[
                "--package",
                "chat-stream",
                "--bin",
                NAME,
                "--features",
                features,
            ])
        })
        .join(NAME)
}

/// Returns the names of all functions, in alphabetical order: those of the folders in `functions/`.
///
/// # Panics
/// If the folder cannot be read.
#[must_use]
pub fn functions() -> Vec<String> {
    let folders = std::fs::read_dir(workspace().join("functions")).expect("a folder of functions");
    let name = |folder: std::io::Result<DirEntry>| folder.expect("a folder").file_name();
    let names = folders.map(|folder| name(folder).into_string().expect("a name in ASCII"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Returns the names of the functions that the gateway forwards requests to, in alphabetical order. [`WITHOUT_ROUTE`] is
/// none of them.
///
/// # Panics
/// If the folder of functions cannot be read.
#[must_use]
pub fn functions_with_routes() -> Vec<String> {
    let mut names = functions();
    names.retain(|name| name != WITHOUT_ROUTE);
    names
}

/// Runs `cargo build` with these arguments, in the profile of the running test. Returns the profile's folder.
fn built(arguments: &[&str]) -> PathBuf {
    let profile = profile();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .current_dir(workspace())
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(profile.parent().expect("a profile is in a target folder"))
        .args(arguments);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().expect("cargo can be run");
    assert!(
        status.success(),
        "cargo build {} failed",
        arguments.join(" ")
    );
    profile
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("testkit is in a workspace")
}

/// Returns the folder into which cargo built the running test, such as `target/debug`.
fn profile() -> PathBuf {
    // …/target/debug/deps/some_test-0123 or …/target/debug/some_bench
    let executable = std::env::current_exe().expect("a running test has an executable");
    executable
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps") && !directory.ends_with("examples"))
        .expect("a test is in a profile's folder")
        .to_owned()
}
