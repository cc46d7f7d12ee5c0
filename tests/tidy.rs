//! The rules that no compiler checks: which module may import which, how long files and functions may be, and
//! that the code uses the field's standard terms.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

// Only this part of `support`, which needs the server otherwise.
#[path = "support/sources.rs"]
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use sources::{files, sources};

/// Modules, and what each may name besides itself: only modules that stand above it, so that there is no
/// cycle.
type Imports = &'static [(&'static str, &'static [&'static str])];

/// The server's. The order is the data's path.
const MAY_IMPORT: Imports = &[
    ("base", &[]),
    ("metrics", &[]),
    ("ws", &["base"]),
    ("http", &["base", "ws"]),
    ("chat", &["base"]),
    ("app", &["base", "chat", "ws", "http"]),
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
    // The simulator's clients speak WebSocket, its engines are late, and it knows how long a session may
    // stay.
    ("driver/sim", &["base", "metrics", "ws", "chat", "options", "engine", "session", "shard"]),
    ("driver", &["base", "metrics", "chat", "shard", "logging"]),
    (
        "server",
        &[
            "base", "metrics", "ws", "http", "chat", "options", "engine", "shard", "driver", "edge",
            "identity", "config", "logging",
        ],
    ),
];

/// The load tester's, in the same way.
const SWARM_MAY_IMPORT: Imports = &[
    ("clock", &[]),
    ("cli", &[]),
    ("process", &[]),
    ("unit", &[]),
    ("stamp", &[]),
    ("order", &[]),
    ("pace", &[]),
    ("template", &[]),
    ("units", &["stamp"]),
    ("stats", &["order"]),
    ("preset", &["template"]),
    ("tokens", &[]),
    ("plan", &["pace", "preset", "tokens", "units"]),
    ("message", &["plan", "stats"]),
    ("outcome", &["message", "process", "stats"]),
    ("metric", &["message", "outcome", "plan", "stats", "unit"]),
    ("threshold", &["metric", "unit"]),
    ("options", &["clock", "pace", "plan", "preset", "template", "threshold", "tokens", "units"]),
    ("wire", &["units"]),
    (
        "worker",
        &[
            "clock", "message", "order", "pace", "plan", "preset", "process", "stamp", "stats", "template",
            "units", "wire",
        ],
    ),
    ("display", &["clock", "outcome", "pace", "plan", "stats", "unit"]),
    ("coordinator", &["clock", "display", "message", "outcome", "pace", "plan", "process", "stats"]),
    ("result", &["clock", "metric", "outcome", "pace", "plan", "stats", "threshold", "unit"]),
    ("run", &["cli", "coordinator", "display", "options", "plan", "result"]),
    ("find", &["cli", "metric", "options", "plan", "result", "run", "unit", "units"]),
    (
        "sink",
        &[
            "cli",
            "clock",
            "coordinator",
            "display",
            "options",
            "pace",
            "plan",
            "result",
            "stamp",
            "unit",
            "units",
        ],
    ),
];

/// Longer than a sitting: any file, with its tests.
const LINES_MAX: usize = 620;

/// A file of the programs, without its tests.
const FILE_LINES_MAX: usize = 500;

/// A function of the programs.
const FUNCTION_LINES_MAX: usize = 60;

/// What is still longer than that: files, and functions as `file: name`. This list only shrinks.
const TOO_LONG: &[&str] = &["src/config/checked.rs: check"];

/// Terms that this project does not use, in lower case, and the standard term for each. Any other character
/// than a letter or a digit ends a word, so identifiers in snake case are covered, too.
const OLD_TERMS: &[(&str, &str)] = &[
    ("anybody", "a client, a member, any thread"),
    ("became of", "outcome"),
    ("become of", "outcome"),
    ("becomes of", "policy, outcome"),
    ("believe", "trust, verify"),
    ("believed", "valid"),
    ("came back", "reconnected, recovered"),
    ("census", "connection counter"),
    ("come back", "reconnect, recover"),
    ("comes back", "reconnects, recovers"),
    ("crowd", "connection limits, many clients"),
    ("deserted", "empty"),
    ("disbelief", "token error"),
    ("everybody", "all members, every client"),
    ("goodbye", "close frame"),
    ("has to say", "has an event, has an output"),
    ("hear", "receive"),
    ("heard", "received"),
    ("hears", "receives"),
    ("last word", "last publication"),
    ("last words", "close frame, final flush, final messages"),
    ("not let in", "rejected"),
    ("newcomer", "joining client, new member"),
    ("newcomers", "joining clients, new members"),
    ("nobody in particular", "anonymous"),
    ("obey", "execute, handle"),
    ("obeyed", "executed, handled"),
    ("on its way", "in flight, joining"),
    ("own word", "server notice"),
    ("people", "members, presence, users"),
    ("plain visitor", "plain client, handshake"),
    ("put together", "reassembled"),
    ("question", "auth request, query"),
    ("questions", "auth requests, queries"),
    ("said", "published, sent"),
    ("seat", "subscription, index"),
    ("seats", "subscriptions"),
    ("settle", "complete, run until idle"),
    ("settled", "completed"),
    ("somebody", "a client, a user, the auth backend"),
    ("someone", "a client, a user"),
    ("spares", "replacement, factory"),
    ("speak", "publish"),
    ("speaker", "publisher"),
    ("speakers", "publishers"),
    ("speaking", "publishing"),
    ("speaks", "publishes, uses the protocol"),
    ("telling", "announcement"),
    ("tellings", "announcements"),
    ("the past", "history"),
    ("ticket", "permit, write id"),
    ("tickets", "permits"),
    ("told", "notified, announced, reported"),
    ("torn", "partial"),
    ("under way", "in flight, in progress"),
    ("unsettled", "in flight"),
    ("untold", "pending"),
    ("verdict", "decision"),
    ("verdicts", "decisions"),
    ("what becomes", "policy, outcome"),
    ("whoever", "the client, each client"),
];

