//! The command line, as a user meets it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::process::Output;

use support::{file, key, stentor};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = stentor().args(arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn check_reports_every_mistake_with_its_location() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# a comment\nlisten = \"nowhere\"\npong_timout = \"8s\"\nshards = 0\n")
        .unwrap();
    let path = file.path().display().to_string();
    let (code, _, problems) = run(&["check", "--config", &path]);
    assert_eq!(code, Some(2));
    let expected = format!(
        "stentor: {path}:2:10: `listen` has \"nowhere\", which is no address with a port, such as \"127.0.0.1:8080\" or \
         \"[::]:8080\"\n\
         stentor: {path}:3:1: `pong_timout`: there is no such setting; did you mean pong_timeout?\n\
         stentor: {path}:4:10: `shards` must be auto, or a whole number: 1 to 128\n"
    );
    assert_eq!(problems, expected);
    assert_eq!(run(&["check"]), (Some(0), "ok\n".to_owned(), String::new()));
}

#[test]
fn the_printed_configuration_is_valid() {
    let (code, page, _) = run(&["config"]);
    assert_eq!(code, Some(0));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), page).unwrap();
    let (code, printed, problems) = run(&["check", "--config", &file.path().display().to_string()]);
    assert_eq!((code, printed.as_str(), problems.as_str()), (Some(0), "ok\n", ""));
}

#[test]
fn the_effective_configuration_has_sources() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "a secret of thirty-two characters";
    std::fs::write(folder.path().join("secret"), secret).unwrap();
    let path = folder.path().join("stentor.toml").display().to_string();
    std::fs::write(&path, "auth = \"token\"\ntoken_hmac_secret_files = [\"secret\"]\nmax_name = 9\n")
        .unwrap();
    let output = stentor()
        .args(["config", "--effective", "--config", &path, "--max-name", "10"])
        .env("STENTOR_HOOK_HEADERS", format!("X: {secret}"))
        .env("STENTOR_MAX_ROOM", "99")
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    for line in [
        &format!("auth = \"token\" # {path}:1:8"),
        // Relative to the file, wherever the server is started.
        &format!("token_hmac_secret_files = [\"{}/secret\"] # {path}:2:27", folder.path().display()),
        "max_name = 10 # --max-name",
        "max_room = 99 # STENTOR_MAX_ROOM",
        "max_head = \"8KiB\" # default",
        "# hook_headers = \"********\" # STENTOR_HOOK_HEADERS",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("thirty-two"), "{page}");
    // It is a configuration.
    std::fs::write(&path, &page).unwrap();
    assert_eq!(run(&["check", "--config", &path]).0, Some(0));
    let (code, page, error) = run(&["config", "--effective", "--max-name", "0"]);
    assert_eq!((code, page.as_str()), (Some(2), ""));
    assert!(error.contains("--max-name: `max_name` must be"), "{error}");
}

