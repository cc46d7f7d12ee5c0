//! The ring itself: operations go in, completions come out, and one call does both.

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::buffers::{self, Buffers};
use super::op::Op;

/// Operations that are collected before the kernel is called.
const SUBMISSIONS: u32 = 1024;

/// Completions that the kernel can leave for us. If there are more, it keeps them back, and ends multishot
/// operations.
const COMPLETIONS: u32 = 4096;

/// What is needed, and the youngest of it, which the kernel has since 6.8. What it does not announce is
/// older: multishot receive and work that is deferred (6.1), socket options (6.7).
const NEEDED: [(u8, &str); 8] = [
    (opcode::AcceptMulti::CODE, "accept"),
    (opcode::RecvMulti::CODE, "recv"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::AsyncCancel2::CODE, "cancel"),
    (opcode::SetSockOpt::CODE, "setsockopt"),
    (opcode::FilesUpdate::CODE, "files-update"),
    (opcode::FixedFdInstall::CODE, "fixed-fd-install, which Linux 6.8 has"),
];

/// Workers of the kernel's for operations that it does not do at once. None of ours are meant to need one.
const WORKERS_MAX: u32 = 1;

/// An operation's outcome.
#[derive(Clone, Copy, Debug)]
pub(in crate::driver) struct Completion {
    /// What it was.
    pub(super) op: Op,
    /// How much, or which descriptor; or why not.
    pub(super) result: Result<u32, Errno>,
    /// The operation goes on: there will be more completions of it.
    pub(super) more: bool,
    /// The buffer that the bytes are in.
    pub(super) buffer: Option<u16>,
}

