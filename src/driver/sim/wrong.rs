//! What clients do wrong.

use stentor_testkit as wire;

use super::scenario::{Endpoint, Wrong};
use super::simulation::Simulation;
use crate::ws::Window;

impl Simulation<'_> {
    /// A client violates the protocol, if that is a violation of its own.
    pub(super) fn do_wrong(&mut self, session: usize, wrong: Wrong) {
        let it = &self.sessions[session];
        let is_json = matches!(it.plan.endpoint, Endpoint::Centrifuge(_));
        // Binary frames are taken everywhere but in chat.
        let fine = wrong == Wrong::Binary && (it.plan.endpoint == Endpoint::Echo || is_json)
            || wrong == Wrong::Bomb && !it.deflated
            || wrong.is_json() && (!is_json || it.id.is_empty());
        if !wrong.is_http() && !fine && self.sessions[session].may_publish() {
            self.break_rule(session, wrong);
        }
    }

    /// A client violates the protocol.
    pub(super) fn break_rule(&mut self, session: usize, wrong: Wrong) {
        let options = &self.scenario.options;
        let mut bytes = Vec::new();
        match wrong {
            Wrong::Unmasked => bytes.extend_from_slice(b"\x81\x02hi"),
            Wrong::ReservedOpcode => wire::frame_into(&mut bytes, 0x83, b"what"),
            Wrong::ReservedBit => wire::frame_into(&mut bytes, 0xA1, b"what"),
            Wrong::Continuation => wire::frame_into(&mut bytes, 0x80, b"and so on"),
            Wrong::NotUtf8 => wire::frame_into(&mut bytes, 0x81, b"gr\xFC\xDFe"),
            Wrong::TooBig => wire::head_into(&mut bytes, 0x81, options.message.message_bytes_max as u64 + 1),
            Wrong::Bomb => {
                let inflated = vec![b'x'; (options.message.message_bytes_max * 20).min(1 << 20)];
                wire::frame_into(&mut bytes, 0xC1, self.deflater.deflate(Window::Full, &[&inflated]));
            }
            Wrong::ArrayCommand => wire::frame_into(&mut bytes, 0x81, b"{\"id\":999,\"presence\":[\"r0\"]}"),
            Wrong::UnknownDelta => {
                let line = b"{\"id\":999,\"subscribe\":{\"channel\":\"elsewhere\",\"delta\":\"what\"}}";
                wire::frame_into(&mut bytes, 0x81, line);
            }
            Wrong::CloseCode => wire::frame_into(&mut bytes, 0x88, &1005_u16.to_be_bytes()),
            Wrong::LongPing => wire::frame_into(&mut bytes, 0x89, &[b'p'; 126]),
            Wrong::Binary => wire::frame_into(&mut bytes, 0x82, &[0, 1, 2]),
            Wrong::Garbage => {
                bytes.extend_from_slice(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            }
            Wrong::EndlessHead => {
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\nX: ");
                bytes.resize(options.head.head_bytes_max + 100, b'x');
            }
            Wrong::HalfAHead => bytes.extend_from_slice(b"GET /ws/half HTTP/1.1\r\nHost:"),
        }
        self.sessions[session].wrong = Some(wrong);
        self.send(session, &bytes);
    }
}
