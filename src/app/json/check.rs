//! Checks of one command by itself: whether it is complete, and whether it uses only what the server
//! supports.

use memchr::memchr2_iter;

use super::command::{
    Channel, DeliveryQuery, HistoryQuery, Method, Publish, Refresh, Rpc, SubRefresh, Subscribe,
};
use super::{Disconnect, ErrorCode, Refusal};
use crate::chat::{Epoch, Page, Since};

/// How deep arrays and objects may lie in each other in what is published. Members of the room parse it, and
/// many parsers have a bound of their own that ends more than the parsing.
pub(super) const NESTING_MAX: usize = 128;

impl Method<'_> {
    /// Refuses what no server state can make right. To be called before the command is executed.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Subscribe(subscribe) => subscribe.check(),
            Self::Unsubscribe(room) | Self::Presence(room) | Self::PresenceStats(room) => room.check(),
            Self::Publish(publish) => publish.check(),
            Self::History(history) => history.check(),
            Self::Rpc(rpc) => rpc.delivery().map(drop),
            Self::Send => Err(Disconnect::NotAvailable.into()),
            Self::Refresh(refresh) => refresh.check(),
            Self::SubRefresh(refresh) => refresh.check(),
            Self::Ping => Err(ErrorCode::NotAvailable.into()),
            Self::Connect(_) | Self::Pong => Ok(()),
        }
    }
}

/// No client of the protocol sends an empty name.
const fn named(channel: &str) -> Result<(), Refusal> {
    if channel.is_empty() { Err(Refusal::Disconnect(Disconnect::BadRequest)) } else { Ok(()) }
}

impl Channel<'_> {
    /// # Errors
    /// It names no room.
    pub fn check(&self) -> Result<(), Refusal> {
        named(&self.channel)
    }
}

impl Subscribe<'_> {
    /// # Errors
    /// It names no room; it requests deltas that the protocol does not know (`fossil`, which it does, is not
    /// agreed to: the reply omits it); it requests another kind of subscription or a filter, which are not
    /// supported.
    pub fn check(&self) -> Result<(), Refusal> {
        named(&self.channel)?;
        match &*self.delta {
            "" | "fossil" => {}
            _ => return Err(Disconnect::BadRequest.into()),
        }
        if self.kind > 0 {
            return Err(ErrorCode::NotAvailable.into());
        }
        if self.tf.is_some() {
            return Err(ErrorCode::BadRequest.into());
        }
        Ok(())
    }
}

impl Publish<'_> {
    /// # Errors
    /// It names no room, is for another kind of channel, or has data more than `NESTING_MAX` deep. Data that
    /// is missing is an error for those only who may publish, which the session knows.
    pub fn check(&self) -> Result<(), Refusal> {
        named(&self.channel)?;
        if self.kind > 0 || self.removed || !self.key.is_empty() {
            return Err(ErrorCode::NotAvailable.into());
        }
        match self.data {
            Some(data) if is_deeper_than(data.get(), NESTING_MAX) => Err(ErrorCode::BadRequest.into()),
            Some(_) | None => Ok(()),
        }
    }
}

impl HistoryQuery<'_> {
    /// # Errors
    /// As [`Self::page`]; it names no room.
    pub fn check(&self) -> Result<(), Refusal> {
        named(&self.channel)?;
        self.page()?;
        Ok(())
    }

    /// The requested page of a room's history.
    ///
    /// # Errors
    /// It begins at an epoch that is none of ours.
    pub fn page(&self) -> Result<Page, ErrorCode> {
        let since = self.since.as_ref().map(|position| {
            let epoch = Epoch::parse(&position.epoch);
            if epoch.is_none() && !position.epoch.is_empty() {
                return Err(ErrorCode::UnrecoverablePosition);
            }
            Ok(Since { epoch, offset: position.offset })
        });
        let limit = usize::try_from(self.limit).unwrap_or(if self.limit < 0 { usize::MAX } else { 0 });
        Ok(Page { since: since.transpose()?, limit, reverse: self.reverse })
    }
}

impl<'a> Rpc<'a> {
    /// The one thing that can be called: how far a publication has come.
    ///
    /// # Errors
    /// It calls an unknown method, or does not name the publication.
    pub fn delivery(&self) -> Result<DeliveryQuery<'a>, Refusal> {
        if self.method != "delivery" {
            return Err(ErrorCode::MethodNotFound.into());
        }
        DeliveryQuery::read(self.data).ok_or(Refusal::Error(ErrorCode::BadRequest))
    }
}

impl Refresh<'_> {
    /// # Errors
    /// It brings no token.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.token.is_empty() { Err(Refusal::Error(ErrorCode::BadRequest)) } else { Ok(()) }
    }
}

