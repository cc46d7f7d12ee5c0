//! Texts with places to fill in: `{name}`, `{room}`, `{text}`, `{bytes}`, `{id}`, `{epoch}`, `{offset}`. Other braces stay as
//! they are, so that JSON needs no escapes.

use serde::{Deserialize, Serialize};

/// What stands at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Stands for itself.
    Literal(String),
    /// The client's name.
    Name,
    /// Its room's name.
    Room,
    /// The message.
    Text,
    /// The message's length.
    Bytes,
    /// A number that counts up.
    Id,
    /// With [`Piece::Offset`], where the client is in what its room has said.
    Epoch,
    /// See [`Piece::Epoch`].
    Offset,
}

const PLACES: [(&str, Piece); 7] = [
    ("{name}", Piece::Name),
    ("{room}", Piece::Room),
    ("{text}", Piece::Text),
    ("{bytes}", Piece::Bytes),
    ("{id}", Piece::Id),
    ("{epoch}", Piece::Epoch),
    ("{offset}", Piece::Offset),
];

/// A text with places.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Template(Vec<Piece>);

/// What fills the places.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filling<'f> {
    /// The client's own name.
    pub name: &'f str,
    /// The name of its room.
    pub room: &'f str,
    /// The message, with its stamp.
    pub text: &'f [u8],
    /// A number that counts up with each message of a client.
    pub id: u32,
    /// Which of the room's pasts `offset` counts in.
    pub epoch: &'f str,
    /// How much of that has been heard.
    pub offset: u64,
}

impl Template {
    /// Appends the text with its places filled.
    pub fn fill_into(&self, filling: Filling<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Name => out.extend_from_slice(filling.name.as_bytes()),
                Piece::Room => out.extend_from_slice(filling.room.as_bytes()),
                Piece::Text => out.extend_from_slice(filling.text),
                Piece::Bytes => out.extend_from_slice(filling.text.len().to_string().as_bytes()),
                Piece::Id => out.extend_from_slice(filling.id.to_string().as_bytes()),
                Piece::Epoch => out.extend_from_slice(filling.epoch.as_bytes()),
                Piece::Offset => out.extend_from_slice(filling.offset.to_string().as_bytes()),
            }
        }
    }

    /// The text with its places filled.
    pub fn fill(&self, filling: Filling<'_>) -> String {
        let mut out = Vec::new();
        self.fill_into(filling, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// What it is made of.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Whether the message itself has a place.
    pub fn has_text(&self) -> bool {
        self.0.contains(&Piece::Text)
    }
}

impl From<&str> for Template {
    fn from(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        loop {
            let next = PLACES
                .iter()
                .filter_map(|(place, piece)| Some((rest.find(place)?, place, piece)))
                .min_by_key(|at| at.0);
            let (literal, behind) =
                next.as_ref().map_or((rest, ""), |(at, place, _)| (&rest[..*at], &rest[at + place.len()..]));
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            let Some((_, _, piece)) = next else { return Self(pieces) };
            pieces.push(piece.clone());
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
        let text = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Name
            | Piece::Room
            | Piece::Text
            | Piece::Bytes
            | Piece::Id
            | Piece::Epoch
            | Piece::Offset => PLACES
                .iter()
                .find(|(_, other)| other == piece)
                .map_or_else(Self::new, |(place, _)| (*place).to_owned()),
        };
        template.0.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_braces_stay() {
        let text = r#"{"id":{id},"publish":{"channel":"{room}","data":"{text}"}} {name} {bytes} {other} {epoch}:{offset}"#;
        let template = Template::from(text);
        let filled =
            template.fill(Filling { name: "n", room: "r", text: b"hello", id: 7, epoch: "e", offset: 9 });
        assert_eq!(filled, r#"{"id":7,"publish":{"channel":"r","data":"hello"}} n 5 {other} e:9"#);
        assert_eq!(String::from(template), text);
    }
}
