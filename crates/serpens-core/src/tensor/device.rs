//! What can be asked of a device.

use std::fs;
use std::path::Path;

use crate::{Device, Error, Result, driver};

impl Device {
    /// The processor.
    pub fn cpu() -> Self {
        Device::Cpu
    }

    /// An NVIDIA GPU.
    ///
    /// # Errors
    /// [`Error::Library`] where the driver, NVRTC or cuBLASLt is missing, [`Error::NoDevice`] where there is no such
    /// card.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        driver::properties(Device::Cuda(ordinal))?;
        Ok(Device::Cuda(ordinal))
    }

    /// The fastest device of this machine: the first GPU that can be used, or the processor.
    pub fn best() -> Self {
        Self::gpus().next().unwrap_or(Device::Cpu)
    }

    /// Every device of this machine that can be used, the processor first.
    pub fn available() -> Vec<Self> {
        std::iter::once(Device::Cpu).chain(Self::gpus()).collect()
    }

    fn gpus() -> impl Iterator<Item = Self> {
        let count = driver::count().unwrap_or(0);
        (0..count).filter_map(|ordinal| Self::cuda(ordinal).ok())
    }

    /// Bytes of memory that this process may use there, where the system tells them: the card's; or the machine's, and
    /// no more than the limit of the process (`ulimit -v`), or of a group of processes that it is in (a container).
    pub fn capacity(self) -> Option<u64> {
        if self != Device::Cpu {
            return driver::properties(self).ok().map(|card| card.memory as u64);
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let number = |text: &str, word| text.split_whitespace().nth(word)?.parse::<u64>().ok();
        let machine = number(&read("/proc/meminfo"), 1).map(|kilobytes| kilobytes * 1024); // MemTotal: N kB
        let limits = read("/proc/self/limits");
        let limit = limits.split("Max address space").nth(1);
        let limit = limit.and_then(|limit| number(limit, 0));
        let groups = limits_of_groups(&read("/proc/self/cgroup")).into_iter();
        let groups = groups.filter_map(|path| number(&read(&path), 0));
        groups.chain(limit).chain(machine).min()
    }

    /// Waits for everything queued on the device's current stream.
    pub fn synchronize(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(_) => driver::synchronize(self),
        }
    }
}

/// The files with the limits of these groups, as `/proc/self/cgroup` tells them, and of those around them: of version
/// 2, which names no controllers, and of the older one's groups that limit memory.
fn limits_of_groups(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let (controllers, group) = match line.splitn(3, ':').collect::<Vec<_>>()[..] {
            [_, controllers, group] => (controllers, group),
            _ => continue,
        };
        let (root, file) = match controllers
            .split(',')
            .find(|one| ["", "memory"].contains(one))
        {
            Some("") => ("/sys/fs/cgroup", "memory.max"),
            Some(_) => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            None => continue,
        };
        let folders = Path::new(group).ancestors();
        files.extend(folders.map(|folder| format!("{root}{}/{file}", folder.display())));
    }
    files
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// `cpu`, `cuda`, or `cuda:N`. Whether the device can be used is not asked.
    fn from_str(text: &str) -> Result<Self> {
        let ordinal = match text {
            "cpu" => return Ok(Device::Cpu),
            "cuda" => Some(0),
            other => other
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok()),
        };
        let device = ordinal.map(Device::Cuda);
        device.ok_or_else(|| Error::DeviceName(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_limited_by_its_own_files_and_by_those_around_it() {
        let groups = "4:cpu,memory:/a/b\n3:cpuset:/e\n1:name=systemd:/f\n0::/c:d\n";
        // The last of each is the group that a container takes for the uppermost.
        let files = [
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory//memory.limit_in_bytes",
            "/sys/fs/cgroup/c:d/memory.max",
            "/sys/fs/cgroup//memory.max",
        ];
        assert_eq!(limits_of_groups(groups), files);
    }
}