#[test]
fn check_warns_of_what_is_hardly_meant() {
    let (_file, path) = file(
        "listen = [\"127.0.0.1:80\", \"127.0.0.1:80\"]\n[[room]]\npattern = \"a*\"\n[[room]]\npattern = \"ab\"\n",
    );
    let (code, printed, warnings) = run(&["check", "--config", &path]);
    assert_eq!((code, printed.as_str()), (Some(0), "ok\n"));
    let expected = format!(
        "stentor: warning: {path}:1:10: `listen` has 127.0.0.1:80 twice\n\
         stentor: warning: {path}:5:11: `pattern` = \"ab\" never applies: \"a*\" ({path}:3:11) matches every such room, and \
         the first pattern that matches holds; put the narrower one first\n"
    );
    assert_eq!(warnings, expected);
    let (code, _, error) = run(&["check", "--listen", "[::]:80,127.0.0.1:80"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("has 127.0.0.1:80, which [::]:80 covers already"), "{error}");
}

/// A key that cannot be used is one mistake, with the advice that helps.
#[test]
fn a_key_that_cannot_be_used_is_one_mistake() {
    let (_file, path) = file("auth = \"token\"\ntoken_hmac_secret_files = [\"missing\"]\n");
    let (code, _, error) = run(&["check", "--config", &path]);
    assert_eq!((code, error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("paths in a file are relative to that file"), "{error}");
}

#[test]
fn a_token_without_a_user_is_remarked_on() {
    let secret = key("secret");
    let make = ["token", "make", "--token-hmac-secret-files", &secret];
    let (code, token, note) = run(&make);
    assert_eq!((code, token.lines().count()), (Some(0), 1));
    assert_eq!(
        note,
        "stentor: without --user the token is for an anonymous user, which a server refuses unless anonymous = true\n"
    );
    let (_, _, note) = run(&[&make[..], &["--user", "7"]].concat());
    assert_eq!(note, "");
}

/// What is piped has no escape sequences; and a reader that closes the pipe is no failure.
#[test]
fn output_can_be_piped() {
    for arguments in [&["--help"][..], &["--mistake"], &["config"], &["check", "--max-name", "0"]] {
        let output = stentor().args(arguments).env("TERM", "xterm-256color").output().unwrap();
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{arguments:?}");
    }
    let program = env!("CARGO_BIN_EXE_stentor");
    for command in ["--help", "config", "metrics", "completions bash"] {
        let script = format!("set -o pipefail; {program} {command} | true; exit ${{PIPESTATUS[0]}}");
        let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{command}");
    }
    let (code, error) = {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = stentor().arg("config").stdout(full).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(code, Some(1));
    assert!(error.starts_with("stentor: the output cannot be written"), "{error}");
}

#[test]
fn version_help_and_completions() {
    assert_eq!(run(&["--version"]).1, format!("stentor {}\n", env!("CARGO_PKG_VERSION")));
    assert!(run(&["--help"]).1.contains("--max-message <SIZE>"));
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]);
        assert!(code == Some(0) && script.contains("max-message"), "{shell}");
    }
}

