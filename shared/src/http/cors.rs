//! The response headers that allow web pages to read a response (the CORS protocol of the Fetch standard).
//!
//! Error responses carry the headers too; otherwise a page could not read why its request failed. The gateway answers
//! preflight requests, so a route treats `OPTIONS` like any other method that it does not support.

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ORIGIN, VARY};
use http::{HeaderMap, HeaderValue, Response};

use crate::config::CorsConfig;

/// The headers that a page may read besides those that every page may: what a response adds to its status, and the
/// gateway's id of the request, by which operators find it. The gateway's own errors in `template.yaml` name the same.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("allow,retry-after,www-authenticate,x-amzn-requestid");

/// The CORS headers of one response.
pub(super) struct Grant {
    allow_origin: Option<HeaderValue>,
    /// Whether the response depends on the request's origin, which `Vary` reports to caches.
    varies: bool,
}

impl Grant {
    /// Returns the headers for the response to a request with these headers.
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

    /// Sets the CORS headers, replacing any that are already present.
    pub(super) fn add_to<T>(self, mut response: Response<T>) -> Response<T> {
        let headers = response.headers_mut();
        if let Some(origin) = self.allow_origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        if self.varies {
            headers.insert(VARY, HeaderValue::from_static("Origin"));
        }
        response
    }
}
