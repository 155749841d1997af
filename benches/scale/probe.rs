//! What is read of the machine: memory, the disk's own sync; and sorted samples.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Resident bytes of a process (`"self"` or its number).
pub(crate) fn resident(process: &str) -> u64 {
    status_bytes(process, "VmRSS:")
}

/// A size out of what the system says of a process.
pub(crate) fn status_bytes(process: &str, name: &str) -> u64 {
    kib(&fs::read_to_string(format!("/proc/{process}/status")).unwrap(), name)
}

/// Bytes of this process in pages of 2 MiB: where tables lie in small ones, each look-up also misses in the
/// processor's list of pages.
pub(crate) fn in_huge_pages() -> u64 {
    kib(&fs::read_to_string("/proc/self/smaps_rollup").unwrap(), "AnonHugePages:")
}

fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// How long one read of memory takes that no cache has: the unit in which a check at scale is to be counted, and what
/// other work on the machine makes slower.
pub(crate) fn memory_read() -> Duration {
    // Each word says where the next one is: a step that visits all of them (odd, so coprime to their number).
    const WORDS: usize = 1 << 25;
    const STEP: usize = 0x9e37_79b1;
    const READS: u32 = 1 << 20;
    let words: Vec<usize> = (0..WORDS).map(|at| (at + STEP) % WORDS).collect();
    let (start, mut at) = (Instant::now(), 0);
    for _ in 0..READS {
        at = words[at];
    }
    assert!(std::hint::black_box(at) < WORDS);
    start.elapsed() / READS
}

/// Times, sorted when asked of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<Duration>);

impl Samples {
    /// The time that this share of the samples does not exceed.
    pub(crate) fn quantile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        let index = (self.0.len() as f64 * share) as usize;
        self.0.get(index.min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Appends `bytes` and syncs, for so long, with so long a pause in between: the disk's own fdatasync, without anything
/// of ours.
pub(crate) fn disk_sync(dir: &Path, bytes: usize, during: Duration, pause: Duration) -> Samples {
    let path = dir.join("fdatasync-probe");
    let mut file = fs::File::create(&path).unwrap();
    let (piece, start, mut samples) = (vec![7; bytes], Instant::now(), Samples::default());
    while start.elapsed() < during {
        file.write_all(&piece).unwrap();
        let start = Instant::now();
        file.sync_data().unwrap();
        samples.0.push(start.elapsed());
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    fs::remove_file(&path).unwrap();
    samples
}

/// Writes so many bytes and syncs once.
pub(crate) fn disk_write(dir: &Path, bytes: usize) -> Duration {
    let path = dir.join("write-probe");
    let piece = vec![7; 1 << 20];
    let start = Instant::now();
    let mut file = fs::File::create(&path).unwrap();
    (0..bytes.div_ceil(piece.len())).for_each(|_| file.write_all(&piece).unwrap());
    file.sync_data().unwrap();
    let took = start.elapsed();
    fs::remove_file(&path).unwrap();
    took
}

pub(crate) fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}
