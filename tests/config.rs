//! The command line, as a user meets it.

mod support;

use std::process::Output;

use support::stentor;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = stentor().args(arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn check_names_every_problem_and_its_place() {
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
    let (code, said, problems) = run(&["check", "--config", &file.path().display().to_string()]);
    assert_eq!((code, said.as_str(), problems.as_str()), (Some(0), "ok\n", ""));
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
            "ulimit -n 40; exec \"$0\" --listen 127.0.0.1:0 --shards 1",
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
    assert!(error.contains("raise LimitNOFILE (ulimit -n) or lower max_connections"), "{error}");
}