/// Where the standard terms are enforced.
const TERMS_FOLDERS: &[&str] = &["src", "tests", "benches", "fuzz/fuzz_targets", "loadtest"];

/// The other files with terms: the chat page, scripts and documents.
const TEXT_EXTENSIONS: &[&str] = &["js", "mjs", "css", "html", "sh", "py", "md"];

/// A path as it is written in this file.
fn named(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_string_lossy().into_owned()
}

fn inside(path: &Path, folder: &str) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    inside.to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn module_of(path: &Path, folder: &str) -> String {
    inside(path, folder).split('/').next().unwrap().to_owned()
}

/// The lines of a file of a program without its unit tests, which are a file of their own or stand at its
/// foot.
fn without_tests(path: &Path) -> Vec<String> {
    if path.ends_with("tests.rs") || path.iter().any(|part| part == "tests") {
        return Vec::new();
    }
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let foot = lines
        .windows(2)
        .position(|two| two[0] == "#[cfg(test)]" && two[1].starts_with("mod ") && two[1].ends_with(" {"));
    lines[..foot.unwrap_or(lines.len())].to_vec()
}

/// Fails when a module of `folder` names another one that `table` does not grant it.
fn check_imports(folder: &str, table: Imports, lines: impl Fn(&Path) -> Vec<String>) {
    for path in sources(folder) {
        let module = module_of(&path, folder);
        if matches!(module.as_str(), "main" | "lib") {
            continue;
        }
        // A row of a folder within a module holds instead of the module's.
        let inside = inside(&path, folder);
        let (_, allowed) = table
            .iter()
            .find(|(name, _)| name.contains('/') && inside.starts_with(name) || *name == module)
            .unwrap_or_else(|| panic!("{module} is in no row of the table: say what it may import"));
        for (number, line) in lines(&path).iter().enumerate() {
            for (_, rest) in line.match_indices("crate::").map(|(at, name)| line.split_at(at + name.len())) {
                let imported: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = imported == module || allowed.contains(&imported.as_str());
                assert!(fine, "{}:{}: {module} may not import {imported}", named(&path), number + 1);
            }
        }
    }
}

#[test]
fn imports_run_one_way() {
    for table in [MAY_IMPORT, SWARM_MAY_IMPORT] {
        for (index, (module, allowed)) in table.iter().enumerate() {
            for import in *allowed {
                let above = table[..index].iter().any(|(name, _)| name == import);
                assert!(above, "{module} may import {import}, which does not stand above it");
            }
        }
    }
    check_imports("src", MAY_IMPORT, |path| {
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    });
    // Its unit tests may make a plan out of options.
    check_imports("loadtest/src", SWARM_MAY_IMPORT, without_tests);
}

