//! Tokens of others, tokens of ours, and forgeries.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::chat::{Overrides, RoomOptions, RoomRules};
use crate::identity::{Bounds, EXPIRES_IN_MAX, KeyFault, USER_BYTES_MAX};

/// RFC 7515, appendix A.1: HS256 with this key; it expired in 2011.
const RFC_KEY: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const RFC_TOKEN: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const RFC_EXP: u64 = 1_300_819_380;

const SECRET: &[u8] = b"a secret that is longer than 32 bytes";
const NOW: Duration = Duration::from_secs(1_000_000_000);
const LEEWAY: Duration = Duration::from_secs(5);

/// Rooms have a history and presence events, but for those that begin with `bare`.
fn policy() -> Policy {
    let bare = RoomOptions { history_count_max: 0, join_leave: false, ..RoomOptions::default() };
    let patterns = vec![(wildmatch::WildMatch::new("bare*"), bare.into())];
    let bounds = Bounds { name_bytes_max: 64, room_bytes_max: 255, rooms_per_client_max: 3 };
    Policy { bounds, rooms: RoomRules { patterns, ..RoomRules::default() }.into() }
}

fn expectations() -> Expectations {
    Expectations { leeway: LEEWAY, ..Expectations::default() }
}

fn hmac(secret: &[u8]) -> Key {
    Key::hmac(None, secret).unwrap()
}

fn jwt(keys: Vec<Key>) -> Jwt {
    Jwt::new(keys, &expectations(), policy())
}

fn sign(claims: &Value) -> String {
    jwt(vec![hmac(SECRET)]).signer().unwrap().sign(claims).unwrap()
}

/// A token with claims that are written by hand.
fn sign_raw(claims: &str) -> String {
    let claims: Box<RawValue> = serde_json::from_str(claims).unwrap();
    jwt(vec![hmac(SECRET)]).signer().unwrap().sign(&claims).unwrap()
}

fn identify_raw(claims: &str) -> Result<Identity, JwtError> {
    jwt(vec![hmac(SECRET)]).identify_at(&sign_raw(claims), NOW)
}

fn identify(claims: &Value) -> Result<Identity, JwtError> {
    jwt(vec![hmac(SECRET)]).identify_at(&sign(claims), NOW)
}

/// A token whose header is written by hand.
fn token(header: &str, claims: &str, signature: &[u8]) -> String {
    [header.as_bytes(), claims.as_bytes(), signature].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}

#[test]
fn the_example_of_the_rfc_holds_until_its_last_second() {
    let jwt = jwt(vec![hmac(&URL_SAFE_NO_PAD.decode(RFC_KEY).unwrap())]);
    let at =
        |seconds| jwt.read(RFC_TOKEN, Duration::from_secs(seconds)).map(|claims| claims.user().to_owned());
    assert_eq!(at(RFC_EXP - 1), Ok(String::new()));
    assert_eq!(at(RFC_EXP), Err(JwtError::Expired(Duration::ZERO)));
    assert_eq!(at(RFC_EXP + 60), Err(JwtError::Expired(Duration::from_secs(60))));
    assert_eq!(TokenError::from(JwtError::Expired(Duration::ZERO)), TokenError::Expired);
}

#[test]
fn every_bit_of_a_token_is_signed() {
    let jwt = jwt(vec![hmac(&URL_SAFE_NO_PAD.decode(RFC_KEY).unwrap())]);
    for at in 0..RFC_TOKEN.len() {
        let mut forged = RFC_TOKEN.as_bytes().to_vec();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        let why = jwt.read(&forged, Duration::ZERO).unwrap_err();
        assert!(!matches!(why, JwtError::Expired(_)), "{at}: of a forgery no other detail is reported");
        assert_eq!(TokenError::from(why), TokenError::Invalid);
    }
}

