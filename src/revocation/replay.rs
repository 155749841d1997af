//! Reading a segment back: which of its records count, and whether what follows them is the torn end of a log that
//! lost its power, or damage.

use super::disk::{Disk, File};
use super::error::{Damage, OpenError};
use super::record::{
    Bad, FRAME_HEAD_BYTES, FrameHead, Record, SEGMENT_HEAD_BYTES, SegmentHead, VERSION, decode_entries,
};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A file read front to back.
struct Window {
    file: Box<dyn File>,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn open(disk: &dyn Disk, name: &str) -> Result<Self, OpenError> {
        let failed = |error| OpenError::io(format!("open {}", disk.place().join(name).display()))(error);
        let file = disk.open(name).map_err(failed)?;
        let length = file.length().map_err(failed)?;
        Ok(Self { file, length, start: 0, bytes: Vec::new() })
    }

    /// At most `want` bytes from `offset`; fewer at the end of the file.
    fn at(&mut self, offset: u64, want: usize) -> std::io::Result<&[u8]> {
        let have = self.start..self.start + self.bytes.len() as u64;
        let end = (offset + want as u64).min(self.length);
        if !(have.contains(&offset) && end <= have.end) {
            let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.bytes.resize(left.min(want.max(WINDOW_BYTES)), 0);
            let count = self.file.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(count);
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = self.bytes.len().min(from + want);
        Ok(&self.bytes[from..to])
    }

    /// Where the zeros begin that the file ends with; not before `offset`.
    fn end_without_zeros(&mut self, offset: u64) -> std::io::Result<u64> {
        let (mut at, mut end) = (offset, offset);
        while at < self.length {
            let bytes = self.at(at, WINDOW_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += bytes.len() as u64;
        }
        Ok(end)
    }

    /// The frame at `offset`, whole.
    fn frame(
        &mut self,
        salt: &super::record::Salt,
        offset: u64,
    ) -> std::io::Result<Result<(FrameHead, &[u8]), Bad>> {
        let head = match FrameHead::decode(salt, self.at(offset, FRAME_HEAD_BYTES)?) {
            Ok(head) => head,
            Err(bad) => return Ok(Err(bad)),
        };
        let body = self.at(offset + FRAME_HEAD_BYTES as u64, head.length as usize)?;
        Ok(head.fits(salt, body).map(|()| (head, body)))
    }
}

/// What a segment holds.
pub(super) struct Scan {
    pub(super) head: SegmentHead,
    /// Bytes of it that count: its head and every frame up to the end of the last whole batch.
    pub(super) end: u64,
    /// Bytes of the file, less the zeros at its end: room for records that did not come.
    pub(super) length: u64,
    /// The last sequence that counts; the one before `head.first` when there is none.
    pub(super) last: u64,
    /// Frames that count.
    pub(super) frames: u64,
    /// Why there are bytes behind `end`, when there are: where, and what is wrong there.
    pub(super) torn: Option<(u64, &'static str)>,
}

/// Checks a segment through. `next` is the first sequence of the segment behind it: records from there on were
/// written once more there, and whatever stands here in their place was given up. Without one it is the last.
///
/// # Errors
/// Damage, a newer format, or a failing disk. A torn end of the last segment is no error.
pub(super) fn scan(disk: &dyn Disk, name: &str, first: u64, next: Option<u64>) -> Result<Scan, OpenError> {
    let path = disk.place().join(name);
    let failed = OpenError::io(format!("read {}", path.display()));
    let refuse = |offset: u64, bad: Bad| match bad {
        Bad::Damaged(what) => OpenError::Damaged(Damage { file: path.clone(), offset, what }),
        Bad::Newer(version) => OpenError::Newer { file: path.clone(), version, known: VERSION },
    };
    let mut window = Window::open(disk, name)?;
    let mut read = || -> std::io::Result<Result<Scan, OpenError>> {
        let head = match SegmentHead::decode(window.at(0, SEGMENT_HEAD_BYTES)?) {
            Ok(head) if head.first == first => head,
            Ok(_) => return Ok(Err(refuse(0, Bad::Damaged("its name does not fit its head")))),
            Err(bad) => return Ok(Err(refuse(0, bad))),
        };
        let start = SEGMENT_HEAD_BYTES as u64;
        let last = head.first.saturating_sub(1);
        let mut scan = Scan { head, end: start, length: window.length, last, frames: 0, torn: None };
        let (mut offset, mut expected, mut frames) = (start, scan.head.first, 0);
        let bad = loop {
            if next.is_some_and(|next| expected >= next) || offset == window.length {
                break None;
            }
            match window.frame(&scan.head.salt, offset)? {
                Ok((frame, _)) if frame.first == expected && next.is_none_or(|next| frame.last() < next) => {
                    offset += FRAME_HEAD_BYTES as u64 + u64::from(frame.length);
                    expected = frame.last() + 1;
                    frames += 1;
                    if frame.commits() || frame.is_note() {
                        (scan.end, scan.last, scan.frames) = (offset, frame.last(), frames);
                    }
                }
                Ok(_) => return Ok(Err(refuse(offset, Bad::Damaged("a record has the wrong sequence")))),
                Err(bad) => break Some(bad),
            }
        };
        match (bad, next) {
            (Some(Bad::Newer(version)), _) => return Ok(Err(refuse(offset, Bad::Newer(version)))),
            // Everything before the next segment was durable before that one was begun.
            (Some(bad), Some(_)) => return Ok(Err(refuse(offset, bad))),
            (Some(Bad::Damaged(what)), None) => {
                if proof_of_damage(&mut window, &scan, offset, expected)? {
                    return Ok(Err(refuse(offset, Bad::Damaged(what))));
                }
                scan.length = window.end_without_zeros(offset)?;
                scan.torn =
                    if scan.length > offset { Some((offset, what)) } else { not_whole(&scan, offset) };
            }
            (None, None) => scan.torn = not_whole(&scan, offset),
            // Whether the next segment should have begun sooner is for the caller to say.
            (None, Some(_)) => {}
        }
        Ok(Ok(scan))
    };
    read().map_err(failed)?
}

/// What is torn in a last segment whose frames are whole up to `offset`, and followed by none.
fn not_whole(scan: &Scan, offset: u64) -> Option<(u64, &'static str)> {
    (scan.end < offset).then_some((scan.end, "a batch is not whole"))
}

/// The head of a segment.
///
/// # Errors
/// As [`scan`].
pub(super) fn scan_head(disk: &dyn Disk, name: &str, first: u64) -> Result<SegmentHead, OpenError> {
    // A scan that is to stop before the first record.
    scan(disk, name, first, Some(first)).map(|scan| scan.head)
}

/// Whether the bad record at `offset`, which should hold `expected`, was durable once: a whole record behind it
/// says so. Without one it was still being written when the log ended, and nobody was told that it is durable.
///
/// Pages reach a disk in any order, so whole records behind a bad one alone prove nothing: a group of records is
/// written at once. That is why each says what was durable when it was written.
fn proof_of_damage(window: &mut Window, scan: &Scan, offset: u64, expected: u64) -> std::io::Result<bool> {
    let salt = scan.head.salt.clone();
    let mark = salt.mark();
    let mut at = offset + 1;
    while at + FRAME_HEAD_BYTES as u64 <= window.length {
        let bytes = window.at(at, WINDOW_BYTES)?;
        match memchr::memmem::find(bytes, &mark) {
            None => at += bytes.len().saturating_sub(mark.len() - 1).max(1) as u64,
            Some(found) => {
                at += found as u64;
                match window.frame(&salt, at)? {
                    Ok((frame, _)) if frame.durable >= expected => return Ok(true),
                    Err(Bad::Newer(_)) => return Ok(true),
                    _ => at += 1,
                }
            }
        }
    }
    Ok(false)
}

/// Gives every record of a scanned segment with a sequence above `after` to `take`, frame by frame, in order.
///
/// # Errors
/// As [`scan`]; also when the file has changed since.
pub(super) fn replay(
    disk: &dyn Disk,
    name: &str,
    scan: &Scan,
    after: u64,
    take: &mut dyn FnMut(Vec<Record>),
) -> Result<(), OpenError> {
    let from = SEGMENT_HEAD_BYTES as u64;
    let wanted = (after, u64::MAX);
    read(disk, name, &scan.head.salt, (from, scan.end), wanted, &mut |records| {
        take(records);
        true
    })
    .map(drop)
}

/// Records of a segment that is being written, from the frame at `from` on (0: from its beginning) with sequences
/// above `after`, up to `until`, all of which must be known to count; whole frames, for as long as `take` wants more.
/// Returns where the first frame is that was not given out whole. What comes before `from` is not looked at, so that
/// following a long segment costs no more than reading it once.
///
/// # Errors
/// As [`scan`].
pub(super) fn read_on(
    disk: &dyn Disk,
    name: &str,
    (first, from): (u64, u64),
    wanted: (u64, u64),
    take: &mut dyn FnMut(Vec<Record>) -> bool,
) -> Result<u64, OpenError> {
    let head = scan_head(disk, name, first)?;
    read(disk, name, &head.salt, (from.max(SEGMENT_HEAD_BYTES as u64), u64::MAX), wanted, take)
}

fn read(
    disk: &dyn Disk,
    name: &str,
    salt: &super::record::Salt,
    (mut offset, end): (u64, u64),
    (after, until): (u64, u64),
    take: &mut dyn FnMut(Vec<Record>) -> bool,
) -> Result<u64, OpenError> {
    let mut window = Window::open(disk, name)?;
    let end = end.min(window.length);
    let path = disk.place().join(name);
    let damaged = |offset, what| OpenError::Damaged(Damage { file: path.clone(), offset, what });
    while offset < end {
        let read = window.frame(salt, offset).map_err(OpenError::io(format!("read {}", path.display())))?;
        let (frame, body) = match read {
            Ok(frame) => frame,
            Err(Bad::Damaged(what)) => return Err(damaged(offset, what)),
            Err(Bad::Newer(version)) => {
                return Err(OpenError::Newer { file: path.clone(), version, known: VERSION });
            }
        };
        let mut go_on = frame.last() < until;
        if frame.count > 0 && frame.last() > after {
            if frame.first > until {
                break;
            }
            let mut records = match decode_entries(frame.first, frame.count, body) {
                Ok(records) => records,
                Err(Bad::Damaged(what)) => return Err(damaged(offset, what)),
                Err(Bad::Newer(_)) => return Err(damaged(offset, "an entry cannot be read")),
            };
            records.retain(|record| (after + 1..=until).contains(&record.sequence));
            go_on &= take(records);
        }
        if frame.last() > until {
            break;
        }
        offset += FRAME_HEAD_BYTES as u64 + u64::from(frame.length);
        if !go_on {
            break;
        }
    }
    Ok(offset)
}
