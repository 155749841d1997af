//! Where each head starts on a connection, and which of its bytes may pass. Pure: bytes in, verdicts out.

use super::chunked::Chunked;
use super::fault::Fault;
use super::scan::{BodyLength, Head, HeadScan, Scanned};
use crate::server::HeadLimits;

/// What the guard knows of a good head that hyper does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadFacts {
    /// 1 for the first request of the connection.
    pub sequence: u64,
    /// From the method to the end of the empty line.
    pub head_bytes: usize,
    /// How the end of the body is told.
    pub body: BodyLength,
    /// Has an `Expect` field (its value is in the parsed head).
    pub expect: bool,
    /// Has an `Upgrade` field: what follows is held back until the answer's status is known.
    pub upgrade: bool,
}

/// On a request, in the order of the connection.
pub(in crate::server) type Verdict = Result<HeadFacts, Fault>;

/// What became of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fed {
    /// So many of the first bytes may pass.
    pub(super) release: usize,
    pub(super) then: Then,
}

/// What to do with the bytes after those that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Keep them, and feed them again with more behind them.
    Keep,
    /// Throw them away: empty lines.
    Drop,
    /// Keep them, and feed them again when requests have been answered or the upgrade is decided.
    Stall,
    /// They are a bad head (`head`: of a HEAD request). Nothing after them has a meaning.
    Refuse { fault: Fault, head: bool },
    /// They are bad framing inside a body. Nothing after them has a meaning.
    Broken(Fault),
}

/// Follows the bytes of one connection.
#[derive(Debug)]
pub(super) struct Framer {
    at: At,
    sequence: u64,
    limits: HeadLimits,
}

#[derive(Debug)]
enum At {
    Head(HeadScan),
    /// The rest of a body; then whether an upgrade must be decided.
    Length(u64, bool),
    Chunked(Chunked, bool),
    /// Between a request that asked for an upgrade and the word on it.
    Undecided,
}

impl Framer {
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self { at: At::Head(HeadScan::default()), sequence: 0, limits }
    }

    /// Judges `bytes`: those kept the last time and new ones behind them. `verdict` is called once for each head
    /// that ends in them, and may be called `room` times.
    pub(super) fn feed(&mut self, bytes: &[u8], mut room: usize, mut verdict: impl FnMut(Verdict)) -> Fed {
        let mut release = 0;
        while release < bytes.len() {
            let rest = &bytes[release..];
            match &mut self.at {
                At::Head(_) if room == 0 => return Fed { release, then: Then::Stall },
                At::Head(scan) => match scan.scan(rest, &self.limits) {
                    Scanned::Head(head) => {
                        release += head.end;
                        room -= 1;
                        self.sequence += 1;
                        verdict(match head.refused {
                            Some(fault) => Err(fault),
                            None => Ok(facts(&head, self.sequence)),
                        });
                        self.at = after(&head);
                    }
                    Scanned::More => return Fed { release, then: Then::Keep },
                    Scanned::Blank => {
                        scan.forget();
                        return Fed { release, then: Then::Drop };
                    }
                    Scanned::Bad(fault) => {
                        let head = rest[scan.base()..].starts_with(b"HEAD ");
                        return Fed { release, then: Then::Refuse { fault, head } };
                    }
                },
                At::Length(left, undecided) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    release += here;
                    *left -= here as u64;
                    if *left == 0 {
                        self.at = next(*undecided);
                    }
                }
                At::Chunked(chunked, undecided) => {
                    let (good, end) = chunked.feed(rest, &self.limits);
                    release += good;
                    match end {
                        None => {}
                        Some(Ok(())) => self.at = next(*undecided),
                        Some(Err(fault)) => return Fed { release, then: Then::Broken(fault) },
                    }
                }
                At::Undecided => return Fed { release, then: Then::Stall },
            }
        }
        Fed { release, then: Then::Keep }
    }

    /// No head has been seen whole.
    pub(super) const fn is_new(&self) -> bool {
        self.sequence == 0
    }

    /// Between the head and the end of a body.
    pub(super) const fn in_body(&self) -> bool {
        matches!(self.at, At::Length(..) | At::Chunked(..))
    }

    /// Waits for the word on an upgrade.
    pub(super) const fn is_undecided(&self) -> bool {
        matches!(self.at, At::Undecided)
    }

    /// The upgrade was refused: what follows is the next request.
    pub(super) fn resume(&mut self) {
        if self.is_undecided() {
            self.at = next(false);
        }
    }
}

