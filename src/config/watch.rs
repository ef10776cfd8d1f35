//! Detects that the settings file was replaced.
//!
//! A half-written settings file is often valid TOML, but the last rule of the file may be missing.
//! If the rule of a route is missing, more users than the operator intends can use the route. A
//! write to the existing file never starts a reload, because the file can be half-written. A reload
//! starts only if another file is renamed to the path, or if a symbolic link in the path is changed
//! and leads to another file. Kubernetes, for example, changes a symbolic link. The reload starts
//! when the new file has stayed unchanged for the time [`STABLE`].

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::time::Instant;

/// The time for which a replaced file must stay unchanged before the gateway reads it.
const STABLE: Duration = Duration::from_secs(2);

/// The size of the buffer for inotify events, in bytes.
const EVENTS: usize = 4096;

/// The result of [`Watch::poll`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum FileChange {
    /// No action is needed: the file has not changed, or its last change was less than [`STABLE`]
    /// ago.
    Nothing,
    /// The file was replaced and has stayed unchanged for [`STABLE`].
    Replaced,
    /// A program has written to the existing file and has not replaced the file. The gateway does
    /// not read the written file until a different file replaces it.
    WrittenInPlace,
}

/// Watches a settings file.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    /// The folder that contains the watched file, as written in the path of the file. The folder at
    /// the watched path can be replaced while the gateway runs.
    folder: PathBuf,
    folder_id: Option<FileId>,
    /// The inotify events of `folder`.
    events: OwnedFd,
    /// The path with all symbolic links resolved.
    target: Option<PathBuf>,
    /// The file was replaced, but `poll` has not reported the replacement yet. The new file must
    /// first stay unchanged for the time [`STABLE`].
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    since: Instant,
    version: Option<FileVersion>,
}

/// Identifies a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|about| Self::from(&about))
    }
}

impl From<&Metadata> for FileId {
    fn from(about: &Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
        }
    }
}

/// Identifies a version of a file. If the file is replaced or written, its `FileVersion` changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FileVersion {
    id: FileId,
    length: u64,
    modified: (i64, i64),
}

impl FileVersion {
    /// Returns the current version of the file at `path`.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let about = fs::metadata(path).ok()?;
        Some(Self {
            id: FileId::from(&about),
            length: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
        })
    }
}

/// The latest event for the path of the settings file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Event {
    /// A file or a link was created. The content of a new file is probably not complete yet.
    Created,
    /// The kernel reported no change at the path of the settings file.
    Nothing,
    /// A file was renamed to the path of the settings file.
    Renamed,
    /// The file was written, or the kernel dropped events.
    Written,
}

