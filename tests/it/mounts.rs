//! Small disks of our own: a mount namespace that no other process sees.
//!
//! A process that does nothing holds the namespace, so that its disks, and what is on them, outlive
//! the larder that runs there; with it they end. Nothing is mounted that the machine would see.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Ways to a namespace of our own, the plainer first: as root, and as anybody where the system lets
/// everybody have user namespaces. For `unshare`, and for `nsenter`.
const WAYS: [(&[&str], &[&str]); 2] = [
    (&["--mount"], &["--mount"]),
    (&["--user", "--map-root-user", "--mount"], &["--user", "--preserve-credentials", "--mount"]),
];

pub(crate) struct Mounts {
    holder: Child,
    enter: &'static [&'static str],
}

impl Mounts {
    /// Mounts folders as disks of so many MiB.
    pub(crate) fn hold(disks: &[(PathBuf, u64)]) -> Mounts {
        let (unshare, enter) = way().expect("asked before: `may_mount`");
        let mounts: String = disks
            .iter()
            .map(|(path, mib)| {
                format!("mount -t tmpfs -o size={mib}m,mode=700 none '{}' && ", path.display())
            })
            .collect();
        let mut holder = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", &format!("{mounts}echo mounted && exec cat")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it could be started before");
        let mut line = String::new();
        let said = holder.stdout.take().expect("it is piped");
        BufReader::new(said).read_line(&mut line).expect("it writes a line");
        assert_eq!(line.trim(), "mounted", "the small disks cannot be mounted");
        Mounts { holder, enter }
    }

    /// `program` among these mounts. It does not end when it meets a limit for the length of files.
    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string()]).args(self.enter);
        command.args(["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(program);
        command
    }

    /// `path` as the processes there see it.
    pub(crate) fn inside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The first way that works here.
fn way() -> Option<(&'static [&'static str], &'static [&'static str])> {
    let works = |(unshare, _): &&(&[&str], &[&str])| {
        let mut command = Command::new("unshare");
        command.args(*unshare).args(["mount", "-t", "tmpfs", "none", "/mnt"]);
        command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    WAYS.iter().find(works).copied()
}

/// Whether tests on small disks run: always, unless they were put off on purpose.
#[cfg(target_os = "linux")]
#[track_caller]
pub(crate) fn may_mount() -> bool {
    if std::env::var_os("LARDER_TEST_NO_MOUNTS").is_some_and(|value| value == "1") {
        println!("skipped: LARDER_TEST_NO_MOUNTS=1");
        return false;
    }
    assert!(
        way().is_some(),
        "this test mounts small disks in a namespace of its own, and may not. Run it as root (in a \
         container: with `--cap-add SYS_ADMIN`), or let users have namespaces (`sysctl -w \
         kernel.unprivileged_userns_clone=1`, `kernel.apparmor_restrict_unprivileged_userns=0`); \
         `unshare` and `nsenter` of util-linux have to be there. To leave such tests out: \
         LARDER_TEST_NO_MOUNTS=1"
    );
    true
}
