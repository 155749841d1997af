//! Both ways of a tunnel over pipes in memory: nothing is lost or added, and the Close frame stands between frames.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

/// A way, fed through one pipe and read from another. The pipes hold so many bytes.
struct Piped {
    way: Way,
    from: DuplexStream,
    to: DuplexStream,
    feed: DuplexStream,
    out: DuplexStream,
}

impl Piped {
    fn new(bytes: usize) -> Self {
        let (feed, from) = duplex(1 << 20);
        let (to, out) = duplex(bytes);
        Self { way: Way::default(), from, to, feed, out }
    }

    /// Passes on what it can.
    async fn pass(&mut self) -> Poll<io::Result<()>> {
        let Self { way, from, to, .. } = self;
        std::future::poll_fn(|cx| Poll::Ready(way.poll_pass(cx, from, to))).await
    }

    /// Feeds `before`, parts after it has gone as far as it gets, then feeds `after` while the receiver reads on.
    async fn parted(mut self, before: &[u8], after: &[u8]) -> (bool, Vec<u8>) {
        tokio::task::yield_now().await; // a fresh budget, so that Pending means an empty pipe
        self.feed.write_all(before).await.unwrap();
        assert!(self.pass().await.is_pending());
        self.way.part(b"BYE".to_vec());
        self.feed.write_all(after).await.unwrap();
        let mut got = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let ended = self.pass().await.is_ready();
            let read = std::future::poll_fn(|cx| {
                let mut read = ReadBuf::new(&mut piece);
                let _ = Pin::new(&mut self.out).poll_read(cx, &mut read);
                Poll::Ready(read.filled().len())
            });
            let read = read.await;
            got.extend_from_slice(&piece[..read]);
            if read == 0 {
                return (ended, got);
            }
        }
    }
}

/// Unmasked, of so many bytes.
fn frame(payload: u8) -> Vec<u8> {
    [vec![0x82, payload], vec![b'x'; payload.into()]].concat()
}

#[tokio::test]
async fn what_the_receiver_does_not_take_is_neither_lost_nor_read_further() {
    let mut piped = Piped::new(100);
    let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    piped.feed.write_all(&bytes).await.unwrap();
    assert!(piped.pass().await.is_pending());
    assert!(piped.pass().await.is_pending());
    assert_eq!(piped.way.kept.len() - piped.way.at + 100, READ_BYTES, "one read ahead, and no more");
    drop(std::mem::replace(&mut piped.feed, duplex(1).0));
    let Piped { mut way, mut from, mut to, mut out, .. } = piped;
    let mut got = Vec::new();
    let (passed, read) = tokio::join!(
        std::future::poll_fn(|cx| way.poll_pass(cx, &mut from, &mut to)),
        out.read_to_end(&mut got)
    );
    passed.unwrap();
    read.unwrap();
    assert!(got == bytes);
    assert_eq!((way.bytes, way.kept.capacity()), (100_000, 0), "an idle way holds no buffer");
}

#[tokio::test]
async fn a_close_between_two_frames_follows_at_once() {
    let two = [frame(5), frame(0)].concat();
    let (ended, got) = Piped::new(4096).parted(&two, &frame(9)).await;
    assert_eq!((ended, got), (true, [two, b"BYE".to_vec()].concat()));
}

#[tokio::test]
async fn a_frame_under_way_is_ended_first_and_the_next_not_begun() {
    let bytes = [frame(100), frame(7)].concat();
    for cut in 1..102 {
        let (ended, got) = Piped::new(4096).parted(&bytes[..cut], &bytes[cut..]).await;
        assert_eq!((ended, got), (true, [frame(100), b"BYE".to_vec()].concat()), "cut at {cut}");
    }
}

#[tokio::test]
async fn what_was_kept_is_dropped_behind_the_frame_under_way() {
    // The receiver took 10 bytes; the rest of the frame and two more are kept.
    let bytes = [frame(100), frame(50), frame(7)].concat();
    let (ended, got) = Piped::new(10).parted(&bytes, &frame(1)).await;
    assert_eq!((ended, got), (true, [frame(100), b"BYE".to_vec()].concat()));
}

#[tokio::test]
async fn a_frame_that_does_not_end_gets_no_close() {
    let bytes = frame(100);
    let (ended, got) = Piped::new(4096).parted(&bytes[..50], &[]).await;
    assert_eq!((ended, got.as_slice()), (false, &bytes[..50]));
}

#[tokio::test]
async fn nothing_follows_a_close_that_has_passed() {
    let close = frames::close(frames::POLICY, "done", None);
    let (ended, got) = Piped::new(4096).parted(&close, &frame(1)).await;
    assert_eq!((ended, got), (true, close));
}
