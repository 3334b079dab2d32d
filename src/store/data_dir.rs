//! The data directory: made, checked, locked; and the host key and the ballast in it.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;

use ring::rand::SecureRandom;
use ring::rand::SystemRandom;

use super::ballast::Ballast;
use super::connection::held;
use super::error::StoreError;
use crate::base::FileLock;

pub(super) const LOCK: &str = "larder.lock";
const DATABASE: &str = "meta.db";
const HOST_KEY: &str = "host.key";
pub(super) const HOST_KEY_LEN: usize = 32;

/// A directory that is ours until it is released.
#[derive(Debug)]
pub(super) struct DataDir {
    pub(super) database: PathBuf,
    pub(super) host_key: [u8; HOST_KEY_LEN],
    pub(super) ballast: Ballast,
    lock: Mutex<Option<FileLock>>,
}

impl DataDir {
    /// `ballast` is the size that the ballast shall have.
    pub(super) fn take(dir: &Path, ballast: u64) -> Result<DataDir, StoreError> {
        let shown = dir.display();
        let failed = |what: &str, err: std::io::Error| {
            StoreError::Open(format!("the data directory {shown} {what}: {err}"))
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|err| failed("cannot be made", err))?;
        if let Some(kind) =
            unfit_file_system(dir).map_err(|err| failed("cannot be looked at", err))?
        {
            return Err(StoreError::Open(format!(
                "the data directory {shown} is on {kind}, where locks and synced writes cannot \
                 be relied on: put it on a local disk"
            )));
        }
        let lock = FileLock::try_take(&dir.join(LOCK))
            .map_err(|err| failed("cannot be locked", err))?
            .ok_or_else(|| {
                StoreError::Open(format!("another Larder is running on the data directory {shown}"))
            })?;
        let database = dir.join(DATABASE);
        let is_new = !database.exists();
        let host_key = host_key(&dir.join(HOST_KEY), is_new)
            .map_err(|err| failed("has no usable host.key", err))?;
        // SQLite gives its other files the mode of the database.
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&database)
            .map_err(|err| failed("does not take a database", err))?;
        let ballast = Ballast::find(dir, ballast);
        Ok(DataDir { database, host_key, ballast, lock: Mutex::new(Some(lock)) })
    }

    /// Nothing may be written into it any more.
    pub(super) fn release(&self) {
        *held(&self.lock) = None;
    }
}

/// Reads the key; makes it only together with the database, whose secrets it opens.
fn host_key(path: &Path, make: bool) -> std::io::Result<[u8; HOST_KEY_LEN]> {
    let wrong = |text: &str| std::io::Error::other(text.to_owned());
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| wrong("it does not have 32 bytes")),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound && make => {
            let mut key = [0; HOST_KEY_LEN];
            SystemRandom::new().fill(&mut key).map_err(|_| wrong("no random bytes"))?;
            let beside = path.with_extension("new");
            match fs::remove_file(&beside) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err),
                _ => (),
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(&key)?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(key)
        }
        Err(err) => Err(err),
    }
}

/// Kinds of file system by their number in `statfs`, from "statfs(2)" and `linux/magic.h`.
#[cfg(target_os = "linux")]
const UNFIT: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x1980_0202, "BeeGFS"),
    (0x786f_4256, "a shared folder of VirtualBox"),
];

#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast)] // The field's type differs between architectures.
fn unfit_file_system(dir: &Path) -> std::io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(dir)?.f_type as u32;
    Ok(unfit_kind(kind))
}

#[cfg(target_os = "linux")]
fn unfit_kind(kind: u32) -> Option<&'static str> {
    UNFIT.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name)
}

#[cfg(target_vendor = "apple")]
fn unfit_file_system(dir: &Path) -> std::io::Result<Option<&'static str>> {
    let stat = rustix::fs::statfs(dir)?;
    let name: Vec<u8> =
        stat.f_fstypename.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    let unfit: [&'static str; 7] = ["nfs", "smbfs", "afpfs", "webdav", "macfuse", "osxfuse", "ftp"];
    Ok(unfit.into_iter().find(|kind| kind.as_bytes() == name))
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn unfit_file_system(_dir: &Path) -> std::io::Result<Option<&'static str>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_directory_is_private_and_has_one_owner() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("a/b");
        let first = DataDir::take(&dir, 0).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join(HOST_KEY)), 0o600);
        assert_eq!(mode(&dir.join(DATABASE)), 0o600);
        let err = DataDir::take(&dir, 0).unwrap_err();
        assert!(err.to_string().contains("another Larder is running"), "{err}");
        let key = first.host_key;
        drop(first);
        assert_eq!(DataDir::take(&dir, 0).unwrap().host_key, key);
    }

    #[test]
    fn a_lost_host_key_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::take(dir.path(), 0).unwrap());
        fs::remove_file(dir.path().join(HOST_KEY)).unwrap();
        assert!(DataDir::take(dir.path(), 0).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn network_and_fuse_are_refused() {
        assert_eq!(unfit_kind(0x6969), Some("NFS"));
        assert_eq!(unfit_kind(0x6573_5546), Some("FUSE"));
        assert_eq!(unfit_kind(0xef53), None);
        assert_eq!(unfit_kind(0x0102_1994), None);
    }
}
