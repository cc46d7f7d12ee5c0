//! Texts with placeholders: `{name}`, `{room}`, `{token}`, `{text}`, `{bytes}`, `{id}`, `{epoch}`,
//! `{offset}`. Other braces are literal, so JSON needs no escapes.

use serde::{Deserialize, Serialize};

/// A part of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Literal text.
    Literal(String),
    /// The client's name.
    Name,
    /// Its room's name.
    Room,
    /// Its token.
    Token,
    /// The message.
    Text,
    /// The message's length.
    Bytes,
    /// A counter.
    Id,
    /// With [`Part::Offset`], the client's position in its room.
    Epoch,
    /// See [`Part::Epoch`].
    Offset,
}

const PLACEHOLDERS: [(&str, Part); 8] = [
    ("{name}", Part::Name),
    ("{room}", Part::Room),
    ("{token}", Part::Token),
    ("{text}", Part::Text),
    ("{bytes}", Part::Bytes),
    ("{id}", Part::Id),
    ("{epoch}", Part::Epoch),
    ("{offset}", Part::Offset),
];

/// A text with placeholders.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Template(Vec<Part>);

/// The values of the placeholders.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'f> {
    /// The client's name.
    pub name: &'f str,
    /// Its room's name.
    pub room: &'f str,
    /// Its token; empty if it has none.
    pub token: &'f str,
    /// The message, with its stamp.
    pub text: &'f [u8],
    /// The client's message counter.
    pub id: u32,
    /// The epoch of the client's position.
    pub epoch: &'f str,
    /// The offset of the client's position.
    pub offset: u64,
}

impl Template {
    /// Appends the text with its placeholders replaced.
    pub fn render_into(&self, values: Values<'_>, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Name => out.extend_from_slice(values.name.as_bytes()),
                Part::Room => out.extend_from_slice(values.room.as_bytes()),
                Part::Token => out.extend_from_slice(values.token.as_bytes()),
                Part::Text => out.extend_from_slice(values.text),
                Part::Bytes => out.extend_from_slice(values.text.len().to_string().as_bytes()),
                Part::Id => out.extend_from_slice(values.id.to_string().as_bytes()),
                Part::Epoch => out.extend_from_slice(values.epoch.as_bytes()),
                Part::Offset => out.extend_from_slice(values.offset.to_string().as_bytes()),
            }
        }
    }

    /// The text with its placeholders replaced.
    pub fn render(&self, values: Values<'_>) -> String {
        let mut out = Vec::new();
        self.render_into(values, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Its parts.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Whether the template contains `part`.
    pub fn has(&self, part: &Part) -> bool {
        self.0.contains(part)
    }
}

impl From<&str> for Template {
    fn from(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let next = PLACEHOLDERS
                .iter()
                .filter_map(|(placeholder, part)| Some((rest.find(placeholder)?, placeholder, part)))
                .min_by_key(|at| at.0);
            let (literal, behind) = next
                .as_ref()
                .map_or((rest, ""), |(at, placeholder, _)| (&rest[..*at], &rest[at + placeholder.len()..]));
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let Some((_, _, part)) = next else { return Self(parts) };
            parts.push(part.clone());
            rest = behind;
        }
    }
}

impl From<String> for Template {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        let placeholder = |part: &Part| PLACEHOLDERS.iter().find(|(_, other)| other == part);
        let text = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Name
            | Part::Room
            | Part::Token
            | Part::Text
            | Part::Bytes
            | Part::Id
            | Part::Epoch
            | Part::Offset => placeholder(part).map_or_else(Self::new, |(text, _)| (*text).to_owned()),
        };
        template.0.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_other_braces_kept() {
        let text = r#"{"id":{id},"publish":{"channel":"{room}","data":"{text}"}} {name} {bytes} {other} {token} {epoch}:{offset}"#;
        let template = Template::from(text);
        let rendered = template.render(Values {
            name: "n",
            room: "r",
            token: "t",
            text: b"hello",
            id: 7,
            epoch: "e",
            offset: 9,
        });
        assert_eq!(rendered, r#"{"id":7,"publish":{"channel":"r","data":"hello"}} n 5 {other} t e:9"#);
        assert_eq!(String::from(template), text);
    }
}
