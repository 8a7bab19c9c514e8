//! The memory that processes on this machine can use.

use std::fs;
use std::path::Path;

/// Memory limits in bytes; absent if the system does not report them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Memory and swap of the machine, or the limit of a control group (a container, a batch job) if that is lower.
    pub all: Option<u64>,
    /// Memory available now without swapping, or the limit of the control group if that is lower.
    pub available: Option<u64>,
    /// Limit of the address space of a process (`ulimit -v`).
    pub address_space: Option<u64>,
}

impl Machine {
    pub fn here() -> Self {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = |key: &str| -> Option<u64> {
            let line = memory.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
        };
        let total = kib("MemTotal").map(|total| total + kib("SwapTotal").unwrap_or(0));
        let group = group_limit(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            all: total.into_iter().chain(group).min(),
            available: kib("MemAvailable").into_iter().chain(group).min(),
            address_space: address_space(&limits),
        }
    }

    /// The memory that a single process can use, and words for what sets the limit.
    pub fn of_a_process(&self) -> Option<(u64, &'static str)> {
        let all = self.all.map(|bytes| (bytes, "this machine has"));
        let space = self.address_space.map(|bytes| (bytes, "`ulimit -v` allows"));
        all.into_iter().chain(space).min()
    }
}

/// The soft limit `Max address space` of `limits`, the text of /proc/self/limits.
fn address_space(limits: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix("Max address space")?.split_whitespace().next()?.parse().ok())
}

/// The lowest memory limit of the control groups of this process and of their ancestors. `root` is /sys/fs/cgroup, `cgroups` the
/// text of /proc/self/cgroup.
fn group_limit(root: &Path, cgroups: &str) -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut least: Option<u64> = None;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            controllers if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        // Inside a container, the path of the group is often that on the host, while the limit is at the root.
        for folder in Path::new(group.trim_start_matches('/')).ancestors() {
            least = least.into_iter().chain(read(&root.join(folder).join(file))).min();
        }
    }
    // In cgroups v1, no limit is written as a number near 2⁶³.
    least.filter(|&bytes| bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_all_control_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "4000\n");
        write("a/b/memory.max", "max\n");
        write("memory/job/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(group_limit(root.path(), "0::/a/b\n"), Some(4000));
        assert_eq!(group_limit(root.path(), "0::/elsewhere\n"), None);
        assert_eq!(group_limit(root.path(), "5:cpu,cpuacct:/a\n4:memory:/job\n"), None);
    }

    #[test]
    fn a_limited_address_space_limits_the_memory_of_a_process() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max address space         6144000000           unlimited            bytes\n";
        assert_eq!(address_space(limits), Some(6_144_000_000));
        assert_eq!(address_space(&limits.replace("6144000000", "unlimited ")), None);
        let machine = Machine { all: Some(8_000_000_000), available: None, address_space: Some(6_144_000_000) };
        assert_eq!(machine.of_a_process(), Some((6_144_000_000, "`ulimit -v` allows")));
    }
}
