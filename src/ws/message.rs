//! From bytes to messages: frames taken from the front of what was read, fragments reassembled (RFC 6455
//! §5.4).
//!
//! A frame that has come whole is unmasked and used where it lies. Only what is incomplete moves into memory
//! of the connection's own, and only for as long as it is incomplete.

use super::header::HEADER_BYTES_MAX;
use super::{
    CloseCode, Fail, Header, Inflater, LimitExceeded, Opcode, ProtocolError, Step, Utf8, decode_header,
    unmask,
};

/// Bounds of what is taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a message, reassembled and decompressed. The count of its fragments is not bounded: they cost
    /// nothing.
    pub message_bytes_max: usize,
}

/// What the peer sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong, solicited or not.
    Pong(&'a [u8]),
    /// The closing handshake, with the code and the reason if it has one.
    Close(Option<(CloseCode, &'a str)>),
}

/// What came of some input.
#[derive(Debug)]
pub struct Decoded<'a> {
    /// How much of the input is used up.
    pub consumed: usize,
    /// The first event in it. `None`: all of it is used up, and more is needed.
    pub event: Option<Event<'a>>,
    /// The event is one whole frame of the input, the `consumed` bytes at its front, and the decoder holds
    /// nothing of it. If not, its bytes lie in the decoder, which then holds them until it is called again.
    pub in_place: bool,
}

/// Masks again the payload of one whole frame that [`Decoder::decode`] has unmasked in place: with the bytes
/// as they came the frame can be decoded another time. `frame` is what was consumed for an event that is
/// [`Decoded::in_place`].
pub fn undo(frame: &mut [u8]) {
    // The header has decoded before. Whether RSV1 had a meaning then does not change where the payload
    // begins.
    if let Ok(Step::Done(header)) = decode_header(frame, true) {
        unmask(&mut frame[header.len..], header.key, 0);
    }
}

/// What one connection remembers of the frames that it has not had whole. 16 bytes, and nothing on the heap,
/// between messages.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    deflate: bool,
}

/// An incomplete message or frame.
#[derive(Debug, Default)]
struct Partial {
    /// The beginning of a header.
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// The frame whose payload is arriving, and how much of it has.
    frame: Option<(Header, u64)>,
    /// The message whose fragments are arriving.
    message: Option<Message>,
    /// The payload of a control frame that did not arrive in one piece.
    control: Vec<u8>,
    /// The event that lies complete in here, and has been handed out at least once.
    complete: Option<Complete>,
}

/// An event in a decoder's own memory.
#[derive(Clone, Copy, Debug)]
struct Complete {
    kind: Kind,
    /// The event is to be returned once more. If not, it is forgotten at the next call.
    keep: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `message`.
    Message,
    /// `control`, a frame with this opcode.
    Control(Opcode),
}

#[derive(Debug)]
struct Message {
    text: bool,
    compressed: bool,
    utf8: Utf8,
    /// As it came, unmasked: compressed messages are inflated when they are complete, so that one inflater
    /// serves all connections of a shard.
    bytes: Vec<u8>,
}

impl Decoder {
    /// A decoder; `deflate`: permessage-deflate was agreed on.
    pub const fn new(deflate: bool) -> Self {
        Self { partial: None, deflate }
    }

