//! The machine around the GPU: operating system, processor, memory, disks.

use std::path::Path;

use serde_json::{Value, json};
use sysinfo::{CpuRefreshKind, DiskRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System};

/// The machine as a bug report should describe it. No names of people or hosts.
pub struct Machine {
    /// Name and version of the operating system.
    pub os: String,
    /// Version of its kernel.
    pub kernel: String,
    /// Architecture.
    pub arch: &'static str,
    /// The processor's name.
    pub cpu: String,
    /// Threads that may run at once.
    pub threads: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Bytes of memory that programs may still take.
    pub available_bytes: u64,
}

impl Machine {
    /// This machine.
    pub fn look() -> Machine {
        let memory = MemoryRefreshKind::nothing().with_ram();
        let wanted = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(memory);
        let system = System::new_with_specifics(wanted);
        let cpu = system.cpus().first().map(|cpu| cpu.brand().trim().to_string());
        Machine {
            os: System::long_os_version().unwrap_or_else(|| std::env::consts::OS.into()),
            kernel: System::kernel_version().unwrap_or_default(),
            arch: std::env::consts::ARCH,
            cpu: cpu.filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown processor".into()),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: system.total_memory(),
            available_bytes: system.available_memory(),
        }
    }

    /// The machine as JSON.
    pub fn json(&self) -> Value {
        json!({
            "os": self.os, "kernel": self.kernel, "arch": self.arch, "cpu": self.cpu, "threads": self.threads,
            "memory_bytes": self.memory_bytes, "available_bytes": self.available_bytes,
        })
    }
}

/// The name of this machine among others, for locks that machines share.
pub fn host() -> String {
    System::host_name().unwrap_or_else(|| "unnamed".into())
}

/// Memory that programs may still take.
pub fn available_bytes() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    Some(system.available_memory()).filter(|&bytes| bytes > 0)
}

/// Bytes free on the disk that `path` is on, or would be on once it is made.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|folder| folder.exists())?;
    // Canonical paths of Windows begin with what no mount point begins with.
    let real = if cfg!(windows) { std::path::absolute(there) } else { there.canonicalize() }.ok()?;
    let disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing().with_storage());
    let holding = disks.iter().filter(|disk| real.starts_with(disk.mount_point()));
    holding.max_by_key(|disk| disk.mount_point().components().count()).map(|disk| disk.available_space())
}
