//! Tokens of others, tokens of ours, and forgeries.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::identity::{KeyFault, USER_BYTES_MAX};

/// RFC 7515, appendix A.1: HS256 with this key; it expired in 2011.
const RFC_KEY: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const RFC_TOKEN: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const RFC_EXP: u64 = 1_300_819_380;

const SECRET: &[u8] = b"a secret that is longer than 32 bytes";
const NOW: Duration = Duration::from_secs(1_000_000_000);
const BOUNDS: Bounds = Bounds { name_bytes_max: 64, room_bytes_max: 255 };

fn hmac(secret: &[u8]) -> Key {
    Key::hmac(None, secret).unwrap()
}

fn jwt(keys: Vec<Key>) -> Jwt {
    Jwt::new(keys, &Expectations::default(), BOUNDS)
}

fn sign(claims: &Value) -> String {
    jwt(vec![hmac(SECRET)]).signer().unwrap().sign(claims).unwrap()
}

fn identify(claims: &Value) -> Result<Identity, Disbelief> {
    jwt(vec![hmac(SECRET)]).identify_at(&sign(claims), NOW)
}

/// A token whose header is written by hand.
fn token(header: &str, claims: &str, signature: &[u8]) -> String {
    [header.as_bytes(), claims.as_bytes(), signature].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}

#[test]
fn the_example_of_the_rfc_holds_until_its_last_second() {
    let jwt = jwt(vec![hmac(&URL_SAFE_NO_PAD.decode(RFC_KEY).unwrap())]);
    let at = |seconds| jwt.read(RFC_TOKEN, Duration::from_secs(seconds)).map(|claims| claims.sub);
    assert_eq!(at(RFC_EXP - 1), Ok(String::new()));
    assert_eq!(at(RFC_EXP), Err(Disbelief::Expired(Duration::ZERO)));
    assert_eq!(at(RFC_EXP + 60), Err(Disbelief::Expired(Duration::from_secs(60))));
    assert_eq!(TokenError::from(Disbelief::Expired(Duration::ZERO)), TokenError::Expired);
}

#[test]
fn every_bit_of_a_token_is_signed() {
    let jwt = jwt(vec![hmac(&URL_SAFE_NO_PAD.decode(RFC_KEY).unwrap())]);
    for at in 0..RFC_TOKEN.len() {
        let mut forged = RFC_TOKEN.as_bytes().to_vec();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        let why = jwt.read(&forged, Duration::ZERO).unwrap_err();
        assert!(!matches!(why, Disbelief::Expired(_)), "{at}: of a forgery nothing else is told");
        assert_eq!(TokenError::from(why), TokenError::Invalid);
    }
}

