//! The files that a result is written to. They are opened before the run, so that one that cannot be written
//! does not cost the run; what they contain is replaced only by the result.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};

use super::Report;

/// The form of a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `--json`.
    Json,
    /// `--hdr`.
    Hdr,
    /// `--html`.
    Html,
    /// `--junit`.
    Junit,
    /// `--prometheus`.
    Prometheus,
}

/// The requested files.
#[derive(Debug, Default)]
pub struct Files(Vec<(Kind, Place)>);

/// Where a result is written to.
#[derive(Debug)]
enum Place {
    StandardOutput,
    File(OpenFile),
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
    /// It did not exist before, and has no result yet: it is removed.
    is_new: bool,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.is_new {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Files {
    /// Opens the files; `-` is the standard output.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn open<'p>(requested: impl IntoIterator<Item = (Kind, Option<&'p Path>)>) -> Result<Self, String> {
        let mut files = Self::default();
        for (kind, path) in requested {
            let Some(path) = path else { continue };
            let place = if path == Path::new("-") { Place::StandardOutput } else { Place::File(open(path)?) };
            if matches!(place, Place::StandardOutput) && files.use_standard_output() {
                return Err("only one result can be written to the standard output".to_owned());
            }
            files.0.push((kind, place));
        }
        Ok(files)
    }

    /// Whether a result is written to the standard output.
    pub fn use_standard_output(&self) -> bool {
        self.0.iter().any(|(_, place)| matches!(place, Place::StandardOutput))
    }

    /// Writes the result to all of them.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn write(self, report: &Report) -> Result<(), String> {
        for (kind, place) in self.0 {
            let text = report.rendered(kind)?;
            match place {
                Place::StandardOutput => match stdout().write_all(text.as_bytes()) {
                    Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                        return Err(format!("cannot write to standard output: {error}"));
                    }
                    _ => {}
                },
                Place::File(mut open) => open.write(&text)?,
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<OpenFile, String> {
    let new = OpenOptions::new().write(true).create_new(true).open(path);
    let (file, is_new) = match new {
        Ok(file) => (Ok(file), true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            (OpenOptions::new().write(true).open(path), false)
        }
        Err(error) => (Err(error), false),
    };
    let file = file.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    Ok(OpenFile { path: path.to_owned(), file, is_new })
}

impl OpenFile {
    fn write(&mut self, text: &str) -> Result<(), String> {
        self.is_new = false;
        let is_regular = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let emptied = if is_regular { self.file.set_len(0) } else { Ok(()) };
        let written = emptied.and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| format!("{} cannot be written: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_opened_before_and_replaced_after_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new.json"), folder.path().join("old.prom"));
        fs::write(&old, "x".repeat(1 << 20)).unwrap();
        let open =
            || Files::open([(Kind::Json, Some(&*new)), (Kind::Prometheus, Some(&*old)), (Kind::Hdr, None)]);
        let files = open().unwrap();
        assert!(new.exists());
        drop(files);
        assert!(!new.exists(), "a run without a result leaves no file");
        assert_eq!(fs::read(&old).unwrap().len(), 1 << 20, "and does not touch an earlier result");
        open().unwrap().write(&Report::default()).unwrap();
        assert!(fs::read_to_string(&new).unwrap().starts_with("{\n"));
        assert!(fs::read_to_string(&old).unwrap().starts_with("# HELP swarm_passed"));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("none/result.json"), folder.path().to_owned()] {
            let error = Files::open([(Kind::Json, Some(&*path))]).unwrap_err();
            assert!(error.contains("cannot be written"), "{error}");
        }
        let twice = [(Kind::Json, Some(Path::new("-"))), (Kind::Html, Some(Path::new("-")))];
        assert!(Files::open(twice).unwrap_err().contains("only one result"));
    }
}
