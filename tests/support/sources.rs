//! The project's source files.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// Folders with files that are not the project's: version control, installed packages, build results.
const FOREIGN_FOLDERS: &[&str] = &[".git", ".cache", "node_modules", "target", "corpus", "artifacts"];

/// The Rust files below a folder of the project.
pub(crate) fn sources(folder: &str) -> Vec<PathBuf> {
    files(folder, &["rs"])
}

/// The files with these extensions below a folder of the project.
pub(crate) fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let is_ours = |name: &std::ffi::OsStr| !FOREIGN_FOLDERS.iter().any(|foreign| name == *foreign);
    let walk = WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let entries = walk.into_iter().filter_entry(|entry| is_ours(entry.file_name()));
    let paths = entries.map(|entry| entry.expect("a folder that can be read").into_path());
    let has =
        |path: &PathBuf| path.extension().is_some_and(|it| extensions.iter().any(|wanted| it == *wanted));
    paths.filter(|path| path.is_file() && has(path)).collect()
}