    /// Takes the first event from the front of `input`, which is unmasked in place; or returns an event that
    /// the caller has [kept](Self::keep).
    ///
    /// # Errors
    /// The connection must fail; the decoder must not be used again.
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        inflater: &'a mut Inflater,
        limits: &Limits,
    ) -> Result<Decoded<'a>, Fail> {
        self.release();
        if self.holds_event() {
            return self.hand_out_again(inflater, limits);
        }
        if self.partial.is_none()
            && let Step::Done(header) = decode_header(input, self.deflate)?
        {
            check_in_order(&header, None, limits)?;
            let end = usize::try_from(header.payload_len).ok().and_then(|len| len.checked_add(header.len));
            if let Some(end) = end
                && end <= input.len()
                && header.fin
            {
                let payload = &mut input[header.len..end];
                unmask(payload, header.key, 0);
                let event = whole_frame(&header, payload, inflater, limits)?;
                return Ok(Decoded { consumed: end, event: Some(event), in_place: true });
            }
        }
        if input.is_empty() {
            return Ok(Decoded { consumed: 0, event: None, in_place: false });
        }
        let deflate = self.deflate;
        self.partial.get_or_insert_default().decode(input, deflate, inflater, limits)
    }

    /// Has the next call of [`decode`](Self::decode) hand out again the event that the last one has handed
    /// out, and consume nothing for it. A compressed message is kept as it came. Has no effect on an event
    /// that was [in place](Decoded::in_place): the caller keeps those bytes itself, and calls [`undo`] on
    /// them.
    pub fn keep(&mut self) {
        if let Some(complete) = self.partial.as_mut().and_then(|partial| partial.complete.as_mut()) {
            complete.keep = true;
        }
    }

    /// Whether an event is [kept](Self::keep) here, so that [`decode`](Self::decode) has one without further
    /// input.
    pub fn holds_event(&self) -> bool {
        let complete = self.partial.as_ref().and_then(|partial| partial.complete);
        complete.is_some_and(|complete| complete.keep)
    }

    /// Frees the memory of the event that was last handed out, unless it is to be [kept](Self::keep). So does
    /// the next [`decode`](Self::decode); a caller that stops before it calls this instead.
    pub fn release(&mut self) {
        let Some(partial) = &mut self.partial else { return };
        match partial.complete {
            None | Some(Complete { keep: true, .. }) => return,
            Some(Complete { kind: Kind::Message, .. }) => partial.message = None,
            Some(Complete { kind: Kind::Control(_), .. }) => partial.control = Vec::new(),
        }
        partial.complete = None;
        if partial.message.is_none() {
            self.partial = None;
        }
    }

    /// Bytes on the heap: for what is incomplete, and for an event that is kept or was handed out last.
    pub fn kept_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            let Partial { header: _, header_len: _, frame: _, message, control, complete: _ } = &**partial;
            let message = message.as_ref().map_or(0, |message| message.bytes.capacity());
            size_of::<Partial>() + message + control.capacity()
        })
    }

    fn hand_out_again<'a>(
        &'a mut self,
        inflater: &'a mut Inflater,
        limits: &Limits,
    ) -> Result<Decoded<'a>, Fail> {
        let event = match &mut self.partial {
            Some(partial) => {
                partial.complete = partial.complete.map(|complete| Complete { keep: false, ..complete });
                partial.complete_event(inflater, limits)?
            }
            None => None,
        };
        Ok(Decoded { consumed: 0, event, in_place: false })
    }
}

impl Partial {
    fn decode<'a>(
        &'a mut self,
        input: &mut [u8],
        deflate: bool,
        inflater: &'a mut Inflater,
        limits: &Limits,
    ) -> Result<Decoded<'a>, Fail> {
        let mut consumed = 0;
        loop {
            let (header, got) = match self.frame {
                Some(frame) => frame,
                None => match self.take_header(&input[consumed..], deflate)? {
                    (taken, None) => {
                        return Ok(Decoded { consumed: consumed + taken, event: None, in_place: false });
                    }
                    (taken, Some(header)) => {
                        consumed += taken;
                        check_in_order(&header, self.message.as_ref(), limits)?;
                        self.begin_message(&header);
                        (header, 0)
                    }
                },
            };
            let missing = usize::try_from(header.payload_len - got).unwrap_or(usize::MAX);
            let take = missing.min(input.len() - consumed);
            let payload = &mut input[consumed..consumed + take];
            // Only the phase, one of four, matters of how far the frame has come.
            unmask(payload, header.key, usize::try_from(got % 4).unwrap_or(0));
            self.take_payload(&header, payload)?;
            consumed += take;
            if take < missing {
                self.frame = Some((header, got + take as u64));
                return Ok(Decoded { consumed, event: None, in_place: false });
            }
            self.frame = None;
            let kind = match header.opcode {
                Opcode::Close | Opcode::Ping | Opcode::Pong => Kind::Control(header.opcode),
                Opcode::Continuation | Opcode::Text | Opcode::Binary if header.fin => Kind::Message,
                Opcode::Continuation | Opcode::Text | Opcode::Binary => continue,
            };
            self.complete = Some(Complete { kind, keep: false });
            return Ok(Decoded { consumed, event: self.complete_event(inflater, limits)?, in_place: false });
        }
    }

    /// The event of `complete`.
    fn complete_event<'a>(
        &'a self,
        inflater: &'a mut Inflater,
        limits: &Limits,
    ) -> Result<Option<Event<'a>>, Fail> {
        match (self.complete, &self.message) {
            (Some(Complete { kind: Kind::Control(opcode), .. }), _) => {
                Ok(Some(control_event(opcode, &self.control)?))
            }
            (Some(Complete { kind: Kind::Message, .. }), Some(message)) => {
                Ok(Some(message.event(inflater, limits)?))
            }
            (Some(Complete { kind: Kind::Message, .. }), None) | (None, _) => Ok(None),
        }
    }

    /// Completes the header with bytes from `input`; returns how many it took.
    fn take_header(&mut self, input: &[u8], deflate: bool) -> Result<(usize, Option<Header>), ProtocolError> {
        let before = self.header_len;
        let room = (HEADER_BYTES_MAX - before).min(input.len());
        self.header[before..before + room].copy_from_slice(&input[..room]);
        match decode_header(&self.header[..before + room], deflate)? {
            Step::Done(header) => {
                self.header_len = 0;
                Ok((header.len - before, Some(header)))
            }
            Step::NeedMore => {
                self.header_len = before + room;
                Ok((room, None))
            }
        }
    }

    fn begin_message(&mut self, header: &Header) {
        if matches!(header.opcode, Opcode::Text | Opcode::Binary) {
            self.message = Some(Message {
                text: header.opcode == Opcode::Text,
                compressed: header.rsv1,
                utf8: Utf8::default(),
                bytes: Vec::new(),
            });
        }
    }

    fn take_payload(&mut self, header: &Header, payload: &[u8]) -> Result<(), ProtocolError> {
        if header.opcode.is_control() {
            self.control.extend_from_slice(payload);
        } else if let Some(message) = &mut self.message {
            if message.text && !message.compressed {
                message.utf8.push(payload)?;
            }
            message.bytes.extend_from_slice(payload);
        }
        Ok(())
    }
}

