#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn check(line: &str, expected: Option<&str>) {
    let command = parse(line).ok().map(|command| format!("{}: {:?}", command.id, command.method));
    let begins = match (&command, expected) {
        (Some(command), Some(expected)) => command.starts_with(expected),
        (None, None) => true,
        _ => false,
    };
    assert!(begins, "{line}: {command:?}, expected {expected:?}");
}

#[test]
fn commands() {
    check(r#"{"id":1,"connect":{}}"#, Some("1: Connect("));
    check(
        r#"{"connect":{"token":"a\nb","data":{"x":[1]},"name":"js","newer":1},"id":7}"#,
        Some("7: Connect("),
    );
    check(
        r#"{"id":2,"subscribe":{"channel":"a","flag":1,"recover":true,"offset":3,"epoch":"00000001"}}"#,
        Some("2: Subscribe("),
    );
    check(r#"{"id":3,"unsubscribe":{}}"#, Some("3: Unsubscribe("));
    check(r#"{"id":4,"history":{"channel":"a","limit":-1,"since":{"offset":4}}}"#, Some("4: History("));
    check(r#"{"send":{"data":1}}"#, Some("0: Send"));
    check(r#" { } "#, Some("0: Pong"));
    check(r#"{"id":0}"#, Some("0: Pong"));
    check(r#"{"id":null,"connect":null,"newer":null}"#, Some("0: Pong"));
    check(r#"{"id":9,"publish":{"channel":"a","data":null}}"#, Some("9: Publish("));
}

#[test]
fn invalid_commands() {
    for line in [
        "",
        "[]",
        "null",
        "{",
        r#"{"id":1}"#,
        r#"{"id":1,"unknown":{}}"#,
        r#"{"unknown":{}}"#,
        r#"{"publish":{"channel":"a","data":1}}"#,
        r#"{"id":-1,"connect":{}}"#,
        r#"{"id":4294967296,"connect":{}}"#,
        r#"{"id":1,"connect":[]}"#,
        r#"{"id":1,"connect":{"token":5}}"#,
        r#"{"id":1,"connect":{},"subscribe":{"channel":"a"}}"#,
        r#"{"id":1,"subscribe":{"channel":7}}"#,
        r#"{"id":1,"history":{"channel":"a","limit":1.5}}"#,
        r#"{"id":1,"connect":{}} {"id":2}"#,
        // Nothing comes twice, be it absent.
        r#"{"id":1,"id":1,"connect":{}}"#,
        r#"{"id":1,"connect":{},"connect":{}}"#,
        r#"{"id":1,"connect":null,"connect":{}}"#,
        r#"{"id":1,"publish":{"channel":"a","data":1,"data":2}}"#,
        r#"{"id":1,"connect":{"subs":{"a":{},"a":{}}}}"#,
        r#"{"id":1,"connect":{"subs":{"a":null,"\u0061":{}}}}"#,
        // Whole numbers are written as such.
        r#"{"id":1.0,"connect":{}}"#,
        r#"{"id":1e0,"connect":{}}"#,
        r#"{"id":"1","connect":{}}"#,
        r#"{"id":true,"connect":{}}"#,
        r#"{"id":-0,"connect":{}}"#,
        r#"{"id":01,"connect":{}}"#,
        r#"{"id":1e400,"connect":{}}"#,
        r#"{"id":1,"subscribe":{"channel":"a","offset":18446744073709551616}}"#,
        r#"{"id":1,"subscribe":{"channel":"a","offset":-1}}"#,
        r#"{"id":1,"subscribe":{"channel":"a","recover":1}}"#,
        r#"{"id":1,"history":{"channel":"a","limit":9223372036854775808}}"#,
        // Texts are UTF-8.
        r#"{"id":1,"subscribe":{"channel":"\ud800"}}"#,
    ] {
        check(line, None);
    }
}

#[test]
fn a_trailing_newline_is_no_line() {
    assert_eq!(lines("a\nb\n").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(lines("a\n\n").collect::<Vec<_>>(), ["a", ""]);
    assert_eq!(lines("").collect::<Vec<_>>(), [""]);
}

#[test]
fn positions() {
    let recovery_request =
        |text: &str| serde_json::from_str::<Recovery<'_>>(text).unwrap().recovery_request();
    assert_eq!(recovery_request("{}"), RecoveryRequest::None);
    let since = |epoch, offset| RecoveryRequest::Since(Since { epoch, offset });
    assert_eq!(recovery_request(r#"{"recover":true}"#), since(None, 0));
    assert_eq!(
        recovery_request(r#"{"recover":true,"offset":5,"epoch":"0000002a"}"#),
        since(Some(Epoch::from_random(42)), 5)
    );
    assert_eq!(
        recovery_request(r#"{"recover":true,"offset":5,"epoch":"not an epoch of any engine"}"#),
        RecoveryRequest::Unrecoverable
    );
}

#[test]
fn bounds_of_numbers() {
    check(r#"{"id":4294967295,"connect":{}}"#, Some("4294967295: Connect("));
    check(r#"{"id":1,"subscribe":{"channel":"a","offset":18446744073709551615}}"#, Some("1: Subscribe("));
    check(r#"{"id":1,"history":{"channel":"a","limit":-9223372036854775808}}"#, Some("1: History("));
    // What is published is not read: any number is one.
    check(r#"{"id":1,"publish":{"channel":"a","data":1e999999}}"#, Some("1: Publish("));
}

#[test]
fn depth_costs_no_stack() {
    let nested = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    check(&format!(r#"{{"id":1,"publish":{{"channel":"a","data":{nested}}}}}"#), Some("1: Publish("));
    check(&format!(r#"{{"id":1,"newer":{nested},"connect":{{}}}}"#), Some("1: Connect("));
    check(&nested, None);
    check(&format!(r#"{{"id":1,"connect":{}}}"#, r#"{"subs":"#.repeat(9000)), None);
    let data = RawValue::from_string(nested).unwrap();
    assert_eq!(Introduction::read(Some(&data)).name, None);
}

/// Every command, with every member that it may have.
fn complete() -> Vec<Value> {
    let position = json!({"recover": true, "offset": 7, "epoch": "0000002a"});
    let commands = json!({
        "connect": {"token": "t", "data": {"name": "n"}, "subs": {"a": position}},
        "subscribe": {"channel": "a", "token": "t", "flag": 2, "type": 1, "delta": "fossil", "tf": {"key": "k"},
            "recover": true, "offset": 7, "epoch": "0000002a"},
        "unsubscribe": {"channel": "a"},
        "publish": {"channel": "a", "data": {"text": "hi"}, "type": 1, "key": "k", "removed": true},
        "presence": {"channel": "a"},
        "presence_stats": {"channel": "a"},
        "history": {"channel": "a", "limit": 3, "since": {"offset": 7, "epoch": "0000002a"}, "reverse": true},
        "rpc": {"method": "m", "data": [1]},
        "send": {"data": 1},
        "refresh": {"token": "t"},
        "sub_refresh": {"channel": "a", "token": "t"},
        "ping": {},
    });
    let Value::Object(commands) = commands else { unreachable!("it is one") };
    commands.into_iter().map(|(method, parameters)| json!({"id": 9, method: parameters})).collect()
}

/// Where the protocol's own objects and members are in a command, but for the command's method; what clients
/// choose is left out.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(members) = value else { return };
    for (name, member) in members {
        let pointer = format!("{at}/{name}");
        if !matches!(name.as_str(), "data" | "tf") {
            pointers(member, &pointer, found);
        }
        found.push(pointer);
    }
}

fn parsed(command: &Value) -> Option<String> {
    parse(&command.to_string()).ok().map(|command| format!("{command:?}"))
}

#[test]
fn null_is_absent_everywhere() {
    for command in complete() {
        assert!(parsed(&command).is_some(), "{command}");
        let mut members = Vec::new();
        pointers(&command, "", &mut members);
        for pointer in members {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let (mut null, mut without) = (command.clone(), command.clone());
            *null.pointer_mut(&pointer).unwrap() = Value::Null;
            without.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
            if pointer == "/publish/data" {
                assert!(parsed(&null).unwrap().contains("data: Some(RawValue(null))"), "{null}");
                assert!(parsed(&without).unwrap().contains("data: None"), "{without}");
            } else {
                assert_eq!(parsed(&null), parsed(&without), "{null}");
            }
        }
        // And with a `null` for all other methods.
        let mut with_nulls = command.clone();
        for other in complete() {
            for (method, _) in other.as_object().unwrap() {
                with_nulls.as_object_mut().unwrap().entry(method).or_insert(Value::Null);
            }
        }
        assert_eq!(parsed(&with_nulls), parsed(&command), "{with_nulls}");
    }
}

proptest! {
    /// For the command, its parameters and every object in them: neither the values of its members as an
    /// array, which serde's derived structs take, nor any part of that, nor another scalar.
    #[test]
    fn an_object_is_never_an_array(len in 0..12_usize, other in prop_oneof![Just(json!("a")), Just(json!(1)), Just(json!(true))]) {
        for command in complete() {
            let mut members = vec![String::new()];
            pointers(&command, "", &mut members);
            let objects = members.iter().filter(|pointer| {
                let client_chooses = pointer.ends_with("/data") || pointer.ends_with("/tf");
                !client_chooses && command.pointer(pointer).unwrap().is_object()
            });
            for pointer in objects {
                let Value::Object(inside) = command.pointer(pointer).unwrap() else { unreachable!("filtered") };
                let values = inside.values().cloned().chain(std::iter::repeat(Value::Null)).take(len);
                for instead in [values.collect(), other.clone()] {
                    let mut changed = command.clone();
                    *changed.pointer_mut(pointer).unwrap() = instead;
                    prop_assert_eq!(parsed(&changed), None, "{}", changed);
                }
            }
        }
    }

    /// Any JSON at all is a command or it is none, without a panic; and what is no object is none.
    #[test]
    fn anything_is_a_command_or_none(line in "[\\[\\]{}:,\"a-z0-9.e_ -]{0,40}") {
        let outcome = parse(&line);
        prop_assert!(outcome.is_err() || line.trim_start().starts_with('{'), "{}", line);
    }
}

#[test]
fn connect_data_is_an_object_or_ignored() {
    for (data, name) in [
        (r#"{"name":"ann"}"#, Some("ann")),
        (r#"{"name":"a\nn","more":1}"#, Some("a\nn")),
        (r#"{"name":""}"#, Some("")),
        (r#"{"name":null}"#, None),
        (r#"{"name":7}"#, None),
        (r#"["ann"]"#, None),
        (r#""ann""#, None),
        ("null", None),
    ] {
        let data = RawValue::from_string(data.to_owned()).unwrap();
        assert_eq!(Introduction::read(Some(&data)).name.as_deref(), name, "{data}");
    }
    assert_eq!(Introduction::read(None).name, None);
}

#[test]
fn texts_without_escapes_are_borrowed() {
    let line = r#"{"id":1,"publish":{"channel":"a","key":"b\n","data":1}}"#;
    let Ok(Command { method: Method::Publish(publish), .. }) = parse(line) else { panic!("a publish") };
    assert!(matches!(publish.channel, Cow::Borrowed("a")) && matches!(publish.key, Cow::Owned(_)));
    let line = r#"{"id":1,"connect":{"subs":{"a":{"epoch":"b"}}}}"#;
    let Ok(Command { method: Method::Connect(connect), .. }) = parse(line) else { panic!("a connect") };
    let (name, recovery) = connect.subs.iter().next().unwrap();
    assert!(matches!(name, Cow::Borrowed("a")) && matches!(recovery.epoch, Cow::Borrowed("b")));
}