#[test]
fn claims_of_a_token() {
    let claims = json!({
        "sub": "7", "info": {"name": "Ann", "n": 1.50}, "channels": ["a", "b"], "subs": {"c": {}},
        "exp": 1_000_000_060, "meta": {"x": 1}, "jti": "j", "iat": 5,
    });
    let ann = identify(&claims).unwrap();
    assert_eq!(
        (&*ann.user, &*ann.name, ann.info.as_deref()),
        ("7", "Ann", Some(r#"{"n":1.5,"name":"Ann"}"#))
    );
    assert_eq!(ann.rooms.iter().map(|room| &*room.name).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(ann.expires_in, Some(Duration::from_secs(60)));
}

#[test]
fn names() {
    let name = |claims: Value| identify(&claims).unwrap().name;
    assert_eq!(&*name(json!({"sub": "7"})), "7");
    assert_eq!(&*name(json!({})), "anonymous");
    assert_eq!(&*name(json!({"sub": "7", "info": {"name": 5}})), "7");
    assert_eq!(&*name(json!({"sub": "7", "info": "Ann"})), "7");
    assert_eq!(&*name(json!({"sub": "7", "info": {"name": "a\nb"}})), "7", "no control characters");
    assert_eq!(&*name(json!({"sub": "x".repeat(65), "info": {"name": ""}})), "anonymous");
}

#[test]
fn info_is_one_line_of_json_however_it_is_written() {
    let info = |claims: &str| {
        let signer = jwt(vec![hmac(SECRET)]).signer().unwrap();
        let claims: Box<RawValue> = serde_json::from_str(claims).unwrap();
        jwt(vec![hmac(SECRET)]).identify_at(&signer.sign(&claims).unwrap(), NOW).map(|who| who.info)
    };
    assert_eq!(
        info("{\"info\": {\n \"a b\" : [1.50,\n2] }}").unwrap().as_deref(),
        Some(r#"{"a b":[1.50,2]}"#)
    );
    // {"a": 1} and a newline.
    assert_eq!(info(r#"{"b64info":"eyJhIjogMX0K"}"#).unwrap().as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(info(r#"{"b64info":""}"#).unwrap(), None);
    assert_eq!(info(r#"{"info":null}"#).unwrap(), None);
    assert_eq!(info(r#"{"b64info":"*"}"#), Err(JwtError::Impossible(ClaimError::NotBase64("b64info"))));
    assert_eq!(info(r#"{"b64info":"eyI="}"#), Err(JwtError::Impossible(ClaimError::NotJson("b64info"))));
}

#[test]
fn times() {
    let expiry = |claims: Value| identify(&claims).map(|who| who.expires_in);
    assert_eq!(expiry(json!({})), Ok(None), "a token without an end");
    assert_eq!(expiry(json!({"exp": 999_999_999})), Err(JwtError::Expired(Duration::from_secs(1))));
    assert_eq!(expiry(json!({"exp": 1_000_000_000.5})), Ok(Some(Duration::from_millis(500))));
    assert_eq!(expiry(json!({"exp": 1_000_000_009, "expire_at": 0})), Ok(None), "0: never");
    assert_eq!(
        expiry(json!({"exp": 1_000_000_009, "expire_at": 1_000_000_005})),
        Ok(Some(Duration::from_secs(5)))
    );
    assert_eq!(expiry(json!({"expire_at": 1_000_000_000})), Err(JwtError::Expired(Duration::ZERO)));
    assert_eq!(expiry(json!({"exp": "1000000009"})), Ok(Some(Duration::from_secs(9))), "decimal digits");
    assert_eq!(expiry(json!({"exp": "1000000000.5"})), Ok(Some(Duration::from_millis(500))));
    assert_eq!(expiry(json!({"exp": "1000000009", "expire_at": "0"})), Ok(None));
    for far in [json!(1_000_000_000_000_000_000_u64), json!(1e300), json!("9".repeat(300))] {
        assert_eq!(expiry(json!({"exp": far})), Ok(Some(EXPIRES_IN_MAX)), "{far}");
        assert_eq!(expiry(json!({"expire_at": far})), Ok(Some(EXPIRES_IN_MAX)), "{far}");
    }
    for claim in ["exp", "nbf", "iat", "expire_at"] {
        let wrong = [
            "-1", "1e400", "[]", "{}", "true", r#""""#, r#""-1""#, r#""1e9""#, r#""NaN""#, r#""inf""#,
            r#"".5""#,
        ]
        .into_iter()
        .chain([r#""1.""#, r#""1.2.3""#, r#"" 1""#, r#""soon""#]);
        for wrong in wrong {
            let claims = format!("{{\"{claim}\":{wrong}}}");
            assert_eq!(identify_raw(&claims).err(), Some(ClaimError::Date(claim).into()), "{claims}");
        }
    }
}

#[test]
fn an_issuers_clock_may_be_a_little_fast() {
    for claim in ["nbf", "iat"] {
        let at = |ahead: f64| identify(&json!({claim: 1_000_000_000.0 + ahead, "exp": 2_000_000_000})).err();
        assert_eq!(at(0.0), None);
        assert_eq!(at(2.0), None);
        assert_eq!(at(5.0), None);
        assert_eq!(at(5.5), Some(JwtError::TooEarly(claim, Duration::from_millis(5500))));
    }
    // The client fetches another, as if it had expired.
    assert_eq!(TokenError::from(JwtError::TooEarly("nbf", LEEWAY)), TokenError::Expired);
    let exact = Expectations { leeway: Duration::ZERO, ..expectations() };
    let jwt = Jwt::new(vec![hmac(SECRET)], &exact, policy());
    let early = jwt.identify_at(&sign(&json!({"nbf": 1_000_000_001})), NOW).unwrap_err();
    assert_eq!(early, JwtError::TooEarly("nbf", Duration::from_secs(1)));
    assert_eq!(early.to_string(), "it does not hold yet (`nbf`), but in 1s");
}

#[test]
fn null_is_absent() {
    let claims = r#"{"sub":null,"exp":null,"nbf":null,"iat":null,"expire_at":null,"info":null,"b64info":null,"data":null,
        "channels":null,"subs":null,"channel":null,"override":null,"caps":null,"client":null,"aud":null,"iss":null,"meta":null}"#;
    let nobody = identify(&json!({})).unwrap();
    assert_eq!(identify_raw(claims).unwrap(), nobody);
    let in_subs = r#"{"subs":{"a":{"info":null,"b64info":null,"data":null,"b64data":null,"override":null}}}"#;
    assert_eq!(identify_raw(in_subs).unwrap().rooms[0].grant, Grant::default());
    let in_override = r#"{"subs":{"a":{"override":{"presence":null,"join_leave":{"value":null}}}}}"#;
    let overrides = identify_raw(in_override).unwrap().rooms[0].grant.overrides;
    assert_eq!((overrides.presence, overrides.join_leave), (None, Some(false)));
    // An `exp` that is null leaves `expire_at` alone, and the reverse.
    let expires_in = |claims| identify_raw(claims).unwrap().expires_in;
    assert_eq!(expires_in(r#"{"exp":null,"expire_at":1000000005}"#), Some(Duration::from_secs(5)));
    assert_eq!(expires_in(r#"{"exp":1000000007,"expire_at":null}"#), Some(Duration::from_secs(7)));
}

#[test]
fn a_room_is_joined_once() {
    let rooms = |claims: &str| {
        let rooms = identify_raw(claims).unwrap().rooms;
        rooms
            .iter()
            .map(|room| (room.name.to_string(), room.grant.info.as_deref().map(str::to_owned)))
            .collect::<Vec<_>>()
    };
    let room = |name: &str, info: Option<&str>| (name.to_owned(), info.map(str::to_owned));
    assert_eq!(rooms(r#"{"channels":["a","a"]}"#), [room("a", None)]);
    assert_eq!(rooms(r#"{"channels":["b","a","b"],"subs":{"a":{}}}"#), [room("b", None), room("a", None)]);
    assert_eq!(
        rooms(r#"{"channels":["a","b","a"],"subs":{"c":{},"a":{"info":{"role": "mod"}}}}"#),
        [room("a", Some(r#"{"role":"mod"}"#)), room("b", None), room("c", None)],
        "`subs` wins"
    );
}

#[test]
fn lists_of_rooms_are_taken_whole_or_not_at_all() {
    let why = |claims: &str| {
        let Err(JwtError::Impossible(why)) = identify_raw(claims) else { panic!("{claims}") };
        why
    };
    assert_eq!(why(r#"{"channels":["a",null]}"#), ClaimError::NullRoom("channels"));
    assert_eq!(why(r#"{"subs":{"a":null}}"#), ClaimError::NullRoom("subs"));
    assert_eq!(why(r#"{"channels":[""]}"#), ClaimError::RoomName("".into()));
    assert_eq!(why(r#"{"subs":{"":{}}}"#), ClaimError::RoomName("".into()));
    let too_many = why(r#"{"channels":["a","b","c","a"],"subs":{"d":{},"c":{}}}"#);
    assert_eq!(too_many, ClaimError::TooManyRooms { count: 4, max: 3 });
    assert_eq!(too_many.to_string(), "4 rooms are named, and a client may be in 3 (max_rooms_per_client)");
    assert!(identify_raw(r#"{"channels":["a","b","c","a"],"subs":{"c":{}}}"#).is_ok());
    let twice = identify_raw(r#"{"subs":{"a":{},"a":{}}}"#).unwrap_err();
    assert!(twice.to_string().contains("duplicate field \"a\""), "{twice}");
}

#[test]
fn grants_of_a_client_in_a_room() {
    let grant = |claims: &str| identify_raw(claims).unwrap().rooms.swap_remove(0).grant;
    let full = grant(
        r#"{"subs":{"a":{"info":{"role": "mod"},"data":[1, 2],"override":{"presence":{"value":false},"join_leave":{"value":true},
            "force_push_join_leave":{"value":true},"force_recovery":{"value":true},"force_positioning":{"value":true}}}}}"#,
    );
    let overrides = Overrides {
        presence: Some(false),
        join_leave: Some(true),
        force_push_join_leave: Some(true),
        force_recovery: Some(true),
        force_positioning: Some(true),
    };
    let (info, data) = (Some(r#"{"role":"mod"}"#.into()), Some("[1,2]".into()));
    assert_eq!(full, Grant { info, data, expires_in: None, overrides });
    // {"a": 1} and a newline; base64 is stronger.
    let encoded =
        grant(r#"{"subs":{"a":{"info":1,"b64info":"eyJhIjogMX0K","data":2,"b64data":"eyJhIjogMX0K"}}}"#);
    assert_eq!((encoded.info.as_deref(), encoded.data.as_deref()), (Some(r#"{"a":1}"#), Some(r#"{"a":1}"#)));
    let bare = grant(
        r#"{"subs":{"bare":{"override":{"force_recovery":{},"force_push_join_leave":{"value":false}}}}}"#,
    );
    assert_eq!(bare.overrides.force_recovery, Some(false));
}

#[test]
fn limits_are_honoured_or_refused_by_name() {
    let check = |claims: &str, expected: &str| {
        let why = identify_raw(claims).unwrap_err();
        assert!(matches!(why, JwtError::Impossible(_)), "{claims}: {why}");
        assert_eq!(TokenError::from(why.clone()), TokenError::Invalid);
        assert!(why.to_string().contains(expected), "{claims}: {why}");
    };
    for claim in ["caps", "allow", "client", "cnf", "tf", "tags_filter", "server_tags_filter", "override"] {
        check(&format!(r#"{{"{claim}":{{"a":1}}}}"#), &format!("`{claim}`"));
    }
    for option in ["expire_at", "allow", "tf", "delta", "recover", "presence", "x"] {
        check(&format!(r#"{{"subs":{{"a":{{"{option}":1}}}}}}"#), &format!("room \"a\": `{option}`"));
    }
    let overrides = |room: &str, overrides: &str, expected: &str| {
        check(&format!(r#"{{"subs":{{"{room}":{{"override":{overrides}}}}}}}"#), expected);
        let token = sign_raw(&format!(r#"{{"channel":"{room}","override":{overrides}}}"#));
        let why = jwt(vec![hmac(SECRET)]).admit_at(&token, "", room, NOW).unwrap_err();
        assert!(why.to_string().contains(expected), "{why}");
    };
    overrides("a", r#"{"max_rate":{"value":true}}"#, "`override.max_rate`");
    overrides("a", r#"{"presence":true}"#, "`override.presence`");
    overrides("a", r#"{"presence":{"value":1}}"#, "`override.presence`");
    overrides("a", r#"{"presence":[true]}"#, "`override.presence`");
    overrides("a", "[true]", "`override`");
    overrides("a", r#"{"presence":{},"presence":{}}"#, "`override`");
    overrides("a", r#"{"force_recovery":{"value":false}}"#, "`force_recovery` = false");
    overrides("bare", r#"{"force_recovery":{"value":true}}"#, "`force_recovery` = true");
    overrides("bare", r#"{"force_positioning":{"value":true}}"#, "`force_positioning` = true");
    overrides("bare", r#"{"force_push_join_leave":{"value":true}}"#, "`force_push_join_leave` = true");
    // It agrees with the token's own claims about the room.
    let agreed = r#"{"subs":{"bare":{"override":{"force_push_join_leave":{"value":true},"join_leave":{"value":true}}}}}"#;
    assert!(identify_raw(agreed).is_ok());
    check(r#"{"subs":{"a":[]}}"#, "room \"a\": `subs` is not an object");
    check(r#"{"subs":{"a":{"b64info":5}}}"#, "room \"a\": `b64info` is not a string");
    check(r#"{"subs":{"a":{"b64data":"*"}}}"#, "room \"a\": `b64data` is not base64");
    for fine in [
        r#"{"client":"","caps":[],"meta":{},"jti":"j","iat":5,"labels":{"a":"b"},"email":"a@b"}"#,
        r#"{"subs":{}}"#,
    ] {
        assert!(identify_raw(fine).is_ok(), "{fine}");
    }
}

#[test]
fn impossible_claims() {
    for wrong in [
        r#"{"sub":7}"#,
        "[]",
        r#"["ann"]"#,
        r#""ann""#,
        r#"{"channels":"a"}"#,
        r#"{"channels":[1]}"#,
        r#"{"subs":["a"]}"#,
    ] {
        assert!(matches!(identify_raw(wrong), Err(JwtError::Claims(_))), "{wrong}");
    }
    let long = "x".repeat(USER_BYTES_MAX + 1);
    assert!(matches!(identify(&json!({"sub": long})), Err(JwtError::Impossible(_))));
    assert!(matches!(identify(&json!({"channels": ["a\u{0}"]})), Err(JwtError::Impossible(_))));
    assert!(matches!(identify_raw(r#"{"sub":"ann","sub":"root"}"#), Err(JwtError::Claims(_))));
    assert_eq!(&*identify_raw(r#"{"sub":"7","info":["Ann"]}"#).unwrap().name, "7", "a list is no object");
}

#[test]
fn a_token_for_a_room_is_for_that_room_and_that_user_alone() {
    let jwt = jwt(vec![hmac(SECRET)]);
    let token = sign(
        &json!({"sub": "7", "channel": "r", "info": {"role": "mod"}, "data": {"n": 1}, "exp": 1_000_000_010,
            "override": {"presence": {"value": false}}}),
    );
    let admit = |user, room| jwt.admit_at(&token, user, room, NOW);
    let grant = admit("7", "r").unwrap();
    assert_eq!(
        (grant.info.as_deref(), grant.expires_in),
        (Some(r#"{"role":"mod"}"#), Some(Duration::from_secs(10)))
    );
    assert_eq!((grant.data.as_deref(), grant.overrides.presence), (Some(r#"{"n":1}"#), Some(false)));
    assert_eq!(admit("8", "r"), Err(JwtError::OtherUser));
    assert_eq!(admit("7", "s"), Err(JwtError::OtherRoom));
    assert_eq!(jwt.identify_at(&token, NOW), Err(JwtError::ForRoom));
    assert_eq!(jwt.admit_at(&sign(&json!({"sub": "7"})), "7", "r", NOW), Err(JwtError::OtherRoom));
    let anonymous = sign(&json!({"channel": "r"}));
    assert!(jwt.admit_at(&anonymous, "", "r", NOW).is_ok());
}

#[test]
fn audience_and_issuer() {
    let expected =
        Expectations { audience: Some("chat".into()), issuer: Some("us".into()), ..expectations() };
    let jwt = Jwt::new(vec![hmac(SECRET)], &expected, policy());
    let check = |claims: Value, expected| {
        assert_eq!(jwt.identify_at(&sign(&claims), NOW).err(), expected, "{claims}");
    };
    check(json!({"aud": "chat", "iss": "us"}), None);
    check(json!({"aud": ["other", "chat"], "iss": "us"}), None);
    check(json!({"aud": "other", "iss": "us"}), Some(JwtError::Audience));
    check(json!({"aud": [], "iss": "us"}), Some(JwtError::Audience));
    check(json!({"iss": "us"}), Some(JwtError::Audience));
    check(json!({"aud": "chat", "iss": "them"}), Some(JwtError::Issuer));
    check(json!({"aud": "chat"}), Some(JwtError::Issuer));
    assert!(identify(&json!({"aud": "any", "iss": "them"})).is_ok(), "not configured: not checked");
}

#[test]
fn a_public_key_is_no_secret_and_none_is_no_signature() {
    let public = include_bytes!("../../../tests/keys/rsa.pub.pem");
    let rsa = jwt(vec![Key::public(None, public).unwrap()]);
    // The classic confusion: an HMAC whose secret is the public key.
    let confused = jwt(vec![hmac(public)]).signer().unwrap().sign(&json!({"sub": "root"})).unwrap();
    assert_eq!(rsa.identify_at(&confused, NOW), Err(JwtError::NoKey));
    let both = jwt(vec![Key::public(None, public).unwrap(), hmac(SECRET)]);
    assert_eq!(both.identify_at(&confused, NOW), Err(JwtError::Signature));
    for algorithm in ["none", "None", "NONE", "nOnE", "", "HS1", "PS256", "EdDSA"] {
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#);
        for signature in [&b""[..], b"x"] {
            let why = both.identify_at(&token(&header, r#"{"sub":"root"}"#, signature), NOW);
            assert!(matches!(why, Err(JwtError::Malformed | JwtError::NoKey)), "{algorithm}: {why:?}");
        }
    }
}

#[test]
fn headers_with_extensions_are_not_understood() {
    let header = r#"{"alg":"HS256","crit":["b64"],"b64":false}"#;
    let jwt = jwt(vec![hmac(SECRET)]);
    assert_eq!(jwt.identify_at(&token(header, "{}", b"x"), NOW), Err(JwtError::Critical));
    for malformed in
        ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é", RFC_TOKEN.rsplit_once('.').unwrap().0]
    {
        assert_eq!(jwt.identify_at(malformed, NOW), Err(JwtError::Malformed), "{malformed:?}");
    }
}

#[test]
fn public_keys_verify_what_their_private_keys_sign() {
    let pairs: [(&[u8], &[u8], &[&str]); 3] = [
        (
            include_bytes!("../../../tests/keys/rsa.pem"),
            include_bytes!("../../../tests/keys/rsa.pub.pem"),
            &["RS256", "RS384", "RS512"],
        ),
        (
            include_bytes!("../../../tests/keys/p256.pem"),
            include_bytes!("../../../tests/keys/p256.pub.pem"),
            &["ES256"],
        ),
        (
            include_bytes!("../../../tests/keys/p384.pem"),
            include_bytes!("../../../tests/keys/p384.pub.pem"),
            &["ES384"],
        ),
    ];
    let all = || pairs.iter().map(|(_, public, _)| Key::public(None, public).unwrap());
    for (index, (private, public, algorithms)) in pairs.iter().enumerate() {
        let own = jwt(vec![Key::public(None, public).unwrap()]);
        let all_keys = jwt(all().collect());
        let others = jwt(all().enumerate().filter(|(at, _)| *at != index).map(|(_, key)| key).collect());
        for algorithm in *algorithms {
            let signer = Signer::private(None, private).unwrap().with_algorithm(algorithm).unwrap();
            let token = signer.sign(&json!({"sub": "7"})).unwrap();
            assert_eq!(&*own.identify_at(&token, NOW).unwrap().user, "7", "{algorithm}");
            assert_eq!(&*all_keys.identify_at(&token, NOW).unwrap().user, "7", "{algorithm}");
            assert_eq!(others.identify_at(&token, NOW), Err(JwtError::NoKey), "{algorithm}");
        }
        let signer = Signer::private(None, private).unwrap();
        assert!(signer.with_algorithm("HS256").is_none());
        assert_eq!(Signer::private(None, public).unwrap_err(), KeyFault::Public);
    }
}

#[test]
fn keys_are_chosen_by_their_names_and_may_be_many() {
    let key = |id: Option<&str>, byte| Key::hmac(id.map(str::to_owned), &[byte; 32]).unwrap();
    let jwt = jwt(vec![key(Some("new"), 1), key(Some("old"), 2), key(None, 3)]);
    let check = |id: Option<&str>, byte, expected| {
        let signer = Signer::of(&key(id, byte)).unwrap();
        let token = signer.sign(&json!({"sub": "7"})).unwrap();
        assert_eq!(jwt.identify_at(&token, NOW).err(), expected, "{id:?} {byte}");
    };
    check(Some("new"), 1, None);
    check(Some("old"), 2, None);
    check(Some("old"), 1, Some(JwtError::Signature));
    check(Some("unknown"), 3, None);
    check(Some("unknown"), 1, Some(JwtError::Signature));
    for byte in 1..=3 {
        check(None, byte, None);
    }
    check(None, 4, Some(JwtError::Signature));
}

#[test]
fn hmac_in_all_three_lengths() {
    let jwt = jwt(vec![hmac(SECRET)]);
    for algorithm in ["HS256", "HS384", "HS512"] {
        let signer = jwt.signer().unwrap().with_algorithm(algorithm).unwrap();
        assert!(jwt.identify_at(&signer.sign(&json!({})).unwrap(), NOW).is_ok(), "{algorithm}");
    }
    assert_eq!(Key::hmac(None, &[7; 31]), Err(KeyFault::Short));
}
