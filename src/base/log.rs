//! A room's log: one append-only run of ready-to-send frames that all members of an audience read, each from
//! its own cursor.
//!
//! Small frames are copied into the newest chunk, so that a backlog is contiguous and leaves in one `send`;
//! large ones are chained by reference. A chunk is kept as long as a reader stands in it: readers are counted
//! per chunk, so nothing is scanned to find out what can go. When every reader has read everything the log
//! owns no chunk at all: an idle room costs nothing here.
//!
//! ```
//! use bytes::Bytes;
//! use stentor::base::log::{ChunkPool, Log};
//!
//! let (mut log, mut pool) = (Log::default(), ChunkPool::default());
//! let (slow, fast) = (log.join(), log.join());
//! log.append(&Bytes::from_static(b"one,"), 1, &mut pool);
//! log.append(&Bytes::from_static(b"two,"), 2, &mut pool);
//! assert_eq!(log.first(fast), b"one,two,");
//!
//! // One reader has written everything, the other a part of the first frame.
//! log.advance(fast, log.head(), &mut pool);
//! log.advance(slow, slow.plus(3), &mut pool);
//! assert_eq!(log.first(slow.plus(3)), b",two,");
//! assert_eq!(log.readers_behind(), 1);
//!
//! log.advance(slow.plus(3), log.head(), &mut pool);
//! assert_eq!(log.kept_bytes(), 0);
//! ```

use bytes::Bytes;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Bytes in a chunk of copied frames.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// Frames longer than this are chained by reference instead of copied.
pub const COPIED_FRAME_BYTES_MAX: usize = CHUNK_BYTES / 4;

/// How many free chunks a pool keeps for the next burst.
const POOLED_CHUNKS_MAX: usize = 64;

/// A position in a log: how many bytes were appended before it. Never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cursor(u64);

impl Cursor {
    /// The position `len` bytes further on.
    pub const fn plus(self, len: usize) -> Self {
        Self(self.0 + len as u64)
    }

    /// Bytes from `earlier` to here.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0 - earlier.0
    }
}

/// Free chunks, shared by all logs of a shard.
#[derive(Debug, Default)]
pub struct ChunkPool(Vec<Vec<u8>>);

impl ChunkPool {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
    }

    fn give(&mut self, mut chunk: Vec<u8>) {
        if self.0.len() < POOLED_CHUNKS_MAX {
            chunk.clear();
            self.0.push(chunk);
        }
    }
}

/// The log. Invariants, checked by [`Log::assert_invariants`]:
/// - chunks are contiguous: each starts where the one before it ends, the last ends at `head`;
/// - the ends of `frames` ascend, and the last one is `head`;
/// - a reader at `p` is counted in the last chunk that starts at or before `p`;
/// - there is no chunk exactly when no reader is behind `head`.
#[derive(Debug)]
pub struct Log {
    chunks: VecDeque<Chunk>,
    head: Cursor,
    /// A frame boundary: every frame that ends at or before it is forgotten.
    floor: Cursor,
    /// Each frame after `floor`.
    frames: VecDeque<Frame>,
    readers: usize,
    readers_at_head: usize,
}

/// A frame in the log.
#[derive(Clone, Copy, Debug)]
struct Frame {
    end: Cursor,
    /// Which publication it is; 0: none.
    offset: u64,
}

#[derive(Debug)]
struct Chunk {
    start: Cursor,
    readers: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// Small frames, one behind the other; never grows beyond its capacity, so it never moves.
    Copied(Vec<u8>),
    /// One large frame.
    Shared(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::Copied(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        let origin = Cursor(0);
        Self {
            chunks: VecDeque::new(),
            head: origin,
            floor: origin,
            frames: VecDeque::new(),
            readers: 0,
            readers_at_head: 0,
        }
    }
}

impl Log {
    /// Where the next frame will start; always a frame boundary.
    pub const fn head(&self) -> Cursor {
        self.head
    }

    /// How many readers have not read everything.
    pub const fn readers_behind(&self) -> usize {
        self.readers - self.readers_at_head
    }

    /// Bytes that the slowest reader keeps alive, rounded up to whole chunks.
    pub fn kept_bytes(&self) -> u64 {
        self.chunks.front().map_or(0, |chunk| self.head.since(chunk.start))
    }

