//! Files that change under a running process: a certificate, a key, the configuration.
//!
//! Directories are watched, for files are mostly replaced by renaming another over them, and where a link leads
//! elsewhere (Kubernetes swaps a link in the middle of the path) both ends are. A notification is only a reason to
//! look: whether anything has changed is told by what the system says of the files themselves, so that noise in the
//! same directory, and our own reading, come to nothing. On file systems that notify nobody a change is found by
//! looking now and then.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Files that belong together are rarely written at the same moment: so long must nothing have changed.
const QUIET: Duration = Duration::from_millis(250);
/// In a directory that is never quiet.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// On file systems that tell of no change, one is found this late.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What the system says of a file, links followed: another one, or one that was written to, differs in it.
type Print = Option<(u64, u64, u64, u32, (i64, i64), (i64, i64))>;

/// Some files and what is known of them.
pub struct Watch {
    files: Vec<PathBuf>,
    /// `None`: not looked at yet.
    seen: Option<Vec<Print>>,
    directories: BTreeSet<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    notices: mpsc::Receiver<()>,
    /// Never sent on; without a watcher the notices would end.
    _notice: mpsc::Sender<()>,
}

impl Watch {
    /// Watches these files, which need not be there.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let (notice, notices) = mpsc::channel(1);
        let sender = notice.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change, ours least of all.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = sender.try_send(());
            }
        });
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "changes of files are noticed late")).ok();
        let directories = BTreeSet::new();
        let mut watch = Self { files, seen: None, directories, watcher, notices, _notice: notice };
        watch.settle();
        watch
    }

    /// Watches these files from now on. If they are others than before, [`changed`](Self::changed) finds them changed.
    pub fn follow(&mut self, files: Vec<PathBuf>) {
        if self.files != files {
            self.files = files;
            self.seen = None;
        }
        self.settle();
    }

    /// Waits until a file is not what it was when this last returned. The first time it returns at once: whoever read
    /// the files before may have missed a change. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        while self.seen.is_some() {
            if timeout(LOOK_EVERY, self.notices.recv()).await.is_ok() {
                let latest = Instant::now() + QUIET_MAX;
                while Instant::now() < latest && timeout(QUIET, self.notices.recv()).await.is_ok() {}
            }
            let files = self.files.clone();
            let looked = tokio::task::spawn_blocking(move || prints(&files)).await;
            if looked.ok() != self.seen {
                break;
            }
        }
        // Before whoever waits reads them: what changes after this is another change.
        self.seen = Some(prints(&self.files));
        self.settle();
    }

    /// Watches the directories in which the files are now.
    fn settle(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = self.files.iter().flat_map(|file| places(file)).collect();
        for gone in self.directories.difference(&wanted) {
            // Fails where the directory itself is gone.
            let _ = watcher.unwatch(gone);
        }
        let mut watched: BTreeSet<_> = self.directories.intersection(&wanted).cloned().collect();
        for dir in wanted.difference(&self.directories) {
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(dir.clone())),
                Err(error) => {
                    tracing::debug!(dir = %dir.display(), %error, "changes of files in it are noticed late");
                }
            }
        }
        self.directories = watched;
    }
}

/// The directory that the name stands in, and the one that the file stands in.
fn places(file: &Path) -> impl Iterator<Item = PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    let target = file.canonicalize().ok().map(|target| parent(&target));
    [parent(file)].into_iter().chain(target)
}

fn prints(files: &[PathBuf]) -> Vec<Print> {
    let print = |meta: Metadata| {
        let (changed, written) = ((meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec()));
        (meta.dev(), meta.ino(), meta.len(), meta.mode(), changed, written)
    };
    files.iter().map(|file| std::fs::metadata(file).ok().map(print)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Far more than a change takes to be noticed.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn expect_change(watch: &mut Watch, what: &str) {
        timeout(PATIENCE, watch.changed()).await.unwrap_or_else(|_| panic!("{what} was not noticed"));
    }

    #[tokio::test]
    async fn every_way_of_changing_a_file_is_noticed_and_noise_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gateway.toml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(vec![file.clone()]);
        expect_change(&mut watch, "the first look").await;

        fs::write(dir.path().join("noise"), "x").unwrap();
        fs::read(&file).unwrap();
        assert!(timeout(QUIET * 4, watch.changed()).await.is_err(), "nothing has changed");

        fs::write(&file, "b").unwrap();
        expect_change(&mut watch, "writing to it").await;
        fs::write(dir.path().join("new"), "c").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        expect_change(&mut watch, "renaming another over it").await;
        fs::remove_file(&file).unwrap();
        expect_change(&mut watch, "removing it").await;
    }

    #[tokio::test]
    async fn a_link_swapped_in_the_middle_of_the_path_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("v1", "a"), ("v2", "b")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("gateway.toml"), text).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/gateway.toml", at("gateway.toml")).unwrap();
        let mut watch = Watch::new(vec![at("gateway.toml")]);
        expect_change(&mut watch, "the first look").await;
        symlink("v2", at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        expect_change(&mut watch, "the swap").await;
        // And it is where the link leads now that is watched.
        fs::write(at("v2").join("gateway.toml"), "c").unwrap();
        expect_change(&mut watch, "writing behind the link").await;
    }
}
