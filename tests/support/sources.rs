//! The project's source files.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// The Rust files below a folder of the project.
pub(crate) fn sources(folder: &str) -> Vec<PathBuf> {
    let files = WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let paths = files.into_iter().map(|entry| entry.expect("a folder that can be read").into_path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}
