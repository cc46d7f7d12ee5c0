//! A hint to the processor.

/// Has the cache line at `place` fetched, without waiting for it. A processor without such a hint in stable
/// Rust fetches it on first use.
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction has no effect but on the caches, whatever the address (SSE, which every x86-64
    // has).
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