#[test]
fn what_a_token_says_of_somebody() {
    let claims = json!({
        "sub": "7", "info": {"name": "Ann", "n": 1.50}, "channels": ["a", "b"], "subs": {"c": {"presence": true}},
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
    assert_eq!(info(r#"{"b64info":"*"}"#), Err(Disbelief::Impossible("`b64info` is not base64")));
    assert_eq!(info(r#"{"b64info":"eyI="}"#), Err(Disbelief::Impossible("`b64info` is not JSON")));
}

#[test]
fn times() {
    let expiry = |claims: Value| identify(&claims).map(|who| who.expires_in);
    assert_eq!(expiry(json!({})), Ok(None), "a token without an end");
    assert_eq!(expiry(json!({"exp": 999_999_999})), Err(Disbelief::Expired(Duration::from_secs(1))));
    assert_eq!(expiry(json!({"exp": 1_000_000_000.5})), Ok(Some(Duration::from_millis(500))));
    assert_eq!(expiry(json!({"exp": 1_000_000_009, "expire_at": 0})), Ok(None), "0: never");
    assert_eq!(
        expiry(json!({"exp": 1_000_000_009, "expire_at": 1_000_000_005})),
        Ok(Some(Duration::from_secs(5)))
    );
    assert_eq!(expiry(json!({"expire_at": 1_000_000_000})), Err(Disbelief::Expired(Duration::ZERO)));
    assert_eq!(expiry(json!({"nbf": 1_000_000_001})), Err(Disbelief::TooEarly(Duration::from_secs(1))));
    assert_eq!(expiry(json!({"nbf": 1_000_000_000})), Ok(None));
    for wrong in [json!("1000000009"), json!(-1), json!(1e300), json!([])] {
        assert_eq!(expiry(json!({"exp": wrong})), Err(Disbelief::Claims), "{wrong}");
    }
}

#[test]
fn impossible_claims() {
    assert_eq!(identify(&json!({"sub": 7})), Err(Disbelief::Claims));
    assert_eq!(identify(&json!([])), Err(Disbelief::Claims));
    assert_eq!(identify(&json!("ann")), Err(Disbelief::Claims));
    let long = "x".repeat(USER_BYTES_MAX + 1);
    assert!(matches!(identify(&json!({"sub": long})), Err(Disbelief::Impossible(_))));
    assert!(matches!(identify(&json!({"channels": ["a\u{0}"]})), Err(Disbelief::Impossible(_))));
    let twice: Box<RawValue> = serde_json::from_str(r#"{"sub":"ann","sub":"root"}"#).unwrap();
    let token = jwt(vec![hmac(SECRET)]).signer().unwrap().sign(&twice).unwrap();
    assert_eq!(jwt(vec![hmac(SECRET)]).identify_at(&token, NOW), Err(Disbelief::Claims));
}

#[test]
fn a_token_for_a_room_is_for_that_room_and_that_user_alone() {
    let jwt = jwt(vec![hmac(SECRET)]);
    let token = sign(
        &json!({"sub": "7", "channel": "r", "info": {"role": "mod"}, "exp": 1_000_000_010, "override": {}}),
    );
    let admit = |user, room| jwt.admit_at(&token, user, room, NOW);
    let grant = admit("7", "r").unwrap();
    assert_eq!(
        (grant.info.as_deref(), grant.expires_in),
        (Some(r#"{"role":"mod"}"#), Some(Duration::from_secs(10)))
    );
    assert_eq!(admit("8", "r"), Err(Disbelief::OtherUser));
    assert_eq!(admit("7", "s"), Err(Disbelief::OtherRoom));
    assert_eq!(jwt.identify_at(&token, NOW), Err(Disbelief::ForRoom));
    assert_eq!(jwt.admit_at(&sign(&json!({"sub": "7"})), "7", "r", NOW), Err(Disbelief::OtherRoom));
    let anonymous = sign(&json!({"channel": "r"}));
    assert!(jwt.admit_at(&anonymous, "", "r", NOW).is_ok());
}

#[test]
fn audience_and_issuer() {
    let expected = Expectations { audience: Some("chat".into()), issuer: Some("us".into()) };
    let jwt = Jwt::new(vec![hmac(SECRET)], &expected, BOUNDS);
    let check = |claims: Value, expected| {
        assert_eq!(jwt.identify_at(&sign(&claims), NOW).err(), expected, "{claims}");
    };
    check(json!({"aud": "chat", "iss": "us"}), None);
    check(json!({"aud": ["other", "chat"], "iss": "us"}), None);
    check(json!({"aud": "other", "iss": "us"}), Some(Disbelief::Audience));
    check(json!({"aud": [], "iss": "us"}), Some(Disbelief::Audience));
    check(json!({"iss": "us"}), Some(Disbelief::Audience));
    check(json!({"aud": "chat", "iss": "them"}), Some(Disbelief::Issuer));
    check(json!({"aud": "chat"}), Some(Disbelief::Issuer));
    assert!(identify(&json!({"aud": "whoever", "iss": "them"})).is_ok(), "not configured: not checked");
}

#[test]
fn a_public_key_is_no_secret_and_none_is_no_signature() {
    let public = include_bytes!("../../../tests/keys/rsa.pub.pem");
    let rsa = jwt(vec![Key::public(None, public).unwrap()]);
    // The classic confusion: an HMAC whose secret is the public key.
    let confused = jwt(vec![hmac(public)]).signer().unwrap().sign(&json!({"sub": "root"})).unwrap();
    assert_eq!(rsa.identify_at(&confused, NOW), Err(Disbelief::NoKey));
    let both = jwt(vec![Key::public(None, public).unwrap(), hmac(SECRET)]);
    assert_eq!(both.identify_at(&confused, NOW), Err(Disbelief::Signature));
    for algorithm in ["none", "None", "NONE", "nOnE", "", "HS1", "PS256", "EdDSA"] {
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#);
        for signature in [&b""[..], b"x"] {
            let why = both.identify_at(&token(&header, r#"{"sub":"root"}"#, signature), NOW);
            assert!(matches!(why, Err(Disbelief::Malformed | Disbelief::NoKey)), "{algorithm}: {why:?}");
        }
    }
}

#[test]
fn headers_with_extensions_are_not_understood() {
    let header = r#"{"alg":"HS256","crit":["b64"],"b64":false}"#;
    let jwt = jwt(vec![hmac(SECRET)]);
    assert_eq!(jwt.identify_at(&token(header, "{}", b"x"), NOW), Err(Disbelief::Critical));
    for malformed in
        ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é", RFC_TOKEN.rsplit_once('.').unwrap().0]
    {
        assert_eq!(jwt.identify_at(malformed, NOW), Err(Disbelief::Malformed), "{malformed:?}");
    }
}

#[test]
fn private_keys_sign_what_their_public_keys_believe() {
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
        let everybody = jwt(all().collect());
        let others = jwt(all().enumerate().filter(|(at, _)| *at != index).map(|(_, key)| key).collect());
        for algorithm in *algorithms {
            let signer = Signer::private(None, private).unwrap().with_algorithm(algorithm).unwrap();
            let token = signer.sign(&json!({"sub": "7"})).unwrap();
            assert_eq!(&*own.identify_at(&token, NOW).unwrap().user, "7", "{algorithm}");
            assert_eq!(&*everybody.identify_at(&token, NOW).unwrap().user, "7", "{algorithm}");
            assert_eq!(others.identify_at(&token, NOW), Err(Disbelief::NoKey), "{algorithm}");
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
    check(Some("old"), 1, Some(Disbelief::Signature));
    check(Some("unknown"), 3, None);
    check(Some("unknown"), 1, Some(Disbelief::Signature));
    for byte in 1..=3 {
        check(None, byte, None);
    }
    check(None, 4, Some(Disbelief::Signature));
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
