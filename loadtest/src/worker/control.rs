//! The pipes to the coordinator: commands on the standard input, messages on the standard output, one line of
//! JSON each.

use mio::unix::pipe::Receiver;
use mio::{Interest, Registry, Token};
use rustix::fd::AsFd;
use std::io::{self, ErrorKind, Read, Write};

use crate::message::{Assignment, Command, WorkerMessage};

/// The pipe from the coordinator.
pub struct ControlPipe {
    pipe: Receiver,
    /// An incomplete line.
    line: Vec<u8>,
}

impl ControlPipe {
    /// Reads this worker's assignment from the standard input, blocking.
    ///
    /// # Errors
    /// One sentence: the pipe is closed or the line is invalid.
    pub fn at_stdin() -> Result<(Self, Assignment), String> {
        let descriptor = io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
        Self::new(Receiver::from(descriptor))
    }

    fn new(mut pipe: Receiver) -> Result<(Self, Assignment), String> {
        let text = |error: io::Error| error.to_string();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // Read byte by byte, so that the next line stays in the pipe for the event loop.
        while !line.ends_with(b"\n") {
            pipe.read_exact(&mut byte).map_err(text)?;
            line.extend(byte);
        }
        let assignment = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        pipe.set_nonblocking(true).map_err(text)?;
        Ok((Self { pipe, line: Vec::new() }, assignment))
    }

    /// Registers the pipe with the event loop.
    ///
    /// # Errors
    /// The kernel cannot poll the pipe.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.pipe, token, Interest::READABLE)
    }

    /// The commands that have arrived.
    ///
    /// # Errors
    /// One sentence: the pipe is closed or a line is invalid.
    pub fn commands(&mut self) -> Result<Vec<Command>, String> {
        let (mut commands, mut bytes) = (Vec::new(), [0; 4096]);
        loop {
            match self.pipe.read(&mut bytes) {
                Ok(0) => return Err("the coordinator has exited".to_owned()),
                Ok(len) => self.line.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(commands),
                Err(error) => return Err(error.to_string()),
            }
            while let Some(end) = memchr::memchr(b'\n', &self.line) {
                let rest = self.line.split_off(end + 1);
                let line = std::mem::replace(&mut self.line, rest);
                commands.push(serde_json::from_slice(&line).map_err(|error| error.to_string())?);
            }
        }
    }
}

/// Sends a message to the coordinator.
pub fn send(notice: &WorkerMessage) {
    let mut line = serde_json::to_vec(notice).unwrap_or_default();
    line.push(b'\n');
    // A failure is ignored: the end of the standard input reports it.
    let _ = io::stdout().write_all(&line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    #[test]
    fn commands_may_be_split_anywhere() {
        let plan = Options::default().plan(Scenario::Chat).unwrap();
        let assignment = Assignment { plan, index: 1, of: 2, epoch_ns: 3 };
        let line = |json: String| json + "\n";
        let commands = [Command::Start(7), Command::Drain(vec![1, 2]), Command::Stop];
        let first = line(serde_json::to_string(&assignment).unwrap());
        let later = commands.iter().map(|command| line(serde_json::to_string(command).unwrap()));
        let later: String = later.collect();
        for cut in 0..=later.len() {
            let (mut sender, receiver) = mio::unix::pipe::new().unwrap();
            receiver.set_nonblocking(false).unwrap();
            sender.write_all(first.as_bytes()).unwrap();
            sender.write_all(&later.as_bytes()[..cut]).unwrap();
            let (mut control, assigned) = ControlPipe::new(receiver).unwrap();
            assert_eq!((assigned.index, assigned.of, assigned.epoch_ns), (1, 2, 3));
            let mut found = control.commands().unwrap();
            sender.write_all(&later.as_bytes()[cut..]).unwrap();
            found.extend(control.commands().unwrap());
            assert_eq!(found, commands);
            drop(sender);
            assert_eq!(control.commands(), Err("the coordinator has exited".to_owned()));
        }
    }
}