    /// Counts in a reader that starts at the head.
    pub fn join(&mut self) -> Cursor {
        self.readers += 1;
        self.readers_at_head += 1;
        if let Some(newest) = self.chunks.back_mut() {
            newest.readers += 1;
        }
        self.head
    }

    /// Counts out a reader.
    pub fn leave(&mut self, at: Cursor, pool: &mut ChunkPool) {
        if let Some(chunk) = self.chunk_index(at) {
            self.chunks[chunk].readers -= 1;
        }
        self.readers -= 1;
        if at == self.head {
            self.readers_at_head -= 1;
        }
        self.forget_read(pool);
    }

    /// Appends one frame, which is the publication at `offset` (0: it is none). Without readers, nothing is
    /// stored.
    pub fn append(&mut self, frame: &Bytes, offset: u64, pool: &mut ChunkPool) {
        if self.readers == 0 {
            self.head = self.head.plus(frame.len());
            self.floor = self.head;
            return;
        }
        if frame.len() > COPIED_FRAME_BYTES_MAX {
            self.push_chunk(Body::Shared(frame.clone()));
        } else if let Some(Body::Copied(newest)) = self.chunks.back_mut().map(|chunk| &mut chunk.body)
            && newest.capacity() - newest.len() >= frame.len()
        {
            newest.extend_from_slice(frame);
        } else {
            let mut chunk = pool.take();
            chunk.extend_from_slice(frame);
            self.push_chunk(Body::Copied(chunk));
        }
        self.head = self.head.plus(frame.len());
        self.frames.push_back(Frame { end: self.head, offset });
        self.readers_at_head = 0;
    }

    /// The bytes from `at` to the end of its chunk: what one `send` can take. Empty at the head.
    pub fn first(&self, at: Cursor) -> &[u8] {
        self.chunk_index(at).map_or(&[], |index| {
            let chunk = &self.chunks[index];
            &chunk.bytes()[offset_in(chunk, at)..]
        })
    }

    /// Fills `slices` with the bytes from `at` on, as far as they go; returns how many slices were filled.
    pub fn gather<'a>(&'a self, at: Cursor, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(first) = self.chunk_index(at) else { return 0 };
        let mut count = 0;
        for (slot, chunk) in slices.iter_mut().zip(self.chunks.range(first..)) {
            let skip = if count == 0 { offset_in(chunk, at) } else { 0 };
            *slot = IoSlice::new(&chunk.bytes()[skip..]);
            count += 1;
        }
        count
    }

    /// Whether all bytes from `at` to the head lie in one chunk.
    pub fn is_contiguous(&self, at: Cursor) -> bool {
        self.chunks.back().is_none_or(|newest| newest.start <= at)
    }

    /// Moves a reader on.
    pub fn advance(&mut self, from: Cursor, to: Cursor, pool: &mut ChunkPool) {
        debug_assert!(from <= to && to <= self.head);
        if from == self.head {
            return;
        }
        if to == self.head {
            self.readers_at_head += 1;
        }
        // Almost always the whole backlog is one chunk and no count changes.
        if self.chunks.back().is_some_and(|newest| newest.start > from)
            && let (Some(left), Some(entered)) = (self.chunk_index(from), self.chunk_index(to))
        {
            self.chunks[left].readers -= 1;
            self.chunks[entered].readers += 1;
        }
        self.forget_read(pool);
    }

    /// How many frames end after `from`, up to and including `to`.
    pub fn frames_between(&self, from: Cursor, to: Cursor) -> u64 {
        let newest = self.frames.len();
        if to == self.head && newest > 0 && (newest == 1 || self.frames[newest - 2].end <= from) {
            return u64::from(from < to); // one frame behind: the usual case needs no search
        }
        let upto = |at: Cursor| self.frames.partition_point(|frame| frame.end <= at);
        (upto(to) - upto(from)) as u64
    }

    /// The first frame boundary at or after `at`: where a reader may stop without tearing a frame.
    pub fn frame_boundary(&self, at: Cursor) -> Cursor {
        if at <= self.floor {
            return self.floor;
        }
        let next = self.frames.partition_point(|frame| frame.end < at);
        self.frames.get(next).map_or(self.head, |frame| frame.end)
    }

