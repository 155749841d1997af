//! The few file operations that the log and its snapshots need, in one directory, as a trait: the real one here, and
//! for the crash tests one that forgets, tears and fails (`sim.rs`).

use std::any::Any;
use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::files::unfinished;

/// The name of the file whose lock says that a gateway works on the directory.
pub(super) const LOCK_NAME: &str = "lock";

/// One directory. Every name is a plain file name in it.
pub trait Disk: Send + Sync + 'static {
    /// The directory, for messages.
    fn place(&self) -> &Path;

    /// Every file in it: name and length in bytes, in order of names.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// An empty file of this name, mode 0600, in place of any there was; its entry is durable after
    /// [`Disk::sync_dir`].
    ///
    /// # Errors
    /// When the file cannot be made.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// The file of this name, for reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or when it cannot be opened.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Gives the file another name, in place of any there was, in one step; durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// When it cannot be renamed; then nothing has changed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes the name away; durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The same for a file that may be large: to give back its blocks and its pages takes the system a fifth of a
    /// millisecond for each MiB, of which none should wait for all. `rest` is called between pieces of it.
    ///
    /// # Errors
    /// When it cannot be removed; then it is there as before.
    fn remove_by_pieces(&self, name: &str, rest: &mut dyn FnMut()) -> io::Result<()> {
        let _ = rest;
        self.remove(name)
    }

    /// Makes every name made, changed or taken away so far durable.
    ///
    /// # Errors
    /// When that cannot be known.
    fn sync_dir(&self) -> io::Result<()>;

    /// Takes the lock of the directory, held until the guard is dropped or the process ends; `None` when another
    /// process holds it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;

    /// Files of ours, and the directory itself, that group or world can get at: path and mode bits.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn exposed(&self) -> io::Result<Vec<(PathBuf, u32)>>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Writes all of it at the end; durable after [`File::sync`].
    ///
    /// # Errors
    /// Some of the bytes may be in the file then.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Writes so many zero bytes behind the end, which stays where it is: what is appended next takes their place. With
    /// them durable, a sync of that has no new length to bring to the disk and no new blocks, which on a file system with
    /// a journal is the larger part of it.
    ///
    /// # Errors
    /// There is less room then, or none; nothing else has changed.
    fn make_room(&mut self, bytes: usize) -> io::Result<()>;

    /// Makes the content and the length durable (`fdatasync`).
    ///
    /// # Errors
    /// Final: what was written since the last success can no longer be trusted to be on disk, ever, because a
    /// second call may succeed over pages that the first one lost.
    fn sync(&mut self) -> io::Result<()>;

    /// Reads from `offset` as many bytes as fit and are there; fewer only at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Bytes in it, room included.
    ///
    /// # Errors
    /// When that cannot be told.
    fn length(&self) -> io::Result<u64>;

    /// Cuts it to this length, room included.
    ///
    /// # Errors
    /// When it cannot be cut.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A directory of the machine's file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    /// The directory `dir`, made with mode 0700 when it is not there.
    ///
    /// # Errors
    /// When it cannot be made or is not a directory.
    pub fn at(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            // The name of the directory is an entry of its parent, and as easily forgotten as any other.
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { dir })
    }

    /// The directory `dir`, which must be there.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] or [`io::ErrorKind::NotADirectory`].
    pub fn existing(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        if !fs::metadata(&dir)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Disk for RealDisk {
    fn place(&self) -> &Path {
        &self.dir
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Names that are not UTF-8 are not ours.
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type()?.is_file()
            {
                files.push((name, entry.metadata()?.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        // Never through a file that is there: a link of that name would lead our bytes elsewhere.
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(fs::File::open(self.path(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn remove_by_pieces(&self, name: &str, rest: &mut dyn FnMut()) -> io::Result<()> {
        let mut length = fs::metadata(self.path(name))?.len();
        if length <= REMOVED_BYTES {
            return self.remove(name);
        }
        // Under this name the next start removes what is left of it, if anything goes wrong from here on.
        let going = unfinished(name);
        self.rename(name, &going)?;
        // It must be its name for good before anything is missing.
        let file = self.sync_dir().and_then(|()| OpenOptions::new().write(true).open(self.path(&going)));
        while let (Ok(file), true) = (&file, length > REMOVED_BYTES) {
            length -= REMOVED_BYTES;
            if file.set_len(length).is_err() {
                break;
            }
            rest();
        }
        let _ = self.remove(&going);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        fs::File::open(&self.dir)?.sync_all()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path(LOCK_NAME))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn exposed(&self) -> io::Result<Vec<(PathBuf, u32)>> {
        const OTHERS: u32 = 0o077;
        let mut found = Vec::new();
        let mut look = |path: &Path| -> io::Result<()> {
            let mode = fs::symlink_metadata(path)?.permissions().mode() & 0o777;
            if mode & OTHERS != 0 {
                found.push((path.to_owned(), mode));
            }
            Ok(())
        };
        look(&self.dir)?;
        for (name, _) in self.list()? {
            if super::files::Name::parse(&name).is_some() {
                look(&self.path(&name))?;
            }
        }
        Ok(found)
    }
}

/// A file whose cursor is its end; room lies behind it.
struct RealFile(fs::File);

/// Bytes that are removed at once.
const REMOVED_BYTES: u64 = 1 << 20;

/// What room is made of. Memory of its own for each would be fresh pages, whose making costs more than the writing.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl File for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let (mut at, mut left) = (self.0.stream_position()?, bytes);
        while left > 0 {
            let some = &ZEROS[..left.min(ZEROS.len())];
            self.0.write_all_at(some, at)?;
            at += some.len() as u64;
            left -= some.len();
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)?;
        self.0.seek(SeekFrom::Start(length)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_a_directory_and_files_that_nobody_else_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::at(dir.path().join("a/state")).unwrap();
        disk.create(&super::super::files::segment_name(1)).unwrap().append(b"x").unwrap();
        let _lock = disk.lock().unwrap().unwrap();
        assert_eq!(disk.exposed().unwrap(), []);
        let path = disk.path(&super::super::files::segment_name(1));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(disk.exposed().unwrap(), [(path, 0o640)]);
    }

    #[test]
    fn gives_its_lock_to_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::at(dir.path()).unwrap();
        let guard = disk.lock().unwrap();
        assert!(guard.is_some());
        assert!(disk.lock().unwrap().is_none());
        drop(guard);
        assert!(disk.lock().unwrap().is_some());
    }

    #[test]
    fn reads_back_what_was_appended_and_cut() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::at(dir.path()).unwrap();
        let mut file = disk.create("a").unwrap();
        file.append(b"hello ").unwrap();
        file.append(b"world").unwrap();
        file.truncate(8).unwrap();
        file.append(b"!").unwrap();
        file.sync().unwrap();
        let mut bytes = [0; 16];
        assert_eq!(disk.open("a").unwrap().read_at(6, &mut bytes).unwrap(), 3);
        assert_eq!(&bytes[..3], b"wo!");
        assert_eq!(disk.list().unwrap(), [("a".to_owned(), 9)]);
    }

    #[test]
    fn a_large_file_goes_by_pieces_and_a_small_one_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::at(dir.path()).unwrap();
        for (bytes, rests) in [(0, 0), (REMOVED_BYTES, 0), (REMOVED_BYTES + 1, 1), (3 * REMOVED_BYTES, 2)] {
            disk.create("a").unwrap().append(&vec![7; usize::try_from(bytes).unwrap()]).unwrap();
            let mut left = Vec::new();
            disk.remove_by_pieces("a", &mut || left.push(disk.list().unwrap())).unwrap();
            let lengths: Vec<_> =
                left.into_iter().flatten().map(|(name, length)| (name == "a.new", length)).collect();
            let expected: Vec<_> = (1..=rests).map(|rest| (true, bytes - rest * REMOVED_BYTES)).collect();
            assert_eq!((lengths, disk.list().unwrap()), (expected, Vec::new()), "{bytes}");
        }
        assert_eq!(disk.remove_by_pieces("a", &mut || ()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn appends_into_the_room_that_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::at(dir.path()).unwrap();
        let mut file = disk.create("a").unwrap();
        file.append(b"one").unwrap();
        file.make_room(5).unwrap();
        assert_eq!(disk.list().unwrap(), [("a".to_owned(), 8)]);
        file.append(b"two").unwrap();
        assert_eq!(fs::read(disk.path("a")).unwrap(), b"onetwo\0\0");
        file.append(b"three").unwrap();
        assert_eq!(fs::read(disk.path("a")).unwrap(), b"onetwothree");
        file.make_room(ZEROS.len() + 9).unwrap();
        assert_eq!(disk.list().unwrap(), [("a".to_owned(), 11 + ZEROS.len() as u64 + 9)]);
        file.truncate(6).unwrap();
        file.append(b"!").unwrap();
        assert_eq!(fs::read(disk.path("a")).unwrap(), b"onetwo!");
    }
}