fn facts(head: &Head, sequence: u64) -> HeadFacts {
    HeadFacts { sequence, head_bytes: head.end, body: head.body, expect: head.expect, upgrade: head.upgrade }
}

fn after(head: &Head) -> At {
    match head.body {
        BodyLength::None => next(head.upgrade),
        BodyLength::Known(length) => At::Length(length, head.upgrade),
        BodyLength::Chunked => At::Chunked(Chunked::new(), head.upgrade),
    }
}

fn next(undecided: bool) -> At {
    if undecided { At::Undecided } else { At::Head(HeadScan::default()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What was released, the verdicts, and how it ended, when `bytes` come in these pieces.
    fn run(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<Verdict>, Option<Then>) {
        let mut framer = Framer::new(HeadLimits::new(300, 5, 80));
        let (mut released, mut verdicts, mut held) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        for &cut in cuts {
            held.extend_from_slice(&bytes[at..cut]);
            at = cut;
            loop {
                // Room for one head at a time: pipelined requests come out one by one.
                let fed = framer.feed(&held, 1, |verdict| verdicts.push(verdict));
                released.extend(held.drain(..fed.release));
                match fed.then {
                    Then::Keep => break,
                    Then::Drop => held.clear(),
                    Then::Stall => framer.resume(),
                    then @ (Then::Refuse { .. } | Then::Broken(_)) => {
                        return (released, verdicts, Some(then));
                    }
                }
            }
        }
        (released, verdicts, None)
    }

    /// Without the empty lines before heads, which are dropped or released as they happen to come.
    fn lines_off(released: &[u8]) -> Vec<u8> {
        released.iter().copied().skip_while(|b| matches!(b, b'\r' | b'\n')).collect()
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let fragment = prop::sample::select(vec![
            "GET / HTTP/1.1\r\n",
            "HEAD /x HTTP/1.1\r\n",
            "POST http://a/ HTTP/1.0\r\n",
            "host: a\r\n",
            "\r\n",
            "\r\n",
            "content-length: 5\r\n",
            "transfer-encoding: chunked\r\n",
            "upgrade: x\r\n",
            "x: y\r\n",
            "0\r\n\r\n",
            "3;e\r\nabc\r\n",
            "hello",
            "x",
            "\r",
            "\n",
            " ",
            "\0",
            "GET /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nhost: a\r\nupgrade: x\r\n\r\n",
            "TRACE / HTTP/1.1\r\nhost: a\r\n\r\n",
        ]);
        prop::collection::vec(fragment, 1..14).prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_verdicts_do_not_depend_on_the_pieces(
            bytes in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([bytes.len()]).collect();
            cuts.sort_unstable();
            let (released, verdicts, end) = run(&bytes, &[bytes.len()]);
            let every: Vec<_> = (1..=bytes.len()).collect();
            for cuts in [&cuts, &every] {
                let (released_too, verdicts_too, end_too) = run(&bytes, cuts);
                prop_assert_eq!(end, end_too);
                prop_assert_eq!(verdicts.len(), verdicts_too.len());
                for (one, two) in verdicts.iter().zip(&verdicts_too) {
                    // Where empty lines came apart from their head, they are not counted in.
                    prop_assert_eq!(one.map(|f| HeadFacts { head_bytes: 0, ..f }), two.map(|f| HeadFacts { head_bytes: 0, ..f }));
                }
                if !bytes.starts_with(b"\r\n") && !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
                    prop_assert_eq!(lines_off(&released), lines_off(&released_too));
                }
            }
        }
    }

    #[test]
    fn nothing_passes_behind_a_bad_head_or_an_undecided_upgrade() {
        let mut framer = Framer::new(HeadLimits::new(300, 5, 80));
        let good = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".as_slice();
        let bytes = [good, b"HEAD / HTTP/1.1\r\nhost : a\r\n\r\n", good].concat();
        let fed = framer.feed(&bytes, 9, |_| {});
        let then = Then::Refuse { fault: Fault::SpaceBeforeColon, head: true };
        assert_eq!(fed, Fed { release: good.len(), then });

        let mut framer = Framer::new(HeadLimits::new(300, 5, 80));
        let upgrade = b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\n\r\n".as_slice();
        let bytes = [upgrade, good].concat();
        assert_eq!(framer.feed(&bytes, 9, |_| {}), Fed { release: upgrade.len(), then: Then::Stall });
        framer.resume();
        assert_eq!(framer.feed(good, 9, |_| {}), Fed { release: good.len(), then: Then::Keep });
    }
}
