//! File systems of their own for a test: a small tmpfs that can be full, and ext4 on an image whose power can be cut.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::shim::Shim;
use crate::support::Setup;

/// A mounted file system. Dropped, it is unmounted, however busy it is. It must be made before the gateway that uses
/// it, so that it goes after it.
#[derive(Debug)]
pub(crate) struct Mount {
    dir: TempDir,
    /// `None` when it lives in memory.
    image: Option<PathBuf>,
}

impl Mount {
    /// A tmpfs of this size, such as `256k`.
    pub(crate) fn tmpfs(size: &str) -> Self {
        let mount = Self { dir: directory(), image: None };
        mount.run(Command::new("mount").args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size}"),
            "portcullis-test",
        ]));
        mount
    }

    /// ext4 on an image. The image is the disk: what the kernel has not yet brought to it is what a power cut loses.
    pub(crate) fn ext4() -> Self {
        let dir = directory();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        tell(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        Self::of(dir, image)
    }

    /// What is on the disk now, on another disk. Only whole where nothing is written any more.
    pub(crate) fn copy(&self) -> Self {
        let dir = directory();
        let image = dir.path().join("image");
        fs::copy(self.image.as_ref().expect("on a disk"), &image).unwrap();
        Self::of(dir, image)
    }

    fn of(dir: TempDir, image: PathBuf) -> Self {
        let mount = Self { dir, image: Some(image.clone()) };
        mount.run(Command::new("mount").args(["-o", "loop"]).arg(image));
        mount
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// A gateway's state directory here.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// A configuration by which the gateway keeps everything here, but for its admin token.
    pub(crate) fn setup(&self, setup: Setup) -> Setup {
        let store = format!("[store]\nurl = \"sqlite:{}/portcullis.db\"", self.state().display());
        self.log_only(setup).section(&store)
    }

    /// A configuration by which it keeps its log and snapshots here, and nothing else.
    pub(crate) fn log_only(&self, setup: Setup) -> Setup {
        // The default place of the admin token; nobody else makes it when the state is elsewhere.
        fs::DirBuilder::new().mode(0o700).create(setup.path("state")).unwrap();
        setup.section(&format!("[state]\ndir = \"{}\"", self.state().display()))
    }

    /// Everything that was written so far is on the disk.
    pub(crate) fn sync(&self) {
        tell(Command::new("sync").arg("-f").arg(self.path()));
    }

    /// From now on nothing reaches the disk: neither what is written nor what was and is still in memory. In ext4's
    /// own words `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, made for tests like this one.
    pub(crate) fn cut_power(&self, shim: &Shim) {
        tell(Command::new(shim.power_cutter()).arg(self.path()));
    }

    /// Runs `mount`, which needs root.
    fn run(&self, mount: &mut Command) {
        let path = self.path();
        fs::create_dir(&path).unwrap();
        let output = mount.arg(&path).output().expect("mount can be run");
        assert!(
            output.status.success(),
            "cannot mount a file system; this test needs root and a kernel with tmpfs, loop devices and ext4, as in a \
             privileged container or a machine of one's own: {}",
            words(&output)
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}

fn directory() -> TempDir {
    tempfile::Builder::new().prefix("portcullis-disk-").tempdir().unwrap()
}

/// Runs to the end; failing is a failed test.
pub(crate) fn tell(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; scripts/test-needs installs what the tests need")
    });
    assert!(output.status.success(), "{command:?}: {}", words(&output));
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every file in a directory with this beginning of its name, in order.
pub(crate) fn files(dir: &Path, beginning: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(beginning))
        .collect();
    found.sort();
    found
}
