//! How glibc's allocator treats a server's tables.

/// Has tables that grow taken from the kernel, which moves their pages and takes them back. By itself glibc raises the bound
/// once such an allocation is freed (`M_MMAP_THRESHOLD` in mallopt(3)); a table that doubles then leaves a hole of half its
/// size behind. With 300,000 members of 16 shards that was 230 bytes a member.
pub(super) fn map_large_allocations() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const BYTES: libc::c_int = 128 * 1024;
        // SAFETY: `mallopt` takes two numbers and changes its parameters under a lock. Where it refuses, nothing changes.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, BYTES) };
    }
}
