//! Why a head, a body or a whole connection was not taken.

use crate::answer::{Code, Problem};

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $code:ident, $detail:literal;)*) => {
        /// What is wrong with the bytes of a connection. Small and free to copy: the words are made when they are
        /// needed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::server) enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            pub(in crate::server) const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            pub(in crate::server) const fn detail(self) -> &'static str {
                match self { $(Self::$variant => $detail,)* }
            }
        }
    };
}

faults! {
    BlankLines = InvalidRequest, "too many empty lines before the request line";
    RequestLine = InvalidRequest, "the request line is malformed";
    Method = InvalidRequest, "the method is malformed";
    Version = InvalidRequest, "the HTTP version is not 1.0 or 1.1";
    TargetBytes = InvalidRequest, "the request target holds a character that must be percent-encoded";
    TargetForm = InvalidRequest, "the request target is not in origin-form or absolute-form";
    TargetTooLong = UriTooLong, "the request target is too long";
    Connect = MethodNotAllowed, "CONNECT is not served";
    Trace = MethodNotAllowed, "TRACE is not served";
    TraceBody = InvalidRequest, "TRACE with a body";
    BareCr = InvalidRequest, "a carriage return without a line feed";
    BareLf = InvalidRequest, "a line feed without a carriage return";
    Control = InvalidRequest, "a control character in the request head";
    Fold = InvalidRequest, "a folded header line";
    LeadingSpace = InvalidRequest, "white space before the first header";
    SpaceBeforeColon = InvalidRequest, "white space before the colon of a header";
    FieldName = InvalidRequest, "a header name is malformed";
    NoColon = InvalidRequest, "a header line without a colon";
    HeadTooLarge = HeadersTooLarge, "the request head is too large";
    TooManyFields = HeadersTooLarge, "the request has too many headers";
    HostMissing = InvalidRequest, "the Host header is missing";
    HostRepeated = InvalidRequest, "the Host header is repeated";
    HostInvalid = InvalidRequest, "the Host header is not a host and an optional port";
    LengthInvalid = InvalidRequest, "Content-Length is not a plain number";
    LengthRepeated = InvalidRequest, "Content-Length is repeated";
    CodingInvalid = InvalidRequest, "Transfer-Encoding is not exactly chunked";
    CodingRepeated = InvalidRequest, "Transfer-Encoding is repeated";
    CodingAndLength = InvalidRequest, "both Transfer-Encoding and Content-Length";
    CodingInHttp10 = InvalidRequest, "Transfer-Encoding in HTTP/1.0";
    AuthorizationRepeated = InvalidRequest, "the Authorization header is repeated";
    ChunkSize = InvalidRequest, "a chunk size is malformed";
    ChunkExtension = InvalidRequest, "a chunk extension is malformed or too long";
    ChunkEnd = InvalidRequest, "a chunk does not end where its size says";
    Trailer = InvalidRequest, "a trailer is malformed";
    TrailersTooLarge = HeadersTooLarge, "the trailers are too large";
    HeadTimeout = RequestTimeout, "the request head did not arrive in time";
    Overloaded = Overloaded, "too many connections";
}

impl Fault {
    /// Whether the connection can go on: only where the framing of what follows is beyond doubt.
    pub(in crate::server) const fn closes(self) -> bool {
        !matches!(self, Self::Trace)
    }

    /// As an answer.
    pub(in crate::server) fn problem(self) -> Problem {
        let problem = Problem::new(self.code(), self.detail());
        let problem = match self {
            // RFC 9110 §15.5.6: a 405 names what is served; of any target, that is all but these two.
            Self::Connect | Self::Trace => {
                problem.with_allow("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned())
            }
            Self::Overloaded => problem.with_retry_after(1),
            _ => problem,
        };
        if self.closes() { problem.closing() } else { problem }
    }
}
