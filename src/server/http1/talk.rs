//! What happens on a connection while it waits for a request, while that is served, and while it is answered.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body as _;
use tokio::time::Instant;

use super::encode::{self, Asked};
use super::head::{self, Verdict};
use super::intake::{Framing, Intake, Piece, Wish};
use super::line::{Closing, Line};
use super::out::Coding;
use super::tunnel::Tunnel;
use crate::answer::{Body, Cut, Handing, Interim, handover};
use crate::server::HeadFacts;
use crate::server::connection::LAST_WORDS;
use crate::server::drain::{Phase, Ticket, Watch};
use crate::server::guard::{Fault, Head, HeadScan, Scanned};
use crate::server::stream::Stream;

/// After so long without a request, a connection is given no more buffers than one that has said nothing yet. Those
/// that are in use never come to it. Sooner in unit tests, so that connections there do.
const REST_AFTER: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });

/// How long an answer under way outlives the client's end of input. Most clients that end their input have gone, and
/// the work for them is to be given up; but some only half-close after their last request and wait for the answer.
const HALF_CLOSE_GRACE: Duration = Duration::from_millis(500);

/// What of a body that nobody wants is taken in, if it is there already, for the sake of the next request.
const UNWANTED_BYTES_MAX: usize = 64 * 1024;
/// And how long it is waited for.
const UNWANTED_WITHIN: Duration = Duration::from_secs(1);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What comes next on a connection.
#[derive(Debug)]
pub(super) enum Next {
    Request(Head),
    /// What came is no good; `head`: of a HEAD request.
    Refused {
        fault: Fault,
        head: bool,
    },
    /// Nothing, for a while.
    Idle,
    /// Its end, in good order.
    End,
    /// Its end at once.
    Cut,
}

/// What is waited for between two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// For nothing yet.
    Free,
    /// For the end of a head.
    Head,
    /// For the next request.
    Idle,
}

/// The body of the request under way, which is not whole yet.
#[derive(Debug)]
struct Upload {
    intake: Intake,
    framing: Framing,
    /// The client waits for a word before it sends it.
    expects: bool,
    deadline: Option<Instant>,
}

/// A connection, and where it stands.
pub(super) struct Talk<S: Stream> {
    line: Line<S>,
    watch: Watch,
    scan: HeadScan,
    /// Requests so far.
    sequence: u64,
    wait: Wait,
    /// Of the wait; `None`: no limit.
    deadline: Option<Instant>,
    rest_at: Option<Instant>,
    /// When a connection that is to be drained stops waiting for what may be on its way.
    parting: Option<Instant>,
    /// The room of the last answer's fields.
    spare: HeaderMap,
    asked: Asked,
    upload: Option<Upload>,
    /// The framing of what the client sends is lost, or what it sends is not looked at.
    lost: bool,
    handing: Option<Handing>,
    answer: Option<(Body, Coding)>,
    cut: Option<Cut>,
    /// The answer has begun.
    answering: bool,
    /// No request follows.
    last: bool,
    /// Since the client ended its input.
    grace: Option<Instant>,
}

impl<S: Stream> Talk<S> {
    /// The first head must be whole at `deadline`.
    pub(super) fn new(line: Line<S>, deadline: Option<Instant>, watch: Watch) -> Self {
        Self {
            line,
            watch,
            scan: HeadScan::default(),
            sequence: 0,
            wait: Wait::Head,
            deadline,
            rest_at: None,
            parting: None,
            spare: HeaderMap::new(),
            asked: Asked { head: false, http_10: false, keep_alive: false },
            upload: None,
            lost: false,
            handing: None,
            answer: None,
            cut: None,
            answering: false,
            last: false,
            grace: None,
        }
    }

    // --- between requests ----------------------------------------------------------------------------------------

