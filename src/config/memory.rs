//! How much memory bodies in flight may take when the file does not say.

/// Of the machine's memory, this part.
const SHARE: u64 = 8;
/// And at least this.
const MEMORY_MIN: u64 = 64 << 20;
/// Where the size of the machine's memory is not known.
const MEMORY_UNKNOWN: u64 = 256 << 20;

/// The budget of this machine, or of the container that the process runs in.
pub(crate) fn default_budget() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    budget(machine.as_deref(), container.as_deref())
}

fn budget(meminfo: Option<&str>, container_max: Option<&str>) -> u64 {
    let machine = meminfo.and_then(total);
    // The file says `max` when there is no limit.
    let container = container_max.and_then(|max| max.trim().parse().ok());
    match machine.into_iter().chain(container).min() {
        Some(bytes) => (bytes / SHARE).max(MEMORY_MIN),
        None => MEMORY_UNKNOWN,
    }
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_machine_and_container_counts() {
        let machine = "MemTotal:       16777216 kB\nMemFree: 1 kB\n";
        assert_eq!(budget(Some(machine), None), 2 << 30);
        assert_eq!(budget(Some(machine), Some("max\n")), 2 << 30);
        assert_eq!(budget(Some(machine), Some("4294967296\n")), 512 << 20);
        assert_eq!(budget(Some(machine), Some("1048576\n")), MEMORY_MIN);
        assert_eq!(budget(None, None), MEMORY_UNKNOWN);
        assert_eq!(budget(Some("MemTotal: much"), None), MEMORY_UNKNOWN);
    }
}