/// A ring that only one thread submits to, and which runs nothing behind its back.
pub struct Ring {
    // The kernel writes into the buffers as long as the ring exists, so it is dropped first.
    ring: IoUring,
    pub(super) buffers: Buffers,
    sockets_max: u32,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("sockets_max", &self.sockets_max).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring with a table for `sockets_max` connections. It belongs to the thread that enables it.
    ///
    /// # Errors
    /// The kernel does not offer what is needed, or forbids it.
    pub fn new(sockets_max: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_r_disabled()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if let Some((_, name)) = NEEDED.iter().find(|(code, _)| !probe.is_supported(*code)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("the kernel has no {name}")));
        }
        ring.submitter().register_files_sparse(sockets_max)?;
        let buffers = Buffers::register(&ring.submitter())?;
        Ok(Self { ring, buffers, sockets_max })
    }

    /// How many sockets its table has room for.
    pub(super) const fn sockets_max(&self) -> usize {
        self.sockets_max as usize
    }

    /// Makes this thread the ring's own.
    ///
    /// # Errors
    /// The kernel refuses, which it has no reason to.
    pub(super) fn enable(&self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()?;
        self.ring.submitter().register_iowq_max_workers(&mut [WORKERS_MAX; 2])
    }

    /// Adds an operation; it goes to the kernel with the next call.
    ///
    /// # Errors
    /// The queue was full, and the kernel takes nothing.
    ///
    /// # Safety
    /// What the entry points to must stay as it is until its completion is there.
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: as the caller promises.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Adds an operation that points to nothing.
    fn queue(&mut self, entry: Entry, op: Op) -> io::Result<()> {
        let entry = entry.user_data(op.to_bits());
        // SAFETY: the methods below build their entries from numbers; the pointers among them are to static
        // data.
        unsafe { self.push(&entry) }
    }

    /// Takes connections of `listener` into the table: until further notice, or one.
    pub(super) fn accept(&mut self, listener: BorrowedFd<'_>, op: Op, many: bool) -> io::Result<()> {
        let listener = Fd(listener.as_raw_fd());
        let entry = if many {
            opcode::AcceptMulti::new(listener).allocate_file_index(true).build()
        } else {
            let nowhere = std::ptr::null_mut();
            let slot = io_uring::types::DestinationSlot::auto_target();
            opcode::Accept::new(listener, nowhere, std::ptr::null_mut()).file_index(Some(slot)).build()
        };
        self.queue(entry, op)
    }

    /// Receives from a socket of the table until further notice, or until there is no buffer left.
    pub(super) fn receive(&mut self, file: u32, op: Op) -> io::Result<()> {
        self.queue(opcode::RecvMulti::new(Fixed(file), buffers::GROUP).build(), op)
    }

    /// Reports, once, that a socket of the table takes bytes.
    pub(super) fn watch_writable(&mut self, file: u32, op: Op) -> io::Result<()> {
        self.queue(opcode::PollAdd::new(Fixed(file), POLLOUT).build(), op)
    }

    /// Reports, each time anew, that an eventfd is written to.
    pub(super) fn watch(&mut self, waker: BorrowedFd<'_>, op: Op) -> io::Result<()> {
        self.queue(opcode::PollAdd::new(Fd(waker.as_raw_fd()), POLLIN).multi(true).build(), op)
    }

    /// Ends every operation that was queued as `op`. They complete, with what they have done or as cancelled.
    pub(super) fn cancel(&mut self, op: Op) -> io::Result<()> {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(op.to_bits()).all()).build();
        self.queue(entry.flags(Flags::SKIP_SUCCESS), Op::Forget)
    }

    /// Has a socket of the table be closed with a reset.
    pub(super) fn reset_on_close(&mut self, file: u32) -> io::Result<()> {
        static AT_ONCE: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let value = (&raw const AT_ONCE).cast();
        let entry = opcode::SetSockOpt::new(Fixed(file), SOL_SOCKET, SO_LINGER, value, LINGER_BYTES);
        self.queue(entry.build().flags(Flags::SKIP_SUCCESS), Op::Forget)
    }

    /// Sends bytes if they are taken at once. What is queued behind it is done behind it.
    pub(super) fn send_last(&mut self, file: u32, bytes: &'static [u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fixed(file), bytes.as_ptr(), len).flags(super::batch::FLAGS);
        self.queue(entry.build().flags(Flags::SKIP_SUCCESS), Op::Forget)
    }

    /// Takes a socket out of the table, which closes it once no operation holds it any more.
    pub(super) fn close(&mut self, file: u32) -> io::Result<()> {
        self.queue(opcode::Close::new(Fixed(file)).build().flags(Flags::SKIP_SUCCESS), Op::Forget)
    }

    /// A descriptor for a socket of the table; none when the process has none left. Completions of other
    /// operations go to `others`.
    pub(super) fn install(
        &mut self,
        file: u32,
        mut others: impl FnMut(Completion),
    ) -> io::Result<Option<OwnedFd>> {
        self.queue(opcode::FixedFdInstall::new(Fixed(file), 0).build(), Op::Install)?;
        let installed = self.outcome_of_install(&mut others)?;
        // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
        Ok(installed.ok().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor.cast_signed()) }))
    }

    /// Takes a socket into the table; returns its index there; none when the table is full. Completions of
    /// other operations go to `others`.
    pub(super) fn take_in(
        &mut self,
        socket: &OwnedFd,
        mut others: impl FnMut(Completion),
    ) -> io::Result<Option<u32>> {
        let mut index = socket.as_raw_fd();
        let entry = opcode::FilesUpdate::new((&raw mut index).cast_const(), 1).offset(ANY_INDEX).build();
        // SAFETY: `index`, into which the kernel writes, stays where it is until the operation has completed.
        unsafe { self.push(&entry.user_data(Op::Install.to_bits())) }?;
        let taken = self.outcome_of_install(&mut others)?;
        Ok(taken.ok().filter(|&count| count == 1).and_then(|_| u32::try_from(index).ok()))
    }

    /// Waits for the one operation that is queued as [`Op::Install`].
    fn outcome_of_install(&mut self, others: &mut impl FnMut(Completion)) -> io::Result<Result<u32, Errno>> {
        self.submit()?;
        let mut outcome = None;
        loop {
            self.completions(|completion| {
                if completion.op == Op::Install {
                    outcome = Some(completion.result);
                } else {
                    others(completion);
                }
            });
            match outcome {
                Some(outcome) => return Ok(outcome),
                None => self.wait(None)?,
            }
        }
    }

    /// Hands the operations to the kernel.
    ///
    /// # Errors
    /// The kernel takes nothing.
    pub(super) fn submit(&self) -> io::Result<()> {
        passed(self.ring.submit())
    }

    /// Hands the operations to the kernel, and waits until there is a completion, but at most `timeout`.
    ///
    /// # Errors
    /// The kernel takes nothing.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        match timeout {
            None => passed(self.ring.submit_and_wait(1)),
            Some(Duration::ZERO) => self.submit(),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                passed(self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout)))
            }
        }
    }

    /// Takes out what has completed.
    pub(super) fn completions(&mut self, mut take: impl FnMut(Completion)) {
        for entry in self.ring.completion() {
            let result = entry.result();
            let buffer = cqueue::buffer_select(entry.flags());
            if let Some(buffer) = buffer {
                self.buffers.take(buffer);
            }
            take(Completion {
                op: Op::from_bits(entry.user_data()),
                result: u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result)),
                more: cqueue::more(entry.flags()),
                buffer,
            });
        }
    }
}

/// Has the kernel choose an index of the table (`IORING_FILE_INDEX_ALLOC`).
const ANY_INDEX: i32 = -1;
const POLLIN: u32 = libc::POLLIN as u32;
const POLLOUT: u32 = libc::POLLOUT as u32;
const SOL_SOCKET: u32 = libc::SOL_SOCKET as u32;
const SO_LINGER: u32 = libc::SO_LINGER as u32;
/// Of a `struct linger`: two integers.
const LINGER_BYTES: u32 = 8;
const _: () = assert!(size_of::<libc::linger>() == LINGER_BYTES as usize);

/// Neither the time that is up, nor a signal, nor completions that must be taken first are errors.
fn passed(outcome: io::Result<usize>) -> io::Result<()> {
    match outcome {
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            _ => Err(error),
        },
        Ok(_) => Ok(()),
    }
}