#[test]
fn mistakes_on_the_command_line() {
    let (code, _, error) = run(&["--max-mesage", "1"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--max-message"), "{error}");
    let (code, _, error) = run(&["--config", "/nonexistent/stentor.toml"]);
    assert_eq!(code, Some(2));
    assert_eq!(
        error,
        "stentor: /nonexistent/stentor.toml: the file cannot be read (No such file or directory (os error 2)); name \
         another with --config\n"
    );
    let output = stentor().env("STENTOR_SHARD", "1").arg("check").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "stentor: STENTOR_SHARD: there is no such variable; did you mean STENTOR_SHARDS?\n");
}

#[test]
fn a_port_in_use_is_one_sentence() {
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    taken.listen(1).unwrap();
    let address = taken.local_addr().unwrap().as_socket().unwrap();
    let (code, _, error) = run(&["--listen", &address.to_string()]);
    assert_eq!(code, Some(1));
    assert_eq!(
        error,
        format!(
            "stentor: cannot listen on {address}: Address already in use (os error 98); another process listens there; \
             stop it or choose another port with --listen\n"
        )
    );
}

#[test]
fn a_second_server_on_the_same_port_is_refused() {
    let first = support::Server::start(&["--shards", "2"]);
    let (code, _, error) = run(&["--listen", &first.address.to_string(), "--shards", "2"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("another process listens there"), "{error}");
}

#[test]
fn too_few_descriptors_are_one_sentence() {
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 40; exec \"$0\" --driver epoll --listen 127.0.0.1:0 --shards 1",
            env!("CARGO_BIN_EXE_stentor"),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        error,
        "stentor: only 40 files may be open, and 72 are needed before the first client; raise LimitNOFILE (ulimit -n)\n"
    );
    let (code, _, error) = run(&["--listen", "127.0.0.1:0", "--max-connections", "999999999"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("raise LimitNOFILE (ulimit -n), or lower max_connections"), "{error}");
}

#[test]
fn mistakes_in_rooms_have_locations() {
    let (_file, path) = file("[[room]]\npattern = \"a\"\nhistori = 1\npublish = \"all\"\n\n[[room]]\n");
    let (code, _, problems) = run(&["check", "--config", &path]);
    assert_eq!(code, Some(2));
    let expected = format!(
        "stentor: {path}:3:1: `histori`: there is no such option of a room; did you mean history?\n\
         stentor: {path}:4:11: `publish` must be one of anyone, members, users, token, nobody\n\
         stentor: {path}:6:1: `pattern` is missing: which rooms is this for? For all others there are the settings above\n"
    );
    assert_eq!(problems, expected);
}

#[test]
fn tokens_are_made_and_checked() {
    let (_file, path) =
        file(&format!("token_hmac_secret_files = [{:?}]\ntoken_issuer = \"us\"\n", key("secret")));
    let make = |arguments: &[&str]| {
        let (code, token, error) = run(&[&["token", "make", "--config", &path], arguments].concat());
        assert_eq!((code, error.as_str()), (Some(0), ""));
        token.trim_end().to_owned()
    };
    let check = |token: &str| run(&["token", "check", token, "--config", &path]);
    let token = make(&["--user", "7", "--name", "Ann", "--rooms", "a,b", "--expires", "never"]);
    let (code, printed, _) = check(&token);
    assert_eq!(code, Some(0));
    assert!(
        printed.starts_with("\"7\", called \"Ann\", without an end, in the rooms \"a\", \"b\"\n{\n"),
        "{printed}"
    );
    assert!(printed.contains("\"iss\": \"us\""), "{printed}");
    let (code, printed, _) = check(&make(&["--user", "7", "--room", "r"]));
    assert_eq!(code, Some(0));
    assert!(printed.starts_with("lets \"7\" into \"r\", until 20"), "{printed}");

    let (code, printed, why) = check(&make(&["--user", "7", "--expires", "0s"]));
    assert_eq!((code, printed.as_str()), (Some(1), ""));
    assert!(why.starts_with("stentor: invalid token: it has expired, "), "{why}");
    let (code, _, why) = check(&token[..token.len() - 2]);
    assert_eq!(code, Some(1));
    assert!(why.starts_with("stentor: invalid token: "), "{why}");
    let (code, _, why) = run(&["token", "check", &token]);
    assert_eq!(code, Some(1));
    assert!(why.starts_with("stentor: there is no key to check with"), "{why}");
}

#[test]
fn private_keys_make_tokens_that_public_keys_check() {
    for (private, public) in
        [("rsa.pem", "rsa.pub.pem"), ("p256.pem", "p256.pub.pem"), ("p384.pem", "p384.pub.pem")]
    {
        let (code, token, error) = run(&["token", "make", "--user", "7", "--private-key", &key(private)]);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        let public = key(public);
        let (code, printed, why) = run(&["token", "check", token.trim_end(), "--token-public-keys", &public]);
        assert_eq!((code, why.as_str()), (Some(0), ""), "{public}");
        assert!(printed.starts_with("\"7\", called \"7\", until 20"), "{printed}");
    }
    let (code, _, error) = run(&["token", "make", "--private-key", &key("rsa.pub.pem")]);
    assert_eq!(code, Some(1));
    assert!(error.ends_with("rsa.pub.pem is a public key, and cannot sign\n"), "{error}");
}

#[test]
fn secrets_come_from_files_and_the_environment_alone() {
    let secret = "a secret of thirty-two characters";
    let (code, _, error) = run(&["token", "make", "--token-hmac-secret", secret]);
    assert_eq!(code, Some(2));
    assert!(!error.contains("thirty-two"), "{error}");
    let with_secret = |arguments: &[&str]| {
        let output = stentor().env("STENTOR_TOKEN_HMAC_SECRET", secret).args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let token = with_secret(&["token", "make", "--user", "7"]);
    assert!(with_secret(&["token", "check", token.trim_end()]).starts_with("\"7\""));
    assert!(!with_secret(&["config"]).contains("thirty-two"));
}
