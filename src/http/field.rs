//! The grammar of field values: tokens, quoted strings, lists and entity tags (RFC 9110 §5.6 and §8.8.3).

/// Whether `text` is a token (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

/// Whether `byte` is a `tchar` (RFC 9110 §5.6.2).
pub(super) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// The elements of a list, without the white space around them. Commas inside quoted strings do not separate;
/// empty elements are ignored, as a recipient must (RFC 9110 §5.6.1.2). Behind a quote that is never closed
/// everything is one element.
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = value.split(move |&byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    });
    parts.map(trim).filter(|element| !element.is_empty())
}

/// Without optional white space (OWS, RFC 9110 §5.6.3) at both ends.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// An entity tag: whether it is weak, and what is between its quotes (RFC 9110 §8.8.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EntityTag<'b> {
    weak: bool,
    opaque: &'b [u8],
}

impl<'b> EntityTag<'b> {
    /// The tag at the front of `text`, and what follows it.
    fn take(text: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let (weak, rest) = match text.strip_prefix(b"W/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let rest = rest.strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', rest)?;
        let opaque = &rest[..end];
        let valid = opaque.iter().all(|&byte| byte == 0x21 || matches!(byte, 0x23..=0x7E | 0x80..));
        valid.then_some((Self { weak, opaque }, &rest[end + 1..]))
    }

    /// The tag that is all of `text`.
    pub(super) fn parse(text: &'b [u8]) -> Option<Self> {
        Self::take(text).filter(|(_, rest)| rest.is_empty()).map(|(tag, _)| tag)
    }

    /// Whether they are the same in `comparison`.
    pub(super) fn equals(self, other: EntityTag<'_>, comparison: Comparison) -> bool {
        self.opaque == other.opaque
            && match comparison {
                Comparison::Weak => true,
                Comparison::Strong => !self.weak && !other.weak,
            }
    }
}

/// How entity tags are compared (RFC 9110 §8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    /// For If-None-Match: whether either is weak does not matter.
    Weak,
    /// For If-Match: a weak tag equals none.
    Strong,
}

/// The entity tags of a list; elements that are none are skipped. A tag may contain commas and backslashes,
/// which mean nothing there.
pub(super) fn entity_tags(value: &[u8]) -> impl Iterator<Item = EntityTag<'_>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        loop {
            while let [b' ' | b'\t' | b',', after @ ..] = rest {
                rest = after;
            }
            if rest.is_empty() {
                return None;
            }
            match EntityTag::take(rest) {
                Some((tag, after)) => {
                    let end = memchr::memchr(b',', after).unwrap_or(after.len());
                    rest = &after[end..];
                    if trim(&after[..end]).is_empty() {
                        return Some(tag);
                    }
                }
                None => rest = memchr::memchr(b',', rest).map_or(&[], |at| &rest[at..]),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_outside_quoted_strings() {
        for (value, expected) in [
            (&b"a, b"[..], &[&b"a"[..], b"b"][..]),
            (b" ,a,,\tb ,", &[b"a", b"b"]),
            (b"", &[]),
            (b" , ,", &[]),
            (b"a;x=\"1, 2\", b", &[b"a;x=\"1, 2\"", b"b"]),
            (b"a;x=\"1\\\", 2\", b", &[b"a;x=\"1\\\", 2\"", b"b"]),
            (b"a;x=\"\\\\\", b", &[b"a;x=\"\\\\\"", b"b"]),
            (b"a;x=\"1, b", &[b"a;x=\"1, b"]),
            (b"a\\, b", &[b"a\\", b"b"]),
        ] {
            assert_eq!(elements(value).collect::<Vec<_>>(), expected, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn tokens() {
        for token in [&b"chat"[..], b"v1.centrifuge-json", b"!#$%&'*+-.^_`|~09azAZ"] {
            assert!(is_token(token));
        }
        for other in [&b""[..], b"a b", b"a/b", b"\"a\"", b"a=b", b"a;", b"\xC3\xBC", b"a\t", b"(a)"] {
            assert!(!is_token(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn lists_of_entity_tags() {
        let tag = |weak, opaque: &'static [u8]| EntityTag { weak, opaque };
        for (value, expected) in [
            (&b"\"a\""[..], &[tag(false, b"a")][..]),
            (b"W/\"a\" , \"b,c\"", &[tag(true, b"a"), tag(false, b"b,c")]),
            (b",, \"a\\\", \"\"", &[tag(false, b"a\\"), tag(false, b"")]),
            (b"a, w/\"b\", \"c\"d, \"e f\", \"g\"", &[tag(false, b"g")]),
            (b"\"a", &[]),
            (b"W/", &[]),
            (b"*", &[]),
        ] {
            assert_eq!(entity_tags(value).collect::<Vec<_>>(), expected, "{}", value.escape_ascii());
        }
    }
}