impl SubRefresh<'_> {
    /// # Errors
    /// It names no room, or brings no token.
    pub fn check(&self) -> Result<(), Refusal> {
        match named(&self.channel) {
            Ok(()) if self.token.is_empty() => Err(Refusal::Error(ErrorCode::BadRequest)),
            outcome => outcome,
        }
    }
}

/// Whether arrays and objects lie more than `depth_max` deep in each other in `json`, which is valid.
fn is_deeper_than(json: &str, depth_max: usize) -> bool {
    // What opens no more than that cannot be deeper: nearly everything ends here.
    if memchr2_iter(b'[', b'{', json.as_bytes()).nth(depth_max).is_none() {
        return false;
    }
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' if depth == depth_max => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::command::parse;
    use super::*;
    use ErrorCode::*;

    fn check(line: &str, expected: Result<(), Refusal>) {
        let command = parse(line).expect("a command");
        assert_eq!(command.method.check(), expected, "{line}");
    }

    #[test]
    fn supported_commands_pass() {
        for line in [
            r#"{"id":1,"connect":{}}"#,
            r#"{"id":1,"subscribe":{"channel":"a"}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","delta":"","type":0,"tf":null}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","delta":"fossil"}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","delta":null}}"#,
            r#"{"id":1,"publish":{"channel":"a","data":null,"key":null,"type":null,"removed":false}}"#,
            r#"{"id":1,"publish":{"channel":"a"}}"#,
            r#"{"id":1,"history":{"channel":"a","since":{"offset":1}}}"#,
            r#"{"id":1,"rpc":{"method":"delivery","data":{"offset":1,"channel":"a"}}}"#,
            r#"{"id":1,"refresh":{"token":"t"}}"#,
            r#"{"id":1,"sub_refresh":{"channel":"a","token":"t"}}"#,
            "{}",
        ] {
            check(line, Ok(()));
        }
    }

    #[test]
    fn unsupported_features_are_errors() {
        for (line, code) in [
            (r#"{"id":1,"subscribe":{"channel":"a","type":1}}"#, NotAvailable),
            (r#"{"id":1,"subscribe":{"channel":"a","tf":{}}}"#, BadRequest),
            (r#"{"id":1,"publish":{"channel":"a","data":1,"type":1}}"#, NotAvailable),
            (r#"{"id":1,"publish":{"channel":"a","data":1,"key":"k"}}"#, NotAvailable),
            (r#"{"id":1,"publish":{"channel":"a","removed":true}}"#, NotAvailable),
            (
                r#"{"id":1,"history":{"channel":"a","since":{"epoch":"not an epoch of any engine"}}}"#,
                UnrecoverablePosition,
            ),
            (r#"{"id":1,"rpc":{}}"#, MethodNotFound),
            (r#"{"id":1,"rpc":{"method":"delivery"}}"#, BadRequest),
            (r#"{"id":1,"rpc":{"method":"delivery","data":["a",1]}}"#, BadRequest),
            (r#"{"id":1,"rpc":{"method":"delivery","data":{"channel":"a","offset":null}}}"#, BadRequest),
            (r#"{"id":1,"refresh":{}}"#, BadRequest),
            (r#"{"id":1,"refresh":{"token":null}}"#, BadRequest),
            (r#"{"id":1,"sub_refresh":{"channel":"a"}}"#, BadRequest),
            (r#"{"id":1,"sub_refresh":{"channel":"a","token":""}}"#, BadRequest),
            (r#"{"id":1,"ping":{}}"#, NotAvailable),
        ] {
            check(line, Err(code.into()));
        }
    }

    #[test]
    fn protocol_violations_end_the_connection() {
        for line in [
            r#"{"id":1,"subscribe":{}}"#,
            r#"{"id":1,"subscribe":{"channel":null}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","delta":"xdelta"}}"#,
            r#"{"id":1,"unsubscribe":{}}"#,
            r#"{"id":1,"publish":{"data":1}}"#,
            r#"{"id":1,"presence":{}}"#,
            r#"{"id":1,"presence_stats":{}}"#,
            r#"{"id":1,"history":{}}"#,
            r#"{"id":1,"sub_refresh":{"token":"t"}}"#,
        ] {
            check(line, Err(Disconnect::BadRequest.into()));
        }
        check(r#"{"send":{}}"#, Err(Disconnect::NotAvailable.into()));
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_deeper_than(&nested(NESTING_MAX), NESTING_MAX));
        assert!(is_deeper_than(&nested(NESTING_MAX + 1), NESTING_MAX));
        assert!(is_deeper_than(&format!("[{{\"a\\\"\":{}}}]", nested(3)), 4));
        assert!(!is_deeper_than(&format!("[\"\\\\\\\"{}\",{}1]", "[".repeat(9), "[],".repeat(9)), 2));
        assert!(!is_deeper_than("[[],[],[],[]]", 2));
    }
}