#[test]
fn the_core_does_no_io() {
    let core = [
        "base", "metrics", "ws", "http", "chat", "app", "options", "engine", "room", "session", "conn",
        "page", "shard",
    ];
    for path in sources("src").into_iter().filter(|path| core.contains(&module_of(path, "src").as_str())) {
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

/// The functions of a file and their lines, from the signature to the closing brace, which rustfmt puts under
/// its beginning.
fn functions(lines: &[String]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let words = code.split_once("fn ").filter(|(before, _)| {
            before.split_whitespace().all(|word| {
                matches!(word, "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"")
                    || word.starts_with("pub(")
            })
        });
        let Some((_, after)) = words else { continue };
        let name = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // One line, or a signature without a body.
        let is_end = |line: &String| {
            line.strip_prefix(indent)
                .is_some_and(|rest| rest == "}" || rest.starts_with(')') && rest.ends_with(';'))
        };
        let len = match code.ends_with(['}', ';']) {
            true => 1,
            false => 2 + lines[index + 1..].iter().position(is_end).expect("a formatted function ends"),
        };
        found.push((name, len));
    }
    found
}

#[test]
fn functions_are_measured() {
    let text = "fn one() {}\npub(super) const fn two(\n    a: u8,\n) -> u8 {\n    if a > 0 {\n    }\n}\n\
                trait T {\n    fn three(&self);\n    fn four(\n        a: u8,\n    );\n}\n// a fn in a comment\nlet f = g(fn_five);";
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let found: Vec<_> = functions(&lines).into_iter().map(|(name, len)| format!("{name} {len}")).collect();
    assert_eq!(found, ["one 1", "two 6", "three 1", "four 3"]);
}

#[test]
fn files_and_functions_of_the_programs_are_short() {
    let mut too_long = Vec::new();
    for path in ["src", "loadtest/src"].into_iter().flat_map(sources) {
        let lines = without_tests(&path);
        if lines.len() > FILE_LINES_MAX {
            too_long.push((named(&path), lines.len()));
        }
        let functions = functions(&lines).into_iter().filter(|(_, len)| *len > FUNCTION_LINES_MAX);
        too_long.extend(functions.map(|(name, len)| (format!("{}: {name}", named(&path)), len)));
    }
    let new: Vec<_> = too_long.iter().filter(|(what, _)| !TOO_LONG.contains(&what.as_str())).collect();
    assert!(new.is_empty(), "longer than they may be: {new:?}");
    for listed in TOO_LONG {
        assert!(
            too_long.iter().any(|(what, _)| what == listed),
            "{listed} is short enough: take it off the list"
        );
    }
}

#[test]
fn unsafe_code_is_where_it_is_expected() {
    for path in sources("src") {
        let text = fs::read_to_string(&path).unwrap();
        // A descriptor that the service manager passed, a parameter of the allocator, a hint to the
        // processor, and what the kernel is pointed to.
        let expected = [
            "server/listeners",
            "server/allocator",
            "base/prefetch",
            "driver/uring/ring",
            "driver/uring/buffers",
            "driver/uring/batch",
        ]
        .iter()
        .any(|place| path.ends_with(format!("src/{place}.rs")));
        let found = text.lines().any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        assert!(!found || expected, "{} has unsafe code", path.display());
    }
}

/// Whether `text`, in lower case, has `term` as a whole word.
fn has_term(text: &str, term: &str) -> bool {
    text.match_indices(term).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + term.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

#[test]
fn terms_are_whole_words() {
    assert!(
        has_term("it was told.", "told")
            && has_term("fn told_of()", "told")
            && has_term("(last words)", "last words")
    );
    assert!(!has_term("a threshold", "told") && !has_term("tolden", "told") && !has_term("swords", "words"));
}

/// Fails with every old term in `paths`, of whose lines `words` takes the words.
fn assert_standard_terms(paths: impl Iterator<Item = PathBuf>, words: impl Fn(&str) -> String) {
    let mut found = Vec::new();
    for path in paths {
        let name = named(&path);
        for (number, line) in fs::read_to_string(&path).unwrap().lines().map(&words).enumerate() {
            let terms = OLD_TERMS.iter().filter(|(old, _)| has_term(&line, old));
            found.extend(terms.map(|(old, new)| format!("{name}:{}: `{old}`, better: {new}", number + 1)));
        }
    }
    assert!(found.is_empty(), "{} old terms:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_code_uses_standard_terms() {
    let paths = TERMS_FOLDERS.iter().flat_map(|folder| sources(folder));
    assert_standard_terms(paths.filter(|path| named(path) != "tests/tidy.rs"), str::to_lowercase);
}

/// A line in lower case, with the words of its identifiers in camel case apart. The names of JavaScript's own
/// functions stay.
fn words(line: &str) -> String {
    let mut words = String::new();
    let mut after_word = false;
    for letter in line.replace("allSettled", "allsettled").chars() {
        if letter.is_uppercase() && after_word {
            words.push(' ');
        }
        after_word = letter.is_lowercase() || letter.is_numeric();
        words.extend(letter.to_lowercase());
    }
    words
}

#[test]
fn scripts_and_documents_use_standard_terms() {
    assert_eq!(words("this.askPeople(SAID_SO)"), "this.ask people(said_so)");
    assert_standard_terms(files("", TEXT_EXTENSIONS).into_iter(), words);
}

/// As `rustfmt.toml` has it; rustfmt itself leaves comments as they are.
const COLUMNS_MAX: usize = 110;

#[test]
fn comments_are_as_wide_as_the_code() {
    let folders = ["src", "tests", "benches", "loadtest", "fuzz/fuzz_targets"];
    let mut found = Vec::new();
    for path in folders.into_iter().flat_map(sources) {
        let text = fs::read_to_string(&path).unwrap();
        let mut in_example = false;
        for (number, line) in text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
            let comment = comment.trim_start_matches(['/', '!', ' ']);
            in_example ^= comment.starts_with("```");
            // Rows of tables and lines of examples cannot be broken.
            let is_whole = in_example || comment.starts_with(['|', '{']);
            if !is_whole && line.chars().count() > COLUMNS_MAX {
                found.push(format!("{}:{}", named(&path), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "comments wider than {COLUMNS_MAX} columns:\n{}", found.join("\n"));
}
