//! What the system says of the server's process: memory, work, and what it asked of the disk.
//!
//! The figures come from `/proc` and are left out where there is none.

use std::fs;
use std::path::{Path, PathBuf};

use crate::load::peak_mib;
use crate::table::Table;

/// The unit of the times in `/proc/PID/stat`, the same on every platform that Larder is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running process.
pub(crate) struct Process(PathBuf);

/// What a process did since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) cpu_seconds: f64,
    /// From and to disks.
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) write_calls: u64,
    /// Times that one of its threads went to sleep by itself.
    pub(crate) sleeps: u64,
}

impl Process {
    /// `None` where the system does not tell.
    pub(crate) fn of(pid: u32) -> Option<Process> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        dir.join("status").exists().then_some(Process(dir))
    }

    pub(crate) fn done(&self) -> Done {
        let stat = fs::read_to_string(self.0.join("stat")).expect("it runs");
        // The name, which may hold anything, stands in brackets.
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |n: usize| fields[n].parse::<f64>().expect("a number");
        let io = self.0.join("io");
        let tasks = fs::read_dir(self.0.join("task")).expect("it runs");
        let tasks = tasks.flatten().map(|task| task.path().join("status"));
        Done {
            cpu_seconds: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
            bytes_read: field(&io, "read_bytes").unwrap_or(0),
            bytes_written: field(&io, "write_bytes").unwrap_or(0),
            write_calls: field(&io, "syscw").unwrap_or(0),
            sleeps: tasks.filter_map(|task| field(&task, "voluntary_ctxt_switches")).sum(),
        }
    }

    /// Does `work`; how much memory it took meanwhile above what it had before.
    pub(crate) fn memory_above<T>(&self, work: impl FnOnce() -> T) -> (T, Above) {
        let status = self.0.join("status");
        let figure = |name: &str| field(&status, name).expect("a figure");
        let (resident, own) = (figure("VmRSS"), figure("RssAnon"));
        // The peak begins anew.
        fs::write(self.0.join("clear_refs"), "5").expect("our own child");
        let (result, peak) = peak_mib(|| field(&status, "RssAnon"), work);
        let mib = |kib: u64| kib as f64 / 1024.0;
        let resident = mib(figure("VmHWM").saturating_sub(resident));
        (result, Above { resident, own: (peak - mib(own)).max(0.0) })
    }
}

/// MiB of memory above what there was before.
pub(crate) struct Above {
    /// With pages of files that are mapped, which the system takes back when it wants to.
    pub(crate) resident: f64,
    /// The program's own.
    pub(crate) own: f64,
}

impl Above {
    pub(crate) fn add(&self, table: &mut Table, name: &str) {
        table.add(&format!("resident above idle, {name}"), self.resident, "MiB");
        table.add(&format!("own memory above idle, {name}"), self.own, "MiB");
    }
}

/// The number behind `NAME:` on a line of its own.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let found = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = found.into_iter().find(|(found, _)| *found == name)?;
    value.split_whitespace().next()?.parse().ok()
}

impl Done {
    /// What came after `before`.
    pub(crate) fn since(&self, before: &Done) -> Done {
        Done {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            bytes_read: self.bytes_read - before.bytes_read,
            bytes_written: self.bytes_written - before.bytes_written,
            write_calls: self.write_calls - before.write_calls,
            sleeps: self.sleeps.saturating_sub(before.sleeps),
        }
    }
}
