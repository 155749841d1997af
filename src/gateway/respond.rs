//! [`Stop`] to a response, and the limits on request bodies.

use std::sync::Arc;

use http::Response;

use super::body::{Limited, TooLarge, Trailing};
use super::setup::Setup;
use super::story::Story;
use crate::access::Refusal;
use crate::answer::{Body, BoxError, Code, Context, Problem};
use crate::route::Head;
use crate::route::settings::Route;
use crate::upstream::SendError;

/// Why a request was not forwarded, or its answer not passed on.
#[derive(Debug)]
pub(super) enum Stop {
    /// A problem with the request itself, or one of ours.
    Problem(Problem),
    /// We said no by policy.
    Refusal(Refusal),
    /// The upstream did not answer.
    Upstream(SendError),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<SendError> for Stop {
    fn from(error: SendError) -> Self {
        Self::Upstream(error)
    }
}

/// The answer to a request that was stopped.
pub(super) fn to(stop: Stop, setup: &Setup, story: &mut Story) -> Response<Body> {
    let problem = match stop {
        Stop::Problem(problem) => problem,
        Stop::Refusal(refusal) => {
            story.token = refusal.token;
            refusal.problem
        }
        Stop::Upstream(SendError::RequestBody(error)) => of_body(&error),
        Stop::Upstream(error) => {
            story.target = error.target().cloned();
            let chain = chain(&error);
            tracing::warn!(
                request_id = story.request_id.as_str(),
                error = chain,
                "the upstream did not answer"
            );
            Problem::new(error.code(), error.detail())
        }
    };
    problem.into_response(&Context {
        request_id: story.request_id.as_str(),
        realm: &setup.settings.realm,
        invalid_token_status: setup.settings.invalid_token_status,
        head: story.method == http::Method::HEAD,
        grpc: story.grpc,
        // Refused before it got there, in the form of where it was to go.
        error_member: setup.endpoints.matches(story.path(), story.host()),
    })
}

/// A body whose length is said to be over the limit is refused before any of it is read.
pub(super) fn within_limit(head: &Head, route: &Route) -> Result<(), Problem> {
    match (head.content_length(), route.max_body) {
        (Some(length), Some(limit)) if length > limit => Err(too_large(limit)),
        _ => Ok(()),
    }
}

/// The request body, counted where its length was not said.
pub(super) fn limited(body: Body, head: &Head, route: &Route) -> Body {
    match route.max_body {
        Some(limit) if head.content_length().is_none() && !http_body::Body::is_end_stream(&body) => {
            Body::boxed(Limited::new(body, limit))
        }
        _ => body,
    }
}

/// Trailers go on only where both sides speak HTTP/2, and then without what they must not say.
pub(super) fn with_trailers(body: Body, head: &Head, setup: &Arc<Setup>, http2: bool) -> Body {
    // Over HTTP/1.1 no upstream gets any.
    if !http2 || !body.streams() {
        return body;
    }
    let setup = (head.version() == http::Version::HTTP_2).then(|| Arc::clone(setup));
    Body::boxed(Trailing::new(body, setup))
}

fn too_large(limit: u64) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the request body is larger than {limit} bytes"))
}

/// Why the client's body could not be read to its end.
fn of_body(error: &BoxError) -> Problem {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = cause {
        if let Some(TooLarge(limit)) = error.downcast_ref() {
            return too_large(*limit).closing();
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::TimedOut => {
                    return Problem::new(Code::RequestTimeout, "the request body came too slowly").closing();
                }
                std::io::ErrorKind::InvalidData => break,
                _ => {}
            }
        }
        cause = error.source();
    }
    Problem::new(Code::InvalidRequest, "the request body could not be read to its end").closing()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
