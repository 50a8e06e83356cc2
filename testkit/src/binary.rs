//! The functions' real binaries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A directory of binaries to test instead of building them: release binaries, for example.
const OVERRIDE: &str = "COMPANION_CHAT_BIN_DIR";

/// The path of a function's binary, built from the tree as it is.
///
/// # Panics
/// If the build fails.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(directory).join(name)
}

fn directory() -> PathBuf {
    if let Some(directory) = std::env::var_os(OVERRIDE) {
        return directory.into();
    }
    let profile = profile();
    // The functions alone, the workspace's default members, with the features that are deployed.
    build(&profile, &["--bins"]);
    profile
}

/// Where cargo puts what it builds as it built what runs now.
fn profile() -> PathBuf {
    // …/target/debug/deps/some_test-0123 or …/target/debug/some_bench
    let executable = std::env::current_exe().expect("a running test has an executable");
    executable
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps") && !directory.ends_with("examples"))
        .expect("a profile's directory")
        .to_owned()
}

fn build(profile: &Path, what: &[&str]) {
    let target = profile.parent().expect("a target directory");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .current_dir(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .parent()
                .expect("the workspace"),
        )
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(target)
        .args(what);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().expect("cargo can be run");
    assert!(status.success(), "{} does not build", what.join(" "));
}
