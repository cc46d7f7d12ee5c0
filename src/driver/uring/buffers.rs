//! The buffers that all connections of a shard receive into: the kernel takes one when bytes are there, and gets it back when
//! they are used. So an idle connection owns none.

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// Buffers of a shard. They go round, and what the processor's cache does not hold costs more than it saves: so they are few.
/// When more connections have something to say at one moment, some wait for the next turn.
pub(super) const COUNT: u16 = 128;

/// Bytes of a buffer. Only the pages that are written to are real.
pub(super) const BYTES: usize = LEN as usize;

/// The same, as the kernel counts.
const LEN: u32 = 16 * 1024;

/// The only group.
pub(super) const GROUP: u16 = 0;

const ENTRIES: usize = COUNT as usize;

/// The entries that hand free buffers to the kernel. It wants them to begin where a page begins.
#[repr(C, align(4096))]
struct Entries([BufRingEntry; ENTRIES]);

const _: () = assert!(COUNT.is_power_of_two() && size_of::<BufRingEntry>() == 16);

/// The buffers, and the ring in which free ones are handed to the kernel (io_uring_register_buf_ring(3)).
///
/// Invariant: a buffer is either in the ring, and then the kernel's alone; or it is out, from the completion that names it until
/// [`Buffers::give_back`], and then ours alone.
pub(super) struct Buffers {
    entries: Box<Entries>,
    memory: Box<[u8]>,
    tail: u16,
}

impl Buffers {
    /// Makes all buffers, and registers them.
    ///
    /// # Errors
    /// The kernel knows no such rings, or has no memory for them.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        // SAFETY: an entry is integers alone, for which all zeroes are a value.
        let entries: Box<Entries> = unsafe { Box::new_zeroed().assume_init() };
        let memory = vec![0; ENTRIES * BYTES].into_boxed_slice();
        let mut buffers = Self { entries, memory, tail: 0 };
        let address = (&raw mut *buffers.entries) as u64;
        // SAFETY: there are that many entries, where they stay until `buffers` is dropped, which `Ring` does after its ring.
        unsafe { submitter.register_buf_ring_with_flags(address, COUNT, GROUP, 0)? };
        for id in 0..COUNT {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// What has arrived: the first `len` bytes of a buffer that a completion named.
    pub(super) fn filled(&mut self, id: u16, len: usize) -> &mut [u8] {
        let start = usize::from(id) * BYTES;
        &mut self.memory[start..start + len.min(BYTES)]
    }

    /// A buffer is used up: the kernel may have it again.
    pub(super) fn give_back(&mut self, id: u16) {
        let address = &raw mut self.memory[usize::from(id) * BYTES];
        let entry = &mut self.entries.0[usize::from(self.tail % COUNT)];
        entry.set_addr(address as u64);
        entry.set_len(LEN);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: this is the first entry of the ring's.
        let tail = unsafe { BufRingEntry::tail(&raw const self.entries.0[0]) };
        // SAFETY: the tail is a u16 inside of the entries, so it is aligned and lives; the kernel only reads it, and we write it
        // only here.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release); // after the entry that it lets the kernel see
    }
}
