//! The buffers that all connections of a shard receive into: the kernel takes one when bytes are there, and
//! gets it back when they are used. So an idle connection owns none.

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Buffers of a shard. They go round, and what the processor's cache does not hold costs more than it saves:
/// so they are few. When more connections receive at one moment, some wait for the next turn.
pub(super) const COUNT: u16 = 128;

/// Bytes of a buffer. Only the pages that are written to are real.
const BYTES: usize = LEN as usize;

/// The same, as the kernel counts.
const LEN: u32 = 16 * 1024;

/// The only group.
pub(super) const GROUP: u16 = 0;

const ENTRIES: usize = COUNT as usize;

/// The entries that hand free buffers to the kernel. They must begin where a page begins.
#[repr(C, align(4096))]
struct Entries([BufRingEntry; ENTRIES]);

const _: () = assert!(COUNT.is_power_of_two() && size_of::<BufRingEntry>() == 16);
const _: () = assert!(COUNT as u32 <= u128::BITS, "one bit for each buffer");

/// The buffers, and the ring in which free ones are handed to the kernel (io_uring_register_buf_ring(3)).
///
/// Invariant: a buffer is either in the ring, and then the kernel's alone; or it is out, from
/// [`Buffers::take`] to [`Buffers::give_back`], and then ours alone. No reference is ever made to more than
/// one buffer that is out: so both allocations are known by their pointers, which are those of the whole of
/// them, and not as boxes.
pub(super) struct Buffers {
    entries: NonNull<Entries>,
    memory: NonNull<[u8]>,
    tail: u16,
    /// One bit for each buffer that is out.
    out: u128,
}

// SAFETY: it owns both allocations, and nothing in them belongs to a thread.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Makes all buffers. They are all out.
    fn allocate() -> Self {
        // SAFETY: an entry is integers alone, for which all zeroes are a value.
        let entries: Box<Entries> = unsafe { Box::new_zeroed().assume_init() };
        let memory = vec![0; ENTRIES * BYTES].into_boxed_slice();
        let (entries, memory) = (NonNull::from(Box::leak(entries)), NonNull::from(Box::leak(memory)));
        Self { entries, memory, tail: 0, out: u128::MAX >> (u128::BITS - u32::from(COUNT)) }
    }

    /// Makes all buffers, and registers them.
    ///
    /// # Errors
    /// The kernel knows no such rings, or has no memory for them.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let mut buffers = Self::allocate();
        let address = buffers.entries.as_ptr().expose_provenance() as u64;
        // SAFETY: there are that many entries, where they stay until `buffers` is dropped, which `Ring` does
        // after its ring.
        unsafe { submitter.register_buf_ring_with_flags(address, COUNT, GROUP, 0)? };
        buffers.reclaim();
        Ok(buffers)
    }

    /// The first byte of a buffer; the pointer may be used for all of the memory.
    const fn start(&self, id: u16) -> *mut u8 {
        assert!(id < COUNT);
        // SAFETY: there are `COUNT` buffers of `BYTES` each in the one allocation.
        unsafe { self.memory.as_ptr().cast::<u8>().add(id as usize * BYTES) }
    }

    /// A completion has named a buffer: it is ours until it is given back.
    pub(super) fn take(&mut self, id: u16) {
        debug_assert!(self.out & bit(id) == 0, "the kernel gives a buffer away twice");
        self.out |= bit(id);
    }

    /// What has arrived: the first `len` bytes of a buffer that is out.
    #[expect(clippy::needless_pass_by_ref_mut, reason = "the borrow is what keeps a second reference away")]
    pub(super) fn filled(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(self.out & bit(id) != 0, "the buffer is the kernel's");
        let start = self.start(id);
        // SAFETY: the buffer has `BYTES` bytes, all of which were written at least when it was made; it is
        // out, so the kernel does not touch it, and what is returned borrows all buffers, so that there is no
        // second reference to it.
        unsafe { std::slice::from_raw_parts_mut(start, len.min(BYTES)) }
    }

    /// A buffer is used up: the kernel may have it again.
    pub(super) fn give_back(&mut self, id: u16) {
        debug_assert!(self.out & bit(id) != 0, "a buffer is given back once");
        self.out &= !bit(id);
        // The kernel writes to all of the buffer through this address, so it is one that may be used for all
        // of it.
        let address = self.start(id).expose_provenance() as u64;
        let first = self.entries.as_ptr().cast::<BufRingEntry>();
        let index = usize::from(self.tail % COUNT);
        // SAFETY: `index` is below the number of entries of the one allocation.
        let entry = unsafe { first.add(index) };
        // SAFETY: it lies behind the tail, where the kernel reads nothing until the tail moves; there is no
        // other reference.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(LEN);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: this is the first entry of the ring's.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the tail is a u16 inside of the first entry, which `set_…` leave alone, so it is aligned
        // and valid, and the pointer is that of the whole allocation; the kernel only reads it, and we write
        // it only here.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release); // after the entry that it lets the kernel see
    }

    /// Gives back every buffer that is out.
    pub(super) fn reclaim(&mut self) {
        for id in (0..COUNT).filter(|&id| self.out & bit(id) != 0).collect::<Vec<_>>() {
            self.give_back(id);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: it comes from a box that was leaked, and the kernel knows it no more: the ring is gone, see
        // `Ring`.
        drop(unsafe { Box::from_raw(self.entries.as_ptr()) });
        // SAFETY: the same.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

const fn bit(id: u16) -> u128 {
    1 << id
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel does with the addresses that it is given: it writes to the whole of each buffer, and to
    /// no other one. Under Miri this also shows that each address may be used for that.
    #[test]
    fn an_address_is_that_of_a_whole_buffer() {
        let mut buffers = Buffers::allocate();
        buffers.reclaim();
        assert_eq!(buffers.tail, COUNT);
        for id in 0..COUNT {
            // SAFETY: the entries live as long as the buffers, and nothing else refers to them now.
            let entries = unsafe { buffers.entries.as_ref() };
            let entry = &entries.0[usize::from(id)];
            assert_eq!((entry.bid(), entry.len()), (id, LEN));
            let address = usize::try_from(entry.addr()).unwrap();
            let start = std::ptr::with_exposed_provenance_mut::<u8>(address);
            // SAFETY: it is the start of a buffer of that length that is not out.
            unsafe { start.write_bytes(u8::try_from(id).unwrap(), BYTES) };
        }
        for id in 0..COUNT {
            buffers.take(id);
            let filled = buffers.filled(id, usize::MAX);
            assert!(filled.len() == BYTES && filled.iter().all(|&byte| u16::from(byte) == id));
            filled[0] = 255;
        }
        buffers.give_back(7);
        buffers.reclaim();
        assert_eq!((buffers.out, buffers.tail), (0, 2 * COUNT));
    }
}