    /// Waits for the next head.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if !self.line.read.is_empty() {
                match self.scan.scan(&self.line.read, &self.line.rules.head) {
                    Scanned::Head(head) => return Poll::Ready(Next::Request(head)),
                    Scanned::More => {}
                    Scanned::Blank => {
                        self.line.read.clear();
                        self.scan.forget();
                    }
                    Scanned::Bad(fault) => {
                        let head = self.line.read[self.scan.base()..].starts_with(b"HEAD ");
                        return Poll::Ready(Next::Refused { fault, head });
                    }
                }
            }
            if self.line.eof {
                self.line.read.clear();
                return Poll::Ready(Next::End);
            }
            match self.line.poll_read(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Cut),
                Poll::Pending => break,
            }
        }
        self.poll_wait(cx)
    }

    /// Nothing has come: what are we waiting for, and has it been too long?
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let begun = !self.line.read.is_empty();
        let wait = if begun || self.sequence == 0 { Wait::Head } else { Wait::Idle };
        if wait != self.wait {
            let now = Instant::now();
            let rules = &self.line.rules;
            let limit = if wait == Wait::Head { rules.header_read_timeout } else { rules.idle_timeout };
            (self.wait, self.deadline) = (wait, limit.map(|limit| now + limit));
            self.rest_at = (wait == Wait::Idle).then(|| now + REST_AFTER);
        }
        match self.watch.poll_phase(cx) {
            Phase::Stopped => return Poll::Ready(Next::Cut),
            // An idle client may have sent its next request a moment ago; that one is still answered, and says close.
            Phase::Draining if !begun => {
                self.parting.get_or_insert_with(|| Instant::now() + LAST_WORDS);
            }
            // Half a head has come, and has its deadline.
            Phase::Draining => self.parting = None,
            Phase::Serving => {}
        }
        let rest_at = self.rest_at.filter(|_| !begun && !self.line.is_resting());
        let Some(next) = [self.deadline, self.parting, rest_at].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        ready!(self.line.poll_deadline(next, cx));
        Poll::Ready(if self.parting == Some(next) {
            Next::End
        } else if self.deadline != Some(next) {
            Next::Idle
        } else if wait == Wait::Head {
            Next::Refused { fault: Fault::HeadTimeout, head: self.line.read.starts_with(b"HEAD ") }
        } else {
            Next::End
        })
    }

    /// Keeps no buffer until something comes.
    pub(super) fn rest(&mut self) {
        self.line.rest();
        self.scan.rest();
        self.spare = HeaderMap::new();
    }

    // --- a request -----------------------------------------------------------------------------------------------

    /// Takes the request out of what was read.
    pub(super) fn request(&mut self, head: &Head) -> (Request<Body>, Verdict) {
        self.begun();
        let bytes = self.line.read.split_to(head.end).freeze();
        let mut framing = Framing::new(head.body);
        let body = match framing.left() {
            // Here whole.
            Some(left) if left <= self.line.read.len() as u64 => {
                match framing.take(&mut self.line.read, &self.line.rules.head) {
                    Piece::Data(data) => Body::full(data),
                    _ => Body::empty(),
                }
            }
            left => {
                let (intake, incoming) = Intake::new(left);
                self.upload = Some(Upload { intake, framing, expects: false, deadline: None });
                Body::boxed(incoming)
            }
        };
        let spare = std::mem::take(&mut self.spare);
        let mut request = match head::request(&bytes, &self.scan, head, spare, body) {
            Ok(request) => request,
            Err(fault) => return self.refusal(fault, false),
        };
        let facts = HeadFacts {
            sequence: self.sequence,
            head_bytes: head.end - self.scan.base(),
            body: head.body,
            expect: head.expect,
            upgrade: head.upgrade,
        };
        self.scan.restart();
        self.asked = Asked {
            head: *request.method() == Method::HEAD,
            http_10: head.http_10,
            keep_alive: head.keep_alive,
        };
        if let Some(upload) = self.upload.as_mut().filter(|_| head.expect) {
            let expected = request.headers().get(EXPECT);
            upload.expects =
                expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        }
        if head.upgrade {
            let (handing, handover) = handover();
            self.handing = Some(handing);
            request.extensions_mut().insert(handover);
        }
        (request, head.refused.map_or(Ok(facts), Err))
    }

    /// What stands for a request that is no good. Nothing more is read.
    pub(super) fn refusal(&mut self, fault: Fault, head: bool) -> (Request<Body>, Verdict) {
        self.begun();
        self.scan.restart();
        (self.upload, self.lost) = (None, true);
        self.asked = Asked { head, http_10: false, keep_alive: false };
        (head::stand_in(head), Err(fault))
    }

    /// Whether the client knows of answers before the answer.
    pub(super) const fn knows_interim(&self) -> bool {
        !self.asked.http_10 && !self.lost
    }

    fn begun(&mut self) {
        self.sequence += 1;
        (self.wait, self.deadline, self.rest_at) = (Wait::Free, None, None);
        (self.parting, self.grace, self.answering) = (None, None, false);
        self.handing = None;
    }

    /// Runs the handler to its answer, and does meanwhile what it asks of the connection. `None`: the client has gone,
    /// or is to go.
    pub(super) fn poll_handler<F: Future<Output = Response<Body>>>(
        &mut self,
        mut running: Pin<&mut Option<F>>,
        interim: &Interim,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Response<Body>>> {
        loop {
            let Some(handler) = running.as_mut().as_pin_mut() else { return Poll::Ready(None) };
            let polled = handler.poll(cx);
            for (status, headers) in interim.take() {
                encode::interim(self.line.out.ours(), status, &headers);
            }
            if let Poll::Ready(response) = polled {
                self.take_unwanted(cx);
                return Poll::Ready(Some(response));
            }
            if !self.poll_upload(cx) {
                break;
            }
        }
        if !self.line.out.is_empty()
            && let Poll::Ready(Err(error)) = self.line.poll_write(cx)
        {
            tracing::debug!(%error, "a client could not be told what comes before its answer");
            return Poll::Ready(None);
        }
        if self.poll_gone(cx).is_ready() || self.watch.poll_phase(cx) == Phase::Stopped {
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// Ready when the client has no use for an answer.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.lost {
            return Poll::Pending;
        }
        if self.line.poll_ahead(cx).is_ready() {
            return Poll::Ready(());
        }
        if !self.line.eof || self.upload.is_some() {
            return Poll::Pending;
        }
        let until = *self.grace.get_or_insert_with(|| Instant::now() + HALF_CLOSE_GRACE);
        self.line.poll_deadline(until, cx)
    }

    // --- its body ------------------------------------------------------------------------------------------------

    /// Moves the body of the request on, where it is wanted. True when this very task has been given something.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let Some(upload) = &mut self.upload else { return false };
            if upload.intake.poll_wish(cx) != Wish::More {
                upload.deadline = None;
                return false;
            }
            match upload.framing.take(&mut self.line.read, &self.line.rules.head) {
                Piece::Data(data) => {
                    upload.deadline = None;
                    let over = upload.framing.is_over();
                    let here = upload.intake.give(data, over.then_some(Ok(())), cx);
                    if over {
                        self.upload = None;
                    }
                    return here;
                }
                Piece::End => return self.end_upload(Ok(()), cx),
                Piece::Bad(fault) => {
                    return self.end_upload(Err((io::ErrorKind::InvalidData, fault.detail())), cx);
                }
                Piece::More => {}
            }
            let gone = Err((io::ErrorKind::UnexpectedEof, "the client left within the request body"));
            if self.line.eof {
                return self.end_upload(gone, cx);
            }
            if upload.expects && !self.answering {
                upload.expects = false;
                self.line.out.ours().extend_from_slice(CONTINUE);
            }
            let left = upload.framing.left().unwrap_or_default();
            match self.line.poll_read_room(left, cx) {
                Poll::Ready(Ok(_)) => upload.deadline = None,
                Poll::Ready(Err(_)) => self.line.eof = true,
                Poll::Pending => {
                    let Some(limit) = self.line.rules.body_read_timeout else { return false };
                    let deadline = *upload.deadline.get_or_insert_with(|| Instant::now() + limit);
                    if self.line.poll_deadline(deadline, cx).is_pending() {
                        return false;
                    }
                    let late = (io::ErrorKind::TimedOut, "the request body did not arrive in time");
                    return self.end_upload(Err(late), cx);
                }
            }
        }
    }

    fn end_upload(&mut self, end: Result<(), (io::ErrorKind, &'static str)>, cx: &mut Context<'_>) -> bool {
        self.lost |= end.is_err();
        let upload = self.upload.take();
        upload.is_some_and(|upload| upload.intake.give(bytes::Bytes::new(), Some(end), cx))
    }

    /// A body that nobody reads any more is taken in if it is there.
    fn take_unwanted(&mut self, cx: &mut Context<'_>) {
        let mut taken = 0;
        while let Some(upload) = &mut self.upload
            && upload.intake.is_gone()
            && taken < UNWANTED_BYTES_MAX
        {
            match upload.framing.take(&mut self.line.read, &self.line.rules.head) {
                Piece::Data(data) => {
                    taken += data.len();
                    if upload.framing.is_over() {
                        self.upload = None;
                    }
                }
                Piece::End => self.upload = None,
                Piece::Bad(_) => (self.upload, self.lost) = (None, true),
                Piece::More if self.line.eof => return,
                Piece::More => match self.line.poll_read(cx) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => self.line.eof = true,
                    Poll::Pending => return,
                },
            }
        }
    }

    // --- the answer ----------------------------------------------------------------------------------------------

    /// Puts the head of the answer behind what is still to be written. `close`: no request follows in any case.
    pub(super) fn begin(&mut self, mut response: Response<Body>, close: bool) {
        self.cut = response.extensions_mut().remove();
        // What is still to come would have to be taken in before the next request.
        let close = close || self.owes() && !self.owes_little();
        if let Some(upload) = &mut self.upload {
            upload.deadline = None;
        }
        let follows = encode::head(self.line.out.ours(), &response, self.asked, close);
        let (parts, body) = response.into_parts();
        self.spare = parts.headers;
        self.spare.clear();
        self.answer = follows.body.filter(|coding| *coding != Coding::Length(0)).map(|coding| (body, coding));
        (self.last, self.answering) = (follows.close, true);
    }

    /// Writes the answer; false when it did not come to its end.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let Ok(waits) = self.fill(cx) else { return Poll::Ready(false) };
            match self.line.poll_write(cx) {
                Poll::Ready(Ok(())) if self.answer.is_none() => {
                    self.cut = None;
                    return Poll::Ready(true);
                }
                Poll::Ready(Ok(())) if waits => {}
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "an answer could not be written");
                    return Poll::Ready(false);
                }
                Poll::Pending => {}
            }
            // A client that takes nothing keeps us from asking the body, which would say so, too.
            let cut = self.cut.as_ref().is_some_and(|cut| cut.0.poll_cut(cx).is_ready());
            if cut || self.watch.poll_phase(cx) == Phase::Stopped {
                return Poll::Ready(false);
            }
            if !self.poll_upload(cx) {
                break;
            }
        }
        if self.poll_gone(cx).is_ready() { Poll::Ready(false) } else { Poll::Pending }
    }

    /// Takes of the body what there is room for; true where more has to be waited for.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        while let Some((body, coding)) = &mut self.answer
            && self.line.out.has_room()
        {
            let out = &mut self.line.out;
            let over = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => out.end(*coding).map(|()| true),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => Ok(false),
                    Ok(data) => {
                        let over = body.is_end_stream();
                        // A body that has its length is not asked whether there is more.
                        out.data(data, coding, over).map(|()| over || *coding == Coding::Length(0))
                    }
                    // Trailers end here.
                    Err(_) => out.end(*coding).map(|()| true),
                },
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "the body of an answer broke off");
                    return Err(());
                }
            };
            match over {
                Ok(true) => self.answer = None,
                Ok(false) => {}
                Err(_) => {
                    tracing::warn!("the body of an answer is not as long as was announced");
                    return Err(());
                }
            }
        }
        Ok(false)
    }

    // --- the end -------------------------------------------------------------------------------------------------

    /// The client is sending something that nobody will take.
    pub(super) fn owes(&self) -> bool {
        self.lost || self.upload.is_some()
    }

    /// That, and no more of it than is worth waiting for: many clients send a short body right after its head.
    fn owes_little(&self) -> bool {
        let Some(upload) = self.upload.as_ref().filter(|upload| !self.lost && upload.intake.is_gone()) else {
            return false;
        };
        // Who waits for a 100 may send nothing more.
        !upload.expects && upload.framing.left().is_some_and(|left| left <= UNWANTED_BYTES_MAX as u64)
    }

    /// Takes in what the client still owes after its answer; false when it does not come soon.
    pub(super) fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.take_unwanted(cx);
        let Some(upload) = self.upload.as_mut().filter(|_| !self.lost && !self.line.eof) else {
            return Poll::Ready(!self.owes());
        };
        let deadline = *upload.deadline.get_or_insert_with(|| Instant::now() + UNWANTED_WITHIN);
        if self.watch.poll_phase(cx) == Phase::Stopped || self.line.poll_deadline(deadline, cx).is_ready() {
            return Poll::Ready(false);
        }
        Poll::Pending
    }

    /// What the client has sent is not read whole.
    pub(super) fn has_more(&self) -> bool {
        !self.line.read.is_empty()
    }

    /// Whether the answer was the last one.
    pub(super) const fn is_last(&self) -> bool {
        self.last
    }

    /// Closes the connection in good order; false when it is to be cut.
    pub(super) fn poll_close(&mut self, closing: &mut Closing, cx: &mut Context<'_>) -> Poll<bool> {
        if self.line.poll_close(closing, cx).is_ready() {
            return Poll::Ready(true);
        }
        if self.watch.poll_phase(cx) == Phase::Stopped { Poll::Ready(false) } else { Poll::Pending }
    }

    /// Ends the connection so that nobody takes what was sent for complete; whether what is left of it can wait: the client
    /// has been told by that, and not only with the close that follows, and it may be one of thousands whose token was revoked.
    pub(super) fn cut_short(&mut self) -> bool {
        self.line.socket.cut_short = true;
        let told = self.line.socket.stream.abort();
        (self.answer, self.upload, self.handing) = (None, None, None);
        let cut = self.cut.take();
        told && cut.is_some_and(|cut| cut.0.poll_cut(&mut Context::from_waker(Waker::noop())).is_ready())
    }

    /// The connection goes to whoever has answered 101.
    pub(super) fn hand_over(self, ticket: Ticket) {
        let Self { line, handing, .. } = self;
        let Some(handing) = handing else { return };
        handing.give(Box::new(Tunnel { first: line.read.freeze(), socket: line.socket, ticket }));
    }
}