impl Watch {
    /// Watches the file at `path`. The argument `read` is the version of the file that the gateway
    /// has read. If `path` now leads to a file that the gateway has not read, the watch assumes
    /// that the file was replaced at the time `now`.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses to watch the folder.
    pub(crate) fn new(path: &Path, read: Option<FileVersion>, now: Instant) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        let mut watch = Self {
            path: path.to_owned(),
            folder: folder.to_owned(),
            folder_id: FileId::of(folder),
            events: events_of(folder)?,
            target: fs::canonicalize(path).ok(),
            pending: None,
        };
        // Only the file ids are compared, because a write to the existing file must not count as a
        // replacement.
        let id = |version: FileVersion| version.id;
        if FileVersion::of(path).map(id) != read.map(id) {
            watch.start_stability_wait(now);
        }
        Ok(watch)
    }

    /// Checks whether the file was replaced. The caller calls `poll` about one time per second.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel's events cannot be read.
    pub(crate) fn poll(&mut self, now: Instant) -> io::Result<FileChange> {
        let event = self.read_events()?;
        let leads_elsewhere = self.follow_links()?;
        let put_in_place = match event {
            Event::Nothing => leads_elsewhere,
            Event::Renamed => true,
            // A symbolic link is created in one step, so a new link is never half-written. A new
            // file can still be incomplete.
            Event::Created if self.path.is_symlink() => true,
            Event::Created | Event::Written => {
                self.pending = None;
                return Ok(FileChange::WrittenInPlace);
            }
        };
        if put_in_place {
            self.start_stability_wait(now);
            return Ok(FileChange::Nothing);
        }
        let Some(pending) = self.pending.take() else {
            return Ok(FileChange::Nothing);
        };
        // After the file was replaced, a program has changed or removed the new file, so the
        // content of the new file can be incomplete or missing.
        if pending.version.is_none() || pending.version != FileVersion::of(&self.path) {
            return Ok(FileChange::WrittenInPlace);
        }
        if now.saturating_duration_since(pending.since) < STABLE {
            self.pending = Some(pending);
            return Ok(FileChange::Nothing);
        }
        Ok(FileChange::Replaced)
    }

    fn start_stability_wait(&mut self, now: Instant) {
        self.pending = Some(Pending {
            since: now,
            version: FileVersion::of(&self.path),
        });
    }

    /// Returns true if the path leads to a different file than at the last poll, because a link or
    /// a folder was replaced.
    fn follow_links(&mut self) -> io::Result<bool> {
        let folder_id = FileId::of(&self.folder);
        // While the folder is replaced, the folder does not exist for a moment, so a missing folder
        // is ignored.
        let other_folder = folder_id.is_some() && folder_id != self.folder_id;
        if other_folder {
            self.events = events_of(&self.folder)?;
            self.folder_id = folder_id;
        }
        let target = fs::canonicalize(&self.path).ok();
        let other_target = target.is_some() && target != self.target;
        if other_target {
            self.target = target;
        }
        Ok(other_folder || other_target)
    }

    /// Reads the events of the folder and returns the latest event for the path.
    fn read_events(&self) -> io::Result<Event> {
        let name = self.path.file_name().map(OsStr::as_bytes);
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut events = inotify::Reader::new(&self.events, &mut buffer);
        let mut last = Event::Nothing;
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => return Ok(last),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let flags = event.events();
            // A lost event counts as a write, because the lost event could be a write to the
            // existing file.
            let is_lost = flags.contains(ReadFlags::QUEUE_OVERFLOW);
            if !is_lost && event.file_name().map(std::ffi::CStr::to_bytes) != name {
                continue;
            }
            if is_lost || flags.contains(ReadFlags::MODIFY) {
                last = Event::Written;
            } else if flags.contains(ReadFlags::MOVED_TO) {
                last = Event::Renamed;
            } else if flags.contains(ReadFlags::CREATE) {
                last = Event::Created;
            }
        }
    }
}

