//! The framing of a chunked body (RFC 9112 §7.1), in the one spelling that all programs read alike.

use super::chars;
use super::fault::Fault;
use crate::server::HeadLimits;

/// 16 digits would be more bytes than a 64-bit file can hold.
const SIZE_DIGITS_MAX: u8 = 15;
/// Of one chunk; nobody uses them for anything, and a server that skips gigabytes of them is a known target.
const EXTENSION_BYTES_MAX: usize = 256;
/// Of the whole body.
const EXTENSIONS_BYTES_MAX: usize = 16 * 1024 - 256;
/// Of all trailers together.
const TRAILER_BYTES_MAX: usize = 16 * 1024 - 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the first digit of a size.
    Start,
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Chunked {
    at: At,
    /// Of the chunk: read so far, then what is left of its data.
    size: u64,
    digits: u8,
    extension: usize,
    extensions: usize,
    trailer_bytes: usize,
    trailers: usize,
}

impl Chunked {
    pub(in crate::server) const fn new() -> Self {
        Self { at: At::Start, size: 0, digits: 0, extension: 0, extensions: 0, trailer_bytes: 0, trailers: 0 }
    }

    /// Follows what stands around the data, up to where data begins: how many of `bytes` that is, and `Some(Ok(()))`
    /// when the body ends with them, `Some(Err(_))` when the next one is bad.
    pub(in crate::server) fn around(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> (usize, Option<Result<(), Fault>>) {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.at == At::Data {
                return (at, None);
            }
            match self.step(byte, limits) {
                Ok(false) => {}
                Ok(true) => return (at + 1, Some(Ok(()))),
                Err(fault) => return (at, Some(Err(fault))),
            }
        }
        (bytes.len(), None)
    }

    /// How many of the next bytes are data; 0: none before [`Chunked::around`] has found some.
    pub(in crate::server) fn data(&self) -> u64 {
        if self.at == At::Data { self.size } else { 0 }
    }

    /// So many bytes of data were taken.
    pub(in crate::server) fn took(&mut self, count: usize) {
        self.size = self.size.saturating_sub(count as u64);
        if self.size == 0 {
            self.at = At::DataCr;
        }
    }

    fn step(&mut self, b: u8, limits: &HeadLimits) -> Result<bool, Fault> {
        if matches!(self.at, At::TrailerStart | At::TrailerName | At::TrailerValue) {
            self.trailer_bytes += 1;
            if self.trailer_bytes > TRAILER_BYTES_MAX.min(limits.bytes_max) {
                return Err(Fault::TrailersTooLarge);
            }
        }
        self.at = match (self.at, b) {
            (At::Start | At::Size, b) if b.is_ascii_hexdigit() => {
                self.digits += 1;
                if self.digits > SIZE_DIGITS_MAX {
                    return Err(Fault::ChunkSize);
                }
                let digit = char::from(b).to_digit(16).unwrap_or_default();
                self.size = self.size << 4 | u64::from(digit);
                At::Size
            }
            (At::Size, b'\r') | (At::Extension, b'\r') => At::SizeLf,
            (At::Size, b';') => At::Extension,
            (At::Start | At::Size, _) => return Err(Fault::ChunkSize),
            (At::Extension, b) if chars::is_value(b) => {
                self.extension += 1;
                self.extensions += 1;
                if self.extension > EXTENSION_BYTES_MAX || self.extensions > EXTENSIONS_BYTES_MAX {
                    return Err(Fault::ChunkExtension);
                }
                At::Extension
            }
            (At::Extension, _) => return Err(Fault::ChunkExtension),
            (At::SizeLf, b'\n') => {
                (self.digits, self.extension) = (0, 0);
                if self.size == 0 { At::TrailerStart } else { At::Data }
            }
            (At::SizeLf, _) => return Err(Fault::ChunkSize),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Start,
            (At::Data | At::DataCr | At::DataLf, _) => return Err(Fault::ChunkEnd),
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::TrailerStart, b) if chars::is_token(b) => {
                self.trailers += 1;
                if self.trailers > limits.fields_max {
                    return Err(Fault::TrailersTooLarge);
                }
                At::TrailerName
            }
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerName, b) if chars::is_token(b) => At::TrailerName,
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, b) if chars::is_value(b) => At::TrailerValue,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => return Ok(true),
            _ => return Err(Fault::Trailer),
        };
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(bytes: &[u8]) -> (usize, Option<Result<(), Fault>>) {
        let (mut chunked, mut at) = (Chunked::new(), 0);
        let limits = HeadLimits::new(1024, 3, 100);
        loop {
            let (good, end) = chunked.around(&bytes[at..], &limits);
            at += good;
            if end.is_some() || at == bytes.len() {
                return (at, end);
            }
            let data = usize::try_from(chunked.data()).unwrap().min(bytes.len() - at);
            chunked.took(data);
            at += data;
        }
    }

    #[test]
    fn ends_where_the_body_ends() {
        for body in
            ["0\r\n\r\n", "3\r\nabc\r\n00;x=\"y\"\r\n\r\n", "A\r\n0123456789\r\n0\r\na: b\r\nc:\r\n\r\n"]
        {
            let bytes = format!("{body}GET /");
            assert_eq!(feed(bytes.as_bytes()), (body.len(), Some(Ok(()))), "{body:?}");
        }
    }

    #[test]
    fn refuses_every_respelling_of_the_framing() {
        for (body, fault) in [
            ("\r\n", Fault::ChunkSize),
            ("g\r\n", Fault::ChunkSize),
            ("0x3\r\n", Fault::ChunkSize),
            ("+3\r\n", Fault::ChunkSize),
            (" 3\r\n", Fault::ChunkSize),
            ("3 \r\n", Fault::ChunkSize),
            ("3\n", Fault::ChunkSize),
            ("3\rx", Fault::ChunkSize),
            ("0000000000000003\r\n", Fault::ChunkSize),
            ("3;a\nb\r\n", Fault::ChunkExtension),
            ("3;a\0\r\n", Fault::ChunkExtension),
            ("3;a\rb", Fault::ChunkSize),
            ("3\r\nabcd", Fault::ChunkEnd),
            ("3\r\nabc\n", Fault::ChunkEnd),
            ("3\r\nabc\rx", Fault::ChunkEnd),
            ("0\r\n\n", Fault::Trailer),
            ("0\r\n a: b\r\n", Fault::Trailer),
            ("0\r\na : b\r\n", Fault::Trailer),
            ("0\r\n: b\r\n", Fault::Trailer),
            ("0\r\na\r\n", Fault::Trailer),
            ("0\r\na: b\n", Fault::Trailer),
            ("0\r\na: b\0", Fault::Trailer),
            ("0\r\na: b\r\n\tc", Fault::Trailer),
            ("0\r\na:b\r\na:b\r\na:b\r\na:b\r\n", Fault::TrailersTooLarge),
        ] {
            assert_eq!(feed(body.as_bytes()).1, Some(Err(fault)), "{body:?}");
        }
    }

    #[test]
    fn endless_extensions_and_trailers_are_cut_off() {
        assert_eq!(feed(format!("1;{}", "x".repeat(300)).as_bytes()).1, Some(Err(Fault::ChunkExtension)));
        let many = "1;".to_owned() + &"x".repeat(200) + "\r\na\r\n";
        assert_eq!(feed(many.repeat(100).as_bytes()).1, Some(Err(Fault::ChunkExtension)));
        assert_eq!(
            feed(format!("0\r\na:{}", "x".repeat(1100)).as_bytes()).1,
            Some(Err(Fault::TrailersTooLarge))
        );
    }
}
