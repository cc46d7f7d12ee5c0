//! The pipes to the parent: its commands come in through the standard input, a line of JSON each, and what the worker has to
//! tell goes out through the standard output in the same way.

use mio::unix::pipe::Receiver;
use mio::{Interest, Registry, Token};
use rustix::fd::AsFd;
use std::io::{self, ErrorKind, Read, Write};

use crate::message::{Assignment, Command, Notice};

/// What comes from the parent.
pub struct Parent {
    pipe: Receiver,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
}

impl Parent {
    /// Waits at the standard input for what this worker is to do.
    ///
    /// # Errors
    /// One sentence: the parent is gone, or does not speak our language.
    pub fn at_stdin() -> Result<(Self, Assignment), String> {
        let descriptor = io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
        Self::new(Receiver::from(descriptor))
    }

    fn new(mut pipe: Receiver) -> Result<(Self, Assignment), String> {
        let text = |error: io::Error| error.to_string();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // Byte by byte, so that nothing of the next line is taken: that is for the event loop.
        while !line.ends_with(b"\n") {
            pipe.read_exact(&mut byte).map_err(text)?;
            line.extend(byte);
        }
        let assignment = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        pipe.set_nonblocking(true).map_err(text)?;
        Ok((Self { pipe, line: Vec::new() }, assignment))
    }

    /// Has the event loop woken when something comes.
    ///
    /// # Errors
    /// The kernel does not watch it.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.pipe, token, Interest::READABLE)
    }

    /// The commands that have come.
    ///
    /// # Errors
    /// One sentence: the parent is gone, or does not speak our language.
    pub fn commands(&mut self) -> Result<Vec<Command>, String> {
        let (mut commands, mut bytes) = (Vec::new(), [0; 4096]);
        loop {
            match self.pipe.read(&mut bytes) {
                Ok(0) => return Err("the parent is gone".to_owned()),
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

/// Tells the parent something.
pub fn tell(notice: &Notice) {
    let mut line = serde_json::to_vec(notice).unwrap_or_default();
    line.push(b'\n');
    // If nobody listens, the end of the standard input tells.
    let _ = io::stdout().write_all(&line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::plan::Scenario;

    #[test]
    fn commands_come_in_any_pieces() {
        let plan = Options::default().plan(Scenario::Chat).unwrap();
        let assignment = Assignment { plan, index: 1, of: 2, epoch_ns: 3 };
        let line = |json: String| json + "\n";
        let commands = [Command::Begin(7), Command::Finish(vec![1, 2]), Command::Stop];
        let first = line(serde_json::to_string(&assignment).unwrap());
        let later = commands.iter().map(|command| line(serde_json::to_string(command).unwrap()));
        let later: String = later.collect();
        for cut in 0..=later.len() {
            let (mut sender, receiver) = mio::unix::pipe::new().unwrap();
            receiver.set_nonblocking(false).unwrap();
            sender.write_all(first.as_bytes()).unwrap();
            sender.write_all(&later.as_bytes()[..cut]).unwrap();
            let (mut parent, told) = Parent::new(receiver).unwrap();
            assert_eq!((told.index, told.of, told.epoch_ns), (1, 2, 3));
            let mut found = parent.commands().unwrap();
            sender.write_all(&later.as_bytes()[cut..]).unwrap();
            found.extend(parent.commands().unwrap());
            assert_eq!(found, commands);
            drop(sender);
            assert_eq!(parent.commands(), Err("the parent is gone".to_owned()));
        }
    }
}