fn events_of(folder: &Path) -> io::Result<OwnedFd> {
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // The kernel watches the folder and not the file. If the kernel watched the file, it would
    // still watch the old file after the file was replaced.
    let flags = WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::MODIFY;
    inotify::add_watch(&events, folder, flags)?;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::clock::Clock;

    const MINUTE: Duration = Duration::from_mins(1);

    fn after(start: Instant, duration: Duration) -> Instant {
        start.checked_add(duration).unwrap()
    }

    struct Folder {
        folder: tempfile::TempDir,
        now: Instant,
    }

    impl Folder {
        fn new() -> (Self, Watch) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("sidegate.toml");
            fs::write(&path, "old").unwrap();
            let now = Clock::system().instant();
            let watch = Watch::new(&path, FileVersion::of(&path), now).unwrap();
            (Self { folder, now }, watch)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Calls `watch.poll` ten times. The time of each call is one second after the time of the
        /// previous call. Returns all file changes except [`FileChange::Nothing`].
        fn poll_ten_times(&mut self, watch: &mut Watch) -> Vec<FileChange> {
            let poll = |second| {
                let now = after(self.now, Duration::from_secs(second));
                (second, watch.poll(now).unwrap())
            };
            let seen: Vec<_> = (0..10).map(poll).collect();
            self.now = after(self.now, MINUTE);
            let something = |(_, change): &(u64, FileChange)| *change != FileChange::Nothing;
            seen.into_iter()
                .filter(something)
                .map(|(_, change)| change)
                .collect()
        }
    }

    #[test]
    fn a_file_that_is_renamed_to_the_path_is_reported_once() {
        let (mut folder, mut watch) = Folder::new();
        assert_eq!(folder.poll_ten_times(&mut watch), []);
        for text in ["new", "newer"] {
            fs::write(folder.path("next"), text).unwrap();
            fs::rename(folder.path("next"), folder.path("sidegate.toml")).unwrap();
            let now = folder.now;
            assert_eq!(watch.poll(now).unwrap(), FileChange::Nothing);
            let early = after(now, Duration::from_millis(1999));
            assert_eq!(watch.poll(early).unwrap(), FileChange::Nothing);
            assert_eq!(
                watch.poll(after(now, STABLE)).unwrap(),
                FileChange::Replaced
            );
            folder.now = after(folder.now, MINUTE);
            assert_eq!(folder.poll_ten_times(&mut watch), []);
        }
    }

    #[test]
    fn a_file_that_is_written_in_place_is_never_reported_as_replaced() {
        let (mut folder, mut watch) = Folder::new();
        let path = folder.path("sidegate.toml");
        let text = "[[routes]]\naccess = 'public'\n[[routes]]\nprefix = '/admin'\n";
        for beginning in ["truncated", "removed and created again"] {
            if beginning == "removed and created again" {
                fs::remove_file(&path).unwrap();
            }
            let mut file = fs::File::create(&path).unwrap();
            for byte in text.as_bytes() {
                file.write_all(&[*byte]).unwrap();
                file.flush().unwrap();
                let poll_ten_times = folder.poll_ten_times(&mut watch);
                assert!(
                    !poll_ten_times.contains(&FileChange::Replaced),
                    "{beginning}"
                );
            }
        }
    }

    #[test]
    fn a_file_that_is_written_after_its_rename_is_not_reported_as_replaced() {
        let (folder, mut watch) = Folder::new();
        fs::write(folder.path("next"), "half").unwrap();
        fs::rename(folder.path("next"), folder.path("sidegate.toml")).unwrap();
        assert_eq!(watch.poll(folder.now).unwrap(), FileChange::Nothing);
        fs::write(folder.path("sidegate.toml"), "half and more").unwrap();
        let later = after(folder.now, STABLE);
        assert_eq!(watch.poll(later).unwrap(), FileChange::WrittenInPlace);
        let much_later = after(later, MINUTE);
        assert_eq!(watch.poll(much_later).unwrap(), FileChange::Nothing);
    }

    /// In this test, the file is overwritten in place after the rename and before the first poll.
    /// After the write, the file stays unchanged for longer than [`STABLE`].
    #[test]
    fn a_file_that_is_written_between_its_rename_and_the_first_poll_is_not_reported_as_replaced() {
        let (mut folder, mut watch) = Folder::new();
        let path = folder.path("sidegate.toml");
        fs::write(folder.path("backup"), "backup").unwrap();
        fs::rename(folder.path("backup"), &path).unwrap();
        fs::write(&path, "half").unwrap();
        assert_eq!(
            folder.poll_ten_times(&mut watch),
            [FileChange::WrittenInPlace]
        );
        // The test writes another file completely, and then renames the file to `path`.
        fs::write(&path, "half").unwrap();
        fs::write(folder.path("next"), "whole").unwrap();
        fs::rename(folder.path("next"), &path).unwrap();
        assert_eq!(folder.poll_ten_times(&mut watch), [FileChange::Replaced]);
    }

    #[test]
    fn a_new_link_is_reported_as_replaced_and_a_new_file_in_its_place_is_not() {
        let (mut folder, mut watch) = Folder::new();
        let path = folder.path("sidegate.toml");
        for name in ["one", "two"] {
            fs::write(folder.path(name), name).unwrap();
        }
        let mut relink = |name: &str| {
            fs::remove_file(&path).unwrap();
            symlink(folder.path(name), &path).unwrap();
            folder.poll_ten_times(&mut watch)
        };
        assert_eq!(relink("one"), [FileChange::Replaced]);
        assert_eq!(relink("two"), [FileChange::Replaced]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "half").unwrap();
        assert_eq!(
            folder.poll_ten_times(&mut watch),
            [FileChange::WrittenInPlace]
        );
    }

    #[test]
    fn a_folder_that_replaces_the_watched_folder_is_watched() {
        let (mut folder, _) = Folder::new();
        for (name, text) in [("conf", "old"), ("next", "new")] {
            fs::create_dir(folder.path(name)).unwrap();
            fs::write(folder.path(name).join("sidegate.toml"), text).unwrap();
        }
        let path = folder.path("conf/sidegate.toml");
        let mut watch = Watch::new(&path, FileVersion::of(&path), folder.now).unwrap();
        fs::rename(folder.path("conf"), folder.path("before")).unwrap();
        fs::rename(folder.path("next"), folder.path("conf")).unwrap();
        assert_eq!(folder.poll_ten_times(&mut watch), [FileChange::Replaced]);
        fs::write(folder.path("conf/newer"), "newer").unwrap();
        fs::rename(folder.path("conf/newer"), &path).unwrap();
        assert_eq!(folder.poll_ten_times(&mut watch), [FileChange::Replaced]);
    }

    #[test]
    fn a_file_that_was_replaced_between_its_reading_and_the_watch_is_reported() {
        let (mut folder, _) = Folder::new();
        let path = folder.path("sidegate.toml");
        let read = FileVersion::of(&path);
        fs::write(folder.path("next"), "new").unwrap();
        fs::rename(folder.path("next"), &path).unwrap();
        let mut watch = Watch::new(&path, read, folder.now).unwrap();
        assert_eq!(folder.poll_ten_times(&mut watch), [FileChange::Replaced]);
    }

    /// In a `ConfigMap` that Kubernetes mounts, the file is a symbolic link that leads through
    /// another symbolic link, `..data`. Kubernetes replaces `..data`.
    #[test]
    fn a_link_with_a_new_target_is_reported_as_replaced() {
        let (mut folder, _) = Folder::new();
        let path = folder.path("sidegate.toml");
        fs::remove_file(&path).unwrap();
        for (version, text) in [("1", "old"), ("2", "new")] {
            fs::create_dir(folder.path(version)).unwrap();
            fs::write(folder.path(version).join("sidegate.toml"), text).unwrap();
        }
        symlink("1", folder.path("..data")).unwrap();
        symlink("..data/sidegate.toml", &path).unwrap();
        let mut watch = Watch::new(&path, FileVersion::of(&path), folder.now).unwrap();
        assert_eq!(folder.poll_ten_times(&mut watch), []);
        symlink("2", folder.path("..data_tmp")).unwrap();
        fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
        assert_eq!(folder.poll_ten_times(&mut watch), [FileChange::Replaced]);
        assert_eq!(folder.poll_ten_times(&mut watch), []);
        // A write to the file to which the symbolic link points starts no reload.
        symlink("1", folder.path("..data_tmp")).unwrap();
        fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
        assert_eq!(watch.poll(folder.now).unwrap(), FileChange::Nothing);
        fs::write(folder.path("1/sidegate.toml"), "half a file").unwrap();
        assert_eq!(
            folder.poll_ten_times(&mut watch),
            [FileChange::WrittenInPlace]
        );
    }

    #[test]
    fn other_files_in_the_folder_are_ignored() {
        let (mut folder, mut watch) = Folder::new();
        fs::write(folder.path("other"), "x").unwrap();
        fs::rename(folder.path("other"), folder.path("another")).unwrap();
        assert_eq!(folder.poll_ten_times(&mut watch), []);
        fs::rename(folder.path("sidegate.toml"), folder.path("away")).unwrap();
        assert_eq!(folder.poll_ten_times(&mut watch), []);
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let path = Path::new("/nowhere/sidegate.toml");
        assert!(Watch::new(path, None, Clock::system().instant()).is_err());
    }
}