    /// The offset of the first publication that ends after `at`; `None`: there is none.
    pub fn first_offset_after(&self, at: Cursor) -> Option<u64> {
        let next = self.frames.partition_point(|frame| frame.end <= at);
        self.frames.range(next..).map(|frame| frame.offset).find(|&offset| offset > 0)
    }

    /// The offset of the newest publication that is kept; `None`: none is.
    pub fn newest_offset(&self) -> Option<u64> {
        self.frames.iter().rev().map(|frame| frame.offset).find(|&offset| offset > 0)
    }

    /// Where the publication at `offset` ends; `None`: every member has read it, or it was never here.
    pub fn end_of(&self, offset: u64) -> Option<Cursor> {
        self.frames.iter().find(|frame| frame.offset == offset && offset > 0).map(|frame| frame.end)
    }

    /// Where the newest publication starts; where the newest frame does when no publication is kept; else the
    /// head.
    pub fn newest_publication(&self) -> Cursor {
        let newest = self.frames.iter().rposition(|frame| frame.offset > 0);
        match newest.or_else(|| self.frames.len().checked_sub(1)) {
            None => self.head,
            Some(0) => self.floor,
            Some(index) => self.frames[index - 1].end,
        }
    }

    /// A copy of the bytes from `from` to `to`, for a reader that must finish a frame but leaves the log.
    pub fn copy_range(&self, from: Cursor, to: Cursor) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = from;
        while at < to {
            let run = self.first(at);
            let take = run.len().min(usize::try_from(to.since(at)).unwrap_or(usize::MAX));
            out.extend_from_slice(&run[..take]);
            at = at.plus(take);
        }
        out
    }

    /// Checks what the type's documentation promises. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn assert_invariants(&self) {
        assert!(self.readers_at_head <= self.readers);
        assert_eq!(self.chunks.is_empty(), self.readers_behind() == 0, "no chunk iff no reader is behind");
        let counted: usize = self.chunks.iter().map(|chunk| chunk.readers).sum();
        assert!(self.chunks.is_empty() || counted == self.readers);
        let mut end = self.chunks.front().map_or(self.head, |chunk| chunk.start);
        for chunk in &self.chunks {
            assert_eq!(chunk.start, end, "chunks are contiguous");
            end = end.plus(chunk.bytes().len());
        }
        assert_eq!(end, self.head);
        assert!(self.frames.iter().is_sorted_by_key(|frame| frame.end));
        assert_eq!(self.frames.back().map_or(self.floor, |frame| frame.end), self.head);
    }

    fn push_chunk(&mut self, body: Body) {
        // Readers at the head stand at the start of the new chunk now.
        let readers = match self.chunks.back_mut() {
            Some(newest) => {
                newest.readers -= self.readers_at_head;
                self.readers_at_head
            }
            None => self.readers,
        };
        self.chunks.push_back(Chunk { start: self.head, readers, body });
    }

    fn chunk_index(&self, at: Cursor) -> Option<usize> {
        let newest = self.chunks.len().checked_sub(1)?;
        if self.chunks[newest].start <= at {
            return Some(newest);
        }
        Some(self.chunks.partition_point(|chunk| chunk.start <= at).saturating_sub(1))
    }

    fn forget_read(&mut self, pool: &mut ChunkPool) {
        let all_read = self.readers_at_head == self.readers;
        while let Some(oldest) = self.chunks.front()
            && (all_read || oldest.readers == 0)
        {
            if let Some(Chunk { body: Body::Copied(bytes), .. }) = self.chunks.pop_front() {
                pool.give(bytes);
            }
        }
        let start = self.chunks.front().map_or(self.head, |chunk| chunk.start);
        while let Some(&Frame { end, .. }) = self.frames.front()
            && end <= start
        {
            self.floor = end;
            self.frames.pop_front();
        }
        if self.chunks.is_empty() && self.frames.capacity() > FRAMES_KEPT {
            self.frames = VecDeque::new();
        }
    }
}

/// An idle log frees the index of its frames once it has grown beyond this many.
const FRAMES_KEPT: usize = 16;

