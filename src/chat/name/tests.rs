#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use proptest::prelude::*;
use regex::Regex;

use super::*;

const MANY: usize = 1000;

fn check(name: &str, expected: Result<&str, BadName>) {
    let found = display_name(name, MANY);
    assert_eq!(found.as_deref().map_err(|bad| *bad), expected, "{name:?}");
    if let Ok(Cow::Borrowed(borrowed)) = found {
        assert_eq!(borrowed, name, "what is borrowed is unchanged");
    }
}

#[test]
fn examples_of_rfc_8266() {
    for (name, expected) in [
        ("Foo", "Foo"),
        ("foo", "foo"),
        ("Foo Bar", "Foo Bar"),
        ("  Foo  Bar ", "Foo Bar"),
        ("Σ", "Σ"),
        ("σ", "σ"),
        ("ς", "ς"),
        ("♚", "♚"),
        ("Richard Ⅳ", "Richard IV"),
        ("Ω", "Ω"),
    ] {
        check(name, Ok(expected));
    }
}

#[test]
fn names_in_use() {
    for name in [
        "Ann",
        "Grüße",
        "山田 太郎",
        "Иван",
        "שָׁלוֹם",
        "نسرین",
        "علی\u{200C}رضا",
        "ക്\u{200D}ഷ",
        "o'Neil",
        "Ann (work)",
        "a: b",
        "🙂",
        "🥰🫠",
        "L'Hospitalet",
        "col·lega",
        "ג׳ורג׳",
        "カール・マルクス",
        "नमस्ते",
        "1️".trim_end_matches('\u{FE0F}'),
    ] {
        check(name, Ok(name));
    }
    check("Ａｎｎ", Ok("Ann"));
    check("ﬁne", Ok("fine"));
    check("e\u{301}", Ok("é"));
    check("a\u{A0}\u{2003}b\u{3000}", Ok("a b"));
    check("\u{2003}a", Ok("a"));
}

#[test]
fn invalid_names() {
    use BadName::*;
    for (name, bad) in [
        ("", Empty),
        (" ", Empty),
        ("\u{A0}\u{2003}", Empty),
        ("\u{2800}", Empty),
        ("\u{2800} \u{301}", Empty),
        ("\u{301}", Empty),
        ("a\nb", Control),
        ("a\tb", Control),
        ("\u{1b}[m", Control),
        ("\u{85}", Control),
        ("\u{7f}", Control),
        ("\0", Control),
        ("a\u{200B}b", Invisible),
        ("\u{200B}", Invisible),
        ("ann\u{200D}", Invisible),
        ("a\u{200C}b", Invisible),
        ("a\u{FEFF}", Invisible),
        ("\u{202E}nna", Invisible),
        ("\u{2066}a\u{2069}", Invisible),
        ("a\u{AD}b", Invisible),
        ("\u{3164}", Invisible),
        ("\u{FFA0}", Invisible),
        ("a\u{E0041}", Invisible),
        ("❤\u{FE0F}", Invisible),
        ("a\u{2028}b", Character),
        ("\u{E000}", Character),
        ("\u{FFFE}", Character),
        ("\u{378}", Character),
        ("\u{1100}", Character),
        ("a\u{640}", Character),
        ("a·b", Character),
        ("・", Character),
        ("\u{660}\u{6F0}", Character),
        ("\u{FFF9}a\u{FFFB}", Character),
        ("\u{600}", Character),
    ] {
        check(name, Err(bad));
    }
}

#[test]
fn bounds_are_in_bytes_before_and_after() {
    assert_eq!(display_name("Grüße 🙂", 8), Err(BadName::TooLong));
    assert_eq!(display_name("12345678", 8).as_deref(), Ok("12345678"));
    assert_eq!(display_name("123456789", 8), Err(BadName::TooLong));
    assert_eq!("\u{FDFA}".len(), 3);
    assert_eq!(display_name("\u{FDFA}", 8), Err(BadName::TooLong), "eighteen letters under one");
}

#[test]
fn rooms_are_taken_as_they_stand_or_refused() {
    use BadName::*;
    for room in [
        "lobby",
        "a: b",
        "news:sport/1",
        "Grüße",
        "room one",
        "a  b",
        "山",
        "🙂",
        "Ａ",
        "ﬁ",
        "#1",
        "\u{2800}",
    ] {
        assert_eq!(check_room(room, MANY), Ok(()), "{room:?}");
    }
    for (room, bad) in [
        ("", Empty),
        (" lobby", Space),
        ("lobby ", Space),
        (" ", Space),
        ("a\u{A0}b", Space),
        ("a\u{3000}", Space),
        ("a\u{2028}", Space),
        ("a\nb", Control),
        ("a\tb", Control),
        ("\u{85}", Control),
        ("lob\u{200B}by", Invisible),
        ("lobby\u{200D}", Invisible),
        ("\u{202E}lobby", Invisible),
        ("\u{FEFF}lobby", Invisible),
        ("cafe\u{301}", NotNormalized),
        ("\u{212B}", NotNormalized),
    ] {
        assert_eq!(check_room(room, MANY), Err(bad), "{room:?}");
    }
    assert_eq!(check_room("123456789", 8), Err(TooLong));
}

#[test]
fn tables_are_unicodes() {
    // The oracle knows another version of Unicode; what is unassigned in either is left out.
    let ignored = Regex::new(r"^\p{Default_Ignorable_Code_Point}$").unwrap();
    let turning = Regex::new(r"^\p{Bidi_Control}$").unwrap();
    for character in '\0'..=char::MAX {
        let text = character.to_string();
        assert_eq!(precis::is_ignored(character), ignored.is_match(&text), "{character:?}");
        assert!(precis::is_ignored(character) || !turning.is_match(&text), "{character:?}");
    }
}

proptest! {
    /// Every result is in form: it is stable, can be seen, and has nothing that hides or breaks a line.
    #[test]
    fn a_display_name_is_in_form(name in "[ a-zé\\u{A0}\\u{200C}\\u{301}\\u{FDFA}\\u{2800}Ⅳ🙂\\u{115F}]{0,12}|\\PC{0,12}|.{0,12}") {
        if let Ok(mapped) = display_name(&name, MANY) {
            let again = display_name(&mapped, MANY);
            prop_assert_eq!(again.as_deref(), Ok(&*mapped));
            prop_assert_eq!(mapped.trim(), &*mapped);
            prop_assert!(!mapped.contains("  ") && mapped.chars().any(is_seen));
            prop_assert!(!mapped.chars().any(|it| it.is_control() || it.is_whitespace() && it != ' '));
            prop_assert!(is_nfkc(&mapped));
            let room = check_room(&mapped, MANY);
            let joiner = mapped.contains(['\u{200C}', '\u{200D}']);
            prop_assert_eq!(room, if joiner { Err(BadName::Invisible) } else { Ok(()) });
        }
    }

    /// Plain names take the short way to the same end.
    #[test]
    fn the_short_way_leads_to_the_same(name in "[ !-~]{0,12}") {
        if is_plain(&name) {
            let enforced = enforce(&name);
            prop_assert_eq!(enforced.as_deref(), Ok(&*name));
        }
    }
}
