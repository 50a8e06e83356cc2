//! The files in `events/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use testkit::answer::Problem;
use testkit::binary::WITHOUT_ROUTE;

use crate::{Checks, GATEWAYS};

/// A row of `refusals.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refusal {
    pub(super) name: String,
    /// The sample that is patched.
    pub(super) base: String,
    patch: Value,
    /// State on which the refusal depends, besides the event.
    #[serde(default)]
    pub(super) given: Given,
    status: u16,
    pub(super) code: String,
    detail: String,
    /// The detail where an authorizer checks the tokens: the function cannot tell a bad token from a missing one.
    detail_behind_an_authorizer: Option<String>,
    /// The headers that only some refusals have.
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Given {
    #[default]
    #[serde(rename = "nothing stored")]
    NothingStored,
    #[serde(rename = "damaged character")]
    DamagedCharacter,
    #[serde(rename = "stored turn")]
    StoredTurn,
    #[serde(rename = "used key")]
    UsedKey,
    #[serde(rename = "used limit")]
    UsedLimit,
    #[serde(rename = "no redis")]
    NoRedis,
}

impl Refusal {
    pub(super) fn event(&self) -> String {
        let mut event: Value = serde_json::from_str(&read(&self.base)).expect("JSON");
        json_patch::merge(&mut event, &self.patch);
        event
            .to_string()
            .replace("${64_KIB}", &"x".repeat(64 * 1024))
    }

    pub(super) fn problem(&self, checks: Checks) -> Problem {
        let detail = match (checks, &self.detail_behind_an_authorizer) {
            (Checks::Authorizer, Some(detail)) => detail,
            _ => &self.detail,
        };
        Problem {
            status: self.status,
            code: self.code.clone().into(),
            detail: detail.clone().into(),
        }
    }

    /// All headers of the answer.
    pub(super) fn headers(&self) -> BTreeMap<String, String> {
        let mut headers = self.headers.clone();
        headers.insert("content-type".into(), "application/problem+json".into());
        headers.insert("cache-control".into(), "no-store".into());
        headers
    }
}

/// Returns the names of all files in `events/`.
pub(super) fn files() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events");
    std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string())
        .map(|name| name.expect("UTF-8"))
        .collect()
}

/// Returns the routes that have a sample. Each is named after its function, and after its method if the function has
/// several; a second sample of a route has one more word.
pub(super) fn routes() -> BTreeSet<String> {
    let route = |file: &String| {
        let name = file.strip_suffix(".json")?;
        GATEWAYS
            .iter()
            .find_map(|gateway| name.strip_suffix(&format!(".{gateway}")))
            .map(str::to_owned)
    };
    let routes = files().iter().filter_map(route).collect::<BTreeSet<_>>();
    assert!(!routes.iter().any(|route| is_direct(route)), "{routes:?}");
    routes
}

/// Returns the names of the samples of the function without a route. Each is named after its action.
pub(super) fn direct() -> BTreeSet<String> {
    let name = |file: &String| {
        let name = file.strip_suffix(".json")?;
        is_direct(name).then(|| name.to_owned())
    };
    files().iter().filter_map(name).collect()
}

/// Returns whether a sample is for the function without a route.
pub(super) fn is_direct(sample: &str) -> bool {
    function_of(sample) == WITHOUT_ROUTE
}

pub(super) fn samples() -> Vec<String> {
    let of_route = |route: String| GATEWAYS.map(|gateway| format!("{route}.{gateway}.json"));
    let of_routes = routes().into_iter().flat_map(of_route);
    let direct = direct().into_iter().map(|name| format!("{name}.json"));
    of_routes.chain(direct).collect()
}

pub(super) fn refusals() -> Vec<Refusal> {
    serde_json::from_str(&read("refusals.json")).expect("a table of refusals")
}

pub(super) fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../events")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}: {}", path.display()))
}

/// Returns the function that a sample is for, by the sample's name.
pub(super) fn function_of(sample: &str) -> &str {
    sample.split('.').next().unwrap_or_default()
}