fn offset_in(chunk: &Chunk, at: Cursor) -> usize {
    usize::try_from(at.since(chunk.start)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_idle_log_owns_nothing() {
        let (mut log, mut pool) = (Log::default(), ChunkPool::default());
        let start = log.join();
        log.append(&Bytes::from_static(b"hello"), 0, &mut pool);
        assert_eq!(log.first(start), b"hello");
        assert_eq!(log.readers_behind(), 1);
        log.advance(start, log.head(), &mut pool);
        assert_eq!(log.kept_bytes(), 0);
        log.append(&Bytes::from_static(b"again"), 0, &mut pool);
        assert_eq!(log.first(start.plus(5)), b"again");
        log.leave(start.plus(5), &mut pool);
        log.append(&Bytes::from_static(b"nobody"), 0, &mut pool);
        log.assert_invariants();
        assert_eq!(log.kept_bytes(), 0);
    }

    /// What a reader must see, kept in the plainest way.
    #[derive(Clone)]
    struct Reader {
        at: Cursor,
        expected: Vec<u8>,
    }

    #[derive(Clone, Debug)]
    enum Op {
        Append(usize),
        Join,
        Leave(usize),
        Read { who: usize, len: usize },
        Skip(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => prop_oneof![1usize..200, 3000usize..9000].prop_map(Op::Append),
            2 => Just(Op::Join),
            1 => (0usize..8).prop_map(Op::Leave),
            6 => (0usize..8, prop_oneof![1usize..300, Just(usize::MAX)]).prop_map(|(who, len)| Op::Read { who, len }),
            1 => (0usize..8).prop_map(Op::Skip),
        ]
    }

    #[test]
    fn the_newest_publication_is_not_the_newest_frame() {
        let (mut log, mut pool) = (Log::default(), ChunkPool::default());
        let start = log.join();
        for (frame, offset) in [(&b"one"[..], 1), (b"two", 2), (b"ann came", 0), (b"ann went", 0)] {
            log.append(&Bytes::from_static(frame), offset, &mut pool);
        }
        assert_eq!(log.newest_publication(), start.plus(3));
        log.advance(start, log.head(), &mut pool);
        assert_eq!(log.newest_publication(), log.head());
    }

    proptest! {
        #[test]
        fn every_reader_reads_everything_appended_since_it_joined(ops in prop::collection::vec(op(), 1..200)) {
            let (mut log, mut pool) = (Log::default(), ChunkPool::default());
            let mut readers: Vec<Reader> = Vec::new();
            let (mut fill, mut offset) = (0_u8, 0);
            for op in ops {
                match op {
                    Op::Append(len) => {
                        fill = fill.wrapping_add(1);
                        offset += 1;
                        let frame = Bytes::from(vec![fill; len]);
                        log.append(&frame, offset, &mut pool);
                        for reader in &mut readers {
                            reader.expected.extend_from_slice(&frame);
                        }
                    }
                    Op::Join => readers.push(Reader { at: log.join(), expected: Vec::new() }),
                    Op::Leave(who) if who < readers.len() => {
                        let reader = readers.swap_remove(who);
                        log.leave(reader.at, &mut pool);
                    }
                    Op::Read { who, len } if who < readers.len() => {
                        let reader = &mut readers[who];
                        let mut slices = [IoSlice::new(&[]); 4];
                        let count = log.gather(reader.at, &mut slices);
                        let seen: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).collect();
                        prop_assert!(seen.starts_with(log.first(reader.at)));
                        prop_assert_eq!(seen.is_empty(), reader.at == log.head());
                        let take = len.min(seen.len());
                        prop_assert_eq!(&seen[..take], &reader.expected[..take]);
                        let to = reader.at.plus(take);
                        log.advance(reader.at, to, &mut pool);
                        reader.at = to;
                        reader.expected.drain(..take);
                    }
                    Op::Skip(who) if who < readers.len() => {
                        let reader = &mut readers[who];
                        let end = log.frame_boundary(reader.at);
                        let tail = log.copy_range(reader.at, end);
                        prop_assert_eq!(&tail[..], &reader.expected[..tail.len()]);
                        prop_assert!(tail.iter().all(|&byte| byte == tail[0]), "the rest of one frame only");
                        log.advance(reader.at, log.head(), &mut pool);
                        reader.at = log.head();
                        reader.expected.clear();
                    }
                    Op::Leave(_) | Op::Read { .. } | Op::Skip(_) => {}
                }
                log.assert_invariants();
                let behind = readers.iter().filter(|reader| !reader.expected.is_empty()).count();
                prop_assert_eq!(log.readers_behind(), behind);
            }
        }
    }
}
