//! The string class `FreeformClass` of the PRECIS framework (RFC 8264 §4.3), by the properties of Unicode's
//! current version. The crates that implement it go by the registry's table of Unicode 6.3, which knows no
//! emoji of the last ten years.

use unicode_normalization::char::canonical_combining_class;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::BadName;

/// Whether a character has the property `Default_Ignorable_Code_Point`: it is invisible, and so may stand
/// anywhere without being noticed. All controls of bidirectional text have it. (`DerivedCoreProperties.txt`;
/// blocks that are reserved for such characters are listed as a whole there, so the list does not grow with
/// Unicode.)
pub(super) const fn is_ignored(character: char) -> bool {
    matches!(character,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// Whether a character has the category `Zs`: the spaces that RFC 8266 §2.3 maps.
pub(super) fn is_space(character: char) -> bool {
    character.general_category() == GeneralCategory::SpaceSeparator
}

/// Checks that a text belongs to the class: every character by itself, and those that RFC 5892 appendix A
/// allows in certain positions by their context.
pub(super) fn check_freeform(text: &str) -> Result<(), BadName> {
    for (at, character) in text.char_indices() {
        let (before, after) = (&text[..at], &text[at + character.len_utf8()..]);
        match character {
            '!'..='~' => {}
            '\u{200C}' if is_after_virama(before) || joins(before, after) => {}
            '\u{200D}' if is_after_virama(before) => {}
            _ if character.is_control() => return Err(BadName::Control),
            _ if is_ignored(character) => return Err(BadName::Invisible),
            _ if is_excepted(character) || is_old_jamo(character) => return Err(BadName::Character),
            _ if !is_allowed_in_context(character, before, after, text) => return Err(BadName::Character),
            _ if !has_allowed_category(character) => return Err(BadName::Character),
            _ => {}
        }
    }
    Ok(())
}

/// Letters, digits, marks, spaces, symbols and punctuation (RFC 8264 §9.1 and §9.13 to §9.16). No character
/// that has a compatible equivalent (§9.17) is in another category.
fn has_allowed_category(character: char) -> bool {
    use GeneralCategory::*;
    match character.general_category() {
        UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter
        | NonspacingMark | SpacingMark | EnclosingMark | DecimalNumber | LetterNumber | OtherNumber
        | SpaceSeparator | ConnectorPunctuation | DashPunctuation | OpenPunctuation | ClosePunctuation
        | InitialPunctuation | FinalPunctuation | OtherPunctuation | MathSymbol | CurrencySymbol
        | ModifierSymbol | OtherSymbol => true,
        LineSeparator | ParagraphSeparator | Control | Format | Surrogate | PrivateUse | Unassigned => false,
    }
}

/// What RFC 8264 §9.6 disallows by name.
const fn is_excepted(character: char) -> bool {
    matches!(
        character,
        '\u{640}' | '\u{7FA}' | '\u{302E}' | '\u{302F}' | '\u{3031}'..='\u{3035}' | '\u{303B}'
    )
}

/// Parts of syllables that modern Korean does not write so (RFC 8264 §9.9): `Hangul_Syllable_Type` L, V or T.
const fn is_old_jamo(character: char) -> bool {
    matches!(character,
        '\u{1100}'..='\u{11FF}' | '\u{A960}'..='\u{A97C}' | '\u{D7B0}'..='\u{D7C6}' | '\u{D7CB}'..='\u{D7FB}')
}

/// The rules of RFC 5892 appendices A.3 to A.9. Everything that they do not name fits anywhere.
fn is_allowed_in_context(character: char, before: &str, after: &str, text: &str) -> bool {
    match character {
        // The Catalan middle dot, between two l.
        '\u{B7}' => before.ends_with('l') && after.starts_with('l'),
        // The Greek numeral sign.
        '\u{375}' => after.starts_with(|next| matches!(next, '\u{370}'..='\u{3FF}' | '\u{1F00}'..='\u{1FFF}')),
        // Geresh and gershayim.
        '\u{5F3}' | '\u{5F4}' => {
            before.ends_with(|last| matches!(last, '\u{591}'..='\u{5F4}' | '\u{FB1D}'..='\u{FB4F}'))
        }
        // The katakana middle dot.
        '\u{30FB}' => text.chars().any(|other| {
            matches!(other,
                '\u{3005}' | '\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3038}'..='\u{303B}' | '\u{3041}'..='\u{309F}'
                | '\u{30A1}'..='\u{30FA}' | '\u{30FD}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}'
                | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
                | '\u{FF66}'..='\u{FF9D}' | '\u{20000}'..='\u{3FFFD}')
        }),
        // Two sets of digits that look alike.
        '\u{660}'..='\u{669}' => !text.contains(|other| matches!(other, '\u{6F0}'..='\u{6F9}')),
        '\u{6F0}'..='\u{6F9}' => !text.contains(|other| matches!(other, '\u{660}'..='\u{669}')),
        _ => true,
    }
}

/// RFC 5892 A.1 and A.2: a joiner, or its opposite, shows behind a virama.
fn is_after_virama(before: &str) -> bool {
    const VIRAMA: u8 = 9;
    before.chars().next_back().is_some_and(|last| canonical_combining_class(last) == VIRAMA)
}

/// RFC 5892 A.1: a non-joiner shows between letters that would join, of which the first joins to its left and
/// the second to its right. Covers the letters of Arabic, Persian and Urdu; in other scripts it is not taken.
fn joins(before: &str, after: &str) -> bool {
    let is_base = |character: &char| !is_transparent(*character);
    let last = before.chars().rev().find(is_base);
    let next = after.chars().find(is_base);
    last.is_some_and(is_dual_joining)
        && next.is_some_and(|next| is_dual_joining(next) || is_right_joining(next))
}

/// Marks of the Arabic script (`Joining_Type` T).
const fn is_transparent(character: char) -> bool {
    matches!(character,
        '\u{610}'..='\u{61A}' | '\u{64B}'..='\u{65F}' | '\u{670}' | '\u{6D6}'..='\u{6DC}' | '\u{6DF}'..='\u{6E4}'
        | '\u{6E7}'..='\u{6E8}' | '\u{6EA}'..='\u{6ED}')
}

/// Letters of the Arabic block that join on one side only (`Joining_Type` R).
const fn is_right_joining(character: char) -> bool {
    matches!(character,
        '\u{622}'..='\u{625}' | '\u{627}' | '\u{629}' | '\u{62F}'..='\u{632}' | '\u{648}' | '\u{671}'..='\u{673}'
        | '\u{675}'..='\u{677}' | '\u{688}'..='\u{699}' | '\u{6C0}' | '\u{6C3}'..='\u{6CB}' | '\u{6CD}' | '\u{6CF}'
        | '\u{6D2}'..='\u{6D3}' | '\u{6D5}' | '\u{6EE}'..='\u{6EF}')
}

/// The other letters of the Arabic block, but for those that join on no side (`Joining_Type` D).
const fn is_dual_joining(character: char) -> bool {
    let is_letter = matches!(character, '\u{620}'..='\u{63F}' | '\u{641}'..='\u{64A}' | '\u{66E}'..='\u{66F}' | '\u{678}'..='\u{6D3}' | '\u{6FA}'..='\u{6FC}' | '\u{6FF}');
    is_letter && character != '\u{621}' && !is_right_joining(character)
}
