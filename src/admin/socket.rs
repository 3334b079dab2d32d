//! The Unix socket in the data directory. Who may open it may do everything: its permissions are
//! the login.
//!
//! # Invariant
//!
//! Only the holder of the store's lock makes or removes the socket, so one that is there already
//! was left by a killed process. The new one takes its name by a rename, with its permissions
//! already set.

use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use tokio::net::UnixListener;
use tokio::net::UnixStream;

const NAME: &str = "larder.sock";
const NEW_NAME: &str = "larder.sock.new";
/// What fits into the address of a socket on every system.
const ADDRESS_MAX: usize = 100;

/// The socket of a server, removed when dropped.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// For the process that has the store of `data_dir` open. Clients that come before it is
    /// served wait.
    pub fn bind(data_dir: &Path) -> io::Result<Socket> {
        let (path, new) = (data_dir.join(NAME), data_dir.join(NEW_NAME));
        match fs::remove_file(&new) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => (),
        }
        let address = Address::of(data_dir, NEW_NAME)?;
        let listener = UnixListener::bind(&address.path)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(&new, &path)?;
        Ok(Socket { listener, path })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // One that stays behind is taken for what it is by the next client and the next server.
        let _ = fs::remove_file(&self.path);
    }
}

/// Connects to the server of `data_dir`; `None` when there is none.
pub async fn connect(data_dir: &Path) -> io::Result<Option<UnixStream>> {
    let address = match Address::of(data_dir, NAME) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        address => address?,
    };
    match UnixStream::connect(&address.path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(err) => match err.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
            _ => Err(err),
        },
    }
}

/// A path that is short enough, whatever the data directory is called.
struct Address {
    path: PathBuf,
    /// Keeps the short way open.
    _dir: Option<File>,
}

impl Address {
    fn of(dir: &Path, name: &str) -> io::Result<Address> {
        let path = dir.join(name);
        if path.as_os_str().len() <= ADDRESS_MAX {
            return Ok(Address { path, _dir: None });
        }
        if !cfg!(target_os = "linux") {
            let text = "the data directory's path is too long for a socket in it";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        use std::os::fd::AsRawFd;
        let dir = File::open(dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
        Ok(Address { path, _dir: Some(dir) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_the_owners_alone_and_goes_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        assert!(connect(dir.path()).await.unwrap().is_none());
        let socket = Socket::bind(dir.path()).unwrap();
        let path = dir.path().join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(connect(dir.path()).await.unwrap().is_some());
        drop(socket);
        assert!(!path.exists());
        assert!(connect(dir.path()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn one_that_was_left_behind_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for name in [NAME, NEW_NAME] {
            drop(std::os::unix::net::UnixListener::bind(dir.path().join(name)).unwrap());
        }
        assert!(connect(dir.path()).await.unwrap().is_none());
        let _socket = Socket::bind(dir.path()).unwrap();
        assert!(connect(dir.path()).await.unwrap().is_some());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_long_path_is_no_obstacle() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("d".repeat(150));
        assert!(connect(&dir).await.unwrap().is_none());
        fs::create_dir(&dir).unwrap();
        let _socket = Socket::bind(&dir).unwrap();
        assert!(connect(&dir).await.unwrap().is_some());
    }
}
