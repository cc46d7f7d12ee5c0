//! The rules that no compiler checks: who may import whom, and how long a file may be.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module of the crate, and what it may name besides itself. The order is the data's path.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("metrics", &[]),
    ("ws", &["base"]),
    ("http", &["base", "ws"]),
    ("chat", &["base"]),
    ("app", &["base", "chat", "ws"]),
    ("options", &["http", "chat", "ws"]),
    ("engine", &["base", "chat"]),
    ("room", &["base", "chat", "engine"]),
    ("session", &["base", "metrics", "chat", "app", "options", "engine", "room"]),
    ("conn", &["base", "metrics", "ws", "http", "options"]),
    ("page", &[]),
    (
        "shard",
        &[
            "base", "metrics", "ws", "http", "chat", "app", "options", "engine", "room", "session", "conn",
            "page",
        ],
    ),
    ("logging", &[]),
    ("edge", &[]),
    ("identity", &["base", "chat", "app", "logging", "edge"]),
    ("config", &["base", "http", "chat", "options", "identity", "logging"]),
    ("token", &["chat", "identity", "config", "logging"]),
    // The simulator's clients speak WebSocket.
    ("driver", &["base", "metrics", "ws", "chat", "options", "shard", "logging"]),
    (
        "server",
        &[
            "base", "metrics", "ws", "http", "chat", "options", "engine", "shard", "driver", "edge",
            "identity", "config", "logging",
        ],
    ),
];

/// Longer than a sitting.
const LINES_MAX: usize = 640;

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_run_one_way() {
    for path in sources("src") {
        let module = module_of(&path);
        if matches!(module.as_str(), "main" | "lib") {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{module} is in no row of the table: say what it may import"));
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            for (_, rest) in line.match_indices("crate::").map(|(at, name)| line.split_at(at + name.len())) {
                let named: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = named == module || allowed.contains(&named.as_str());
                assert!(fine, "{}:{}: {module} may not import {named}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn the_core_does_no_io() {
    let core = [
        "base", "metrics", "ws", "http", "chat", "app", "options", "engine", "room", "session", "conn",
        "page", "shard",
    ];
    for path in sources("src").into_iter().filter(|path| core.contains(&module_of(path).as_str())) {
        let text = fs::read_to_string(&path).unwrap();
        for word in
            ["std::net", "std::fs", "std::thread", "std::env", "Instant", "SystemTime", "mio::", "tracing::"]
        {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn files_fit_a_sitting() {
    for path in ["src", "tests", "benches", "loadtest"].into_iter().flat_map(sources) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn unsafe_code_is_where_it_is_expected() {
    for path in sources("src") {
        let text = fs::read_to_string(&path).unwrap();
        // A descriptor that the service manager passed, and what the kernel is pointed to.
        let expected = path.ends_with("src/server.rs")
            || ["ring", "buffers", "batch"]
                .iter()
                .any(|name| path.ends_with(format!("src/driver/uring/{name}.rs")));
        let found = text.lines().any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        assert!(!found || expected, "{} has unsafe code", path.display());
    }
}
