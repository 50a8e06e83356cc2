//! What an answer tells browsers about the pages that may read it (the Fetch standard's CORS protocol).
//!
//! Every answer tells it, those that refuse included: a page could not see why it was refused otherwise. Preflight
//! requests are the gateway's to answer, so `OPTIONS` is a method like any other that a route does not have.

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, VARY};
use http::{HeaderMap, HeaderValue, Response};

use crate::config::CorsConfig;

/// What is added to one answer.
pub(super) struct Grant {
    allow_origin: Option<HeaderValue>,
    /// Another origin would be answered differently, which caches must know.
    varies: bool,
}

impl Grant {
    /// What the request's answer will tell.
    pub(super) fn of(config: &CorsConfig, request: &HeaderMap) -> Self {
        let (allow_origin, varies) = match config {
            CorsConfig::Silent => (None, false),
            CorsConfig::Any => (Some(HeaderValue::from_static("*")), false),
            CorsConfig::Listed(origins) => {
                let origin = request.get(ORIGIN);
                let listed = origins.iter().find(|listed| Some(*listed) == origin);
                (listed.cloned(), true)
            }
        };
        Self {
            allow_origin,
            varies,
        }
    }

    /// Adds it. Nothing is repeated: whatever had these names before is replaced.
    pub(super) fn add_to<T>(self, mut response: Response<T>) -> Response<T> {
        let headers = response.headers_mut();
        if let Some(origin) = self.allow_origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        if self.varies {
            headers.insert(VARY, HeaderValue::from_static("Origin"));
        }
        response
    }
}