impl Message {
    fn event<'a>(&'a self, inflater: &'a mut Inflater, limits: &Limits) -> Result<Event<'a>, Fail> {
        if self.compressed {
            data_event(self.text, inflater.inflate(&self.bytes, limits.message_bytes_max)?)
        } else {
            self.utf8.finish()?;
            data_event(self.text, &self.bytes)
        }
    }
}

/// Whether the frame may come now, and whether its message can still be within the bound. Decided before any
/// of its payload is taken in.
fn check_in_order(header: &Header, message: Option<&Message>, limits: &Limits) -> Result<(), Fail> {
    match (header.opcode, message) {
        (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
        (Opcode::Continuation, None) => return Err(ProtocolError::ContinuationUnexpected.into()),
        (Opcode::Text | Opcode::Binary, Some(_)) => return Err(ProtocolError::ContinuationExpected.into()),
        (Opcode::Continuation, Some(_)) | (Opcode::Text | Opcode::Binary, None) => {}
    }
    let compressed = message.map_or(header.rsv1, |message| message.compressed);
    let max =
        if compressed { deflated_bytes_max(limits.message_bytes_max) } else { limits.message_bytes_max };
    let before = message.map_or(0, |message| message.bytes.len() as u64);
    if before.saturating_add(header.payload_len) > max as u64 {
        return Err(LimitExceeded::MessageTooBig.into());
    }
    Ok(())
}

/// Bytes that the payload of a compressed message may have, so that a client may send what it cannot
/// compress: zlib's own bound for every window and every size of its memory, where each byte takes 9 bits and
/// each block of 127 symbols (memLevel 1) 10 bits more, and something for a flush. It is above what stored
/// blocks cost, 5 bytes for each 127 at worst, and above [`deflated_len_max`](super::deflated_len_max).
/// DEFLATE itself knows no bound: a client can send empty blocks forever.
const fn deflated_bytes_max(message_bytes_max: usize) -> usize {
    let max = message_bytes_max.saturating_add(message_bytes_max.div_ceil(8));
    max.saturating_add(message_bytes_max.div_ceil(64)).saturating_add(64)
}

fn whole_frame<'a>(
    header: &Header,
    payload: &'a [u8],
    inflater: &'a mut Inflater,
    limits: &Limits,
) -> Result<Event<'a>, Fail> {
    if header.opcode.is_control() {
        Ok(control_event(header.opcode, payload)?)
    } else if header.rsv1 {
        data_event(header.opcode == Opcode::Text, inflater.inflate(payload, limits.message_bytes_max)?)
    } else {
        data_event(header.opcode == Opcode::Text, payload)
    }
}

fn data_event(text: bool, payload: &[u8]) -> Result<Event<'_>, Fail> {
    if text {
        let text = simdutf8::basic::from_utf8(payload).map_err(|_| ProtocolError::InvalidUtf8)?;
        Ok(Event::Text(text))
    } else {
        Ok(Event::Binary(payload))
    }
}

fn control_event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, ProtocolError> {
    Ok(match opcode {
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close | Opcode::Continuation | Opcode::Text | Opcode::Binary => {
            Event::Close(close_payload(payload)?)
        }
    })
}

/// "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer" and the rest UTF-8
/// (§5.5.1).
fn close_payload(payload: &[u8]) -> Result<Option<(CloseCode, &str)>, ProtocolError> {
    match payload.split_first_chunk() {
        None if payload.is_empty() => Ok(None),
        None => Err(ProtocolError::InvalidClosePayload),
        Some((&code, reason)) => {
            let code = CloseCode::from(u16::from_be_bytes(code));
            if !code.is_allowed() {
                return Err(ProtocolError::InvalidCloseCode);
            }
            let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidUtf8)?;
            Ok(Some((code, reason)))
        }
    }
}

#[cfg(test)]
mod tests;
