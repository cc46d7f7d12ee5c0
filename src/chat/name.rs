//! What clients and rooms may be called.
//!
//! A display name is brought into the form that the PRECIS profile `Nickname` gives it (RFC 8266): that of a
//! person who typed it with two spaces is taken all the same. A room's name is compared byte by byte, by the
//! server and by its clients, so it is never changed: one that is not in such a form already is refused.

mod precis;

use std::borrow::Cow;
use unicode_normalization::{UnicodeNormalization, is_nfc, is_nfkc};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Why a name, or a room's name, is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadName {
    /// There is nothing in it that can be seen.
    Empty,
    /// It is over its bound in bytes.
    TooLong,
    /// It has a control character (C0, DEL or C1).
    Control,
    /// It has a character that is not seen, or that only turns the direction of others.
    Invisible,
    /// It begins or ends with white space, or has some that is not the plain space. Of rooms alone: display
    /// names are mapped.
    Space,
    /// It is not in normalization form C (UAX #15). Of rooms alone.
    NotNormalized,
    /// It has a character that no name may have, or may not have at that position: one that is not assigned,
    /// is for private use, or is left out by RFC 8264.
    Character,
}

impl BadName {
    /// A message for the client that chose it.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Empty => {
                "The name is empty: it ends the path, as in /ws/{name}; with SockJS it is `name` in the query."
            }
            Self::TooLong => "The name is too long.",
            Self::Control => "A name must not contain control characters.",
            Self::Invisible => "A name must not contain invisible characters.",
            Self::Space => "A room's name must not begin or end with a space, and has no other white space.",
            Self::NotNormalized => "A room's name must be in Unicode normalization form C.",
            Self::Character => "A name must not contain unassigned or unusual characters.",
        }
    }
}

/// Times that the rules of a profile are applied until they change nothing more (RFC 8264 §7: "SHOULD" be
/// idempotent, and "if it is not stable after three more times, … reject").
const PASSES_MAX: usize = 4;

/// The display name of a client that requests `name`: its form under the profile `Nickname` (RFC 8266 §2.3),
/// 1 to `bytes_max` bytes. White space at the ends is removed, other white space becomes one space, and
/// compatible characters become plain ones (NFKC). Borrowed: it is `name` as it stands.
///
/// The profile allows some characters that look like nothing at all. A name of these alone would read like
/// the server's own notices, whose lines have an empty name: it is empty.
///
/// # Errors
/// Which of the rules it breaks.
pub fn display_name(name: &str, bytes_max: usize) -> Result<Cow<'_, str>, BadName> {
    if name.len() > bytes_max {
        return Err(BadName::TooLong);
    }
    if is_plain(name) {
        return Ok(Cow::Borrowed(name));
    }
    let mut current = Cow::Borrowed(name);
    for _ in 0..PASSES_MAX {
        let next = enforce(&current)?;
        if next == *current {
            if current.len() > bytes_max {
                return Err(BadName::TooLong);
            }
            return if current.chars().any(is_seen) { Ok(current) } else { Err(BadName::Empty) };
        }
        current = Cow::Owned(next);
    }
    Err(BadName::Character)
}

/// Checks what a client calls a room: 1 to `bytes_max` bytes in normalization form C; no controls and nothing
/// that is ignored by default (that is what is invisible, and what turns the direction of text); no white
/// space but spaces, and none at the ends. In patterns, tokens and requests a room has one name only, so it
/// is taken as it stands or refused.
///
/// # Errors
/// Which of the rules it breaks.
pub fn check_room(name: &str, bytes_max: usize) -> Result<(), BadName> {
    if name.is_empty() {
        return Err(BadName::Empty);
    }
    if name.len() > bytes_max {
        return Err(BadName::TooLong);
    }
    if is_plain(name) {
        return Ok(());
    }
    for character in name.chars() {
        if character.is_control() {
            return Err(BadName::Control);
        }
        if precis::is_ignored(character) {
            return Err(BadName::Invisible);
        }
        if character.is_whitespace() && character != ' ' {
            return Err(BadName::Space);
        }
    }
    if name.starts_with(' ') || name.ends_with(' ') {
        return Err(BadName::Space);
    }
    if is_nfc(name) { Ok(()) } else { Err(BadName::NotNormalized) }
}

/// ASCII that can be seen, with single spaces inside: in every form at once. Nearly all names are such.
fn is_plain(name: &str) -> bool {
    let mut before = b' ';
    let fits = name.bytes().all(|byte| {
        let fits = byte.is_ascii_graphic() || byte == b' ' && before != b' ';
        before = byte;
        fits
    });
    fits && before != b' '
}

/// One pass of the profile's rules, in their order (RFC 8266 §2.3).
fn enforce(name: &str) -> Result<String, BadName> {
    precis::check_freeform(name)?;
    let mut mapped = String::with_capacity(name.len());
    for word in name.split(precis::is_space).filter(|word| !word.is_empty()) {
        if !mapped.is_empty() {
            mapped.push(' ');
        }
        mapped.push_str(word);
    }
    let normal = if is_nfkc(&mapped) { mapped } else { mapped.nfkc().collect() };
    if normal.is_empty() { Err(BadName::Empty) } else { Ok(normal) }
}

/// Whether a character of a name that is allowed leaves ink by itself. Marks do not, and two symbols are
/// blank by design.
fn is_seen(character: char) -> bool {
    const BRAILLE_BLANK: char = '\u{2800}';
    const NULL_NOTEHEAD: char = '\u{1D159}';
    match character.general_category_group() {
        GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number | GeneralCategoryGroup::Punctuation => {
            true
        }
        GeneralCategoryGroup::Symbol => !matches!(character, BRAILLE_BLANK | NULL_NOTEHEAD),
        GeneralCategoryGroup::Mark | GeneralCategoryGroup::Separator | GeneralCategoryGroup::Other => false,
    }
}

#[cfg(test)]
mod tests;
