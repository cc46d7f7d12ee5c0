//! Which pages may use the HTTP endpoints, and what their browsers are shown (Fetch Standard §3.2).
//!
//! One allow-list, [`OriginRules`], decides for WebSocket and for HTTP. A request from a page that is not on
//! it is refused: not to hide the answer, which the browser would do, but so that no page can act on behalf
//! of a user of another one.

use smallvec::SmallVec;

use super::handshake::{OriginMatch, OriginRules};
use super::{Head, Reject};

/// What the answers to a page's requests tell its browser.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cors {
    /// The request is not a page's, or one of the same origin that browsers do not mark.
    #[default]
    None,
    /// Any page may read the answer, without credentials.
    Any,
    /// Pages of this origin may.
    Origin {
        /// As the browser has sent it.
        origin: Box<str>,
        /// Also where the browser sends credentials along.
        credentials: bool,
    },
}

/// How long a browser may keep the answer to a preflight request, in seconds: after a change of the list it
/// goes on asking for as long.
const PREFLIGHT_MAX_AGE_S: &str = "600";

/// Fields of requests beside those that every page may set.
const REQUEST_FIELDS: &str = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID";

/// Fields of answers that a page may read.
const EXPOSED_FIELDS: &str = "Stentor-Position, Stentor-Session, Retry-After";

/// Header fields.
pub type Fields<'a> = SmallVec<[(&'a str, &'a str); 8]>;

impl Cors {
    /// What holds for a request, by its Origin. One with an effect (`changes_state`) that has none, but whose
    /// browser says that it comes from another site (`Sec-Fetch-Site`, Fetch Metadata §2.4), is refused as
    /// well: every browser sends Origin with such requests, unless a page has found a way around that.
    ///
    /// # Errors
    /// [`Reject::Origin`]: the page may not use this server.
    pub fn check(head: &Head<'_>, rules: &OriginRules, changes_state: bool) -> Result<Self, Reject> {
        let mut origins = head.fields("Origin");
        let Some(origin) = origins.next() else {
            let foreign = head.fields("Sec-Fetch-Site").any(|site| !matches!(site, b"same-origin" | b"none"));
            let refused = changes_state && foreign && !rules.allow_any();
            return if refused { Err(Reject::Origin) } else { Ok(Self::None) };
        };
        if origins.next().is_some() {
            return Err(Reject::Origin);
        }
        let text = || std::str::from_utf8(origin).unwrap_or_default().into();
        match rules.find(origin, head.host) {
            None => Err(Reject::Origin),
            Some(OriginMatch::Any) => Ok(Self::Any),
            Some(OriginMatch::Listed) => Ok(Self::Origin { origin: text(), credentials: true }),
            // Any sandboxed page has this origin: none of them gets a user's credentials.
            Some(OriginMatch::Null) => Ok(Self::Origin { origin: text(), credentials: false }),
        }
    }

    /// The same for an answer that every page can read, because it is a script. A browser sends no Origin
    /// with the request for it: a page of another origin is recognized by its `Referer`, and refused if it
    /// hides that.
    ///
    /// # Errors
    /// [`Reject::Origin`]: the page may not use this server.
    pub fn check_script(head: &Head<'_>, rules: &OriginRules) -> Result<Self, Reject> {
        let allowed = Self::check(head, rules, false)?;
        if Self::check(head, rules, true).is_ok() {
            return Ok(allowed);
        }
        let origin = head.only_field("Referer").and_then(origin_of);
        let listed = origin.is_some_and(|origin| rules.find(origin, head.host).is_some());
        if listed { Ok(allowed) } else { Err(Reject::Origin) }
    }

    /// What holds where pages of all origins may do everything: for tests.
    pub fn any_with_credentials(head: &Head<'_>) -> Self {
        let origin = head.only_field("Origin").and_then(|origin| std::str::from_utf8(origin).ok());
        origin.map_or(Self::None, |origin| Self::Origin { origin: origin.into(), credentials: true })
    }

    /// The fields of an answer. A cache must not give one page's answer to another one: so `Vary` is there
    /// even without an origin.
    pub fn fields(&self) -> Fields<'_> {
        let mut fields = Fields::new();
        fields.push(("Vary", "Origin"));
        self.allow_into(&mut fields);
        if *self != Self::None {
            fields.push(("Access-Control-Expose-Headers", EXPOSED_FIELDS));
        }
        fields
    }

    /// The fields of the answer to an OPTIONS request for a resource with these methods: a preflight (Fetch
    /// Standard §3.2.2), or a client's that wants to know them.
    pub fn options_fields(&self, methods: &'static str, is_preflight: bool) -> Fields<'_> {
        let mut fields = Fields::new();
        fields.push(("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"));
        fields.push(("Allow", methods));
        if is_preflight && *self != Self::None {
            self.allow_into(&mut fields);
            fields.push(("Access-Control-Allow-Methods", methods));
            fields.push(("Access-Control-Allow-Headers", REQUEST_FIELDS));
            fields.push(("Access-Control-Max-Age", PREFLIGHT_MAX_AGE_S));
        }
        fields
    }

    fn allow_into<'a>(&'a self, fields: &mut Fields<'a>) {
        match self {
            Self::None => {}
            Self::Any => fields.push(("Access-Control-Allow-Origin", "*")),
            Self::Origin { origin, credentials } => {
                fields.push(("Access-Control-Allow-Origin", origin));
                if *credentials {
                    fields.push(("Access-Control-Allow-Credentials", "true"));
                }
            }
        }
    }
}

/// The origin of a page's URL.
fn origin_of(url: &[u8]) -> Option<&[u8]> {
    let host = url.windows(3).position(|it| it == b"://")? + 3;
    let len = url[host..].iter().position(|it| b"/?#".contains(it)).unwrap_or(url.len() - host);
    Some(&url[..host + len])
}

#[cfg(test)]
mod tests {
    use super::super::handshake::OriginRule;
    use super::*;
    use crate::http::{HeadLimits, parse_head};
    use crate::ws::Step;

    fn check(rules: &[OriginRule], lines: &str, changes_state: bool) -> Result<Cors, Reject> {
        let request = format!("POST / HTTP/1.1\r\nHost: chat.example\r\n{lines}\r\n");
        match parse_head(request.as_bytes(), &mut 0, &HeadLimits { head_bytes_max: 8192 })? {
            Step::Done(head) => Cors::check(&head, &OriginRules(rules.to_vec()), changes_state),
            Step::NeedMore => panic!("{lines}"),
        }
    }

    fn origin(origin: &str, credentials: bool) -> Result<Cors, Reject> {
        Ok(Cors::Origin { origin: origin.into(), credentials })
    }

    #[test]
    fn the_list_decides() {
        let exact = OriginRule::Exact("https://a.example".into());
        let listed = [OriginRule::SameHost, exact.clone()];
        for (rules, lines, expected) in [
            (&listed[..], "", Ok(Cors::None)),
            (&listed, "Origin: https://a.example\r\n", origin("https://a.example", true)),
            (&listed, "Origin: http://chat.example\r\n", origin("http://chat.example", true)),
            (&listed, "Origin: http://a.example\r\n", Err(Reject::Origin)),
            (&listed, "Origin: https://b.example\r\n", Err(Reject::Origin)),
            (&listed, "Origin: null\r\n", Err(Reject::Origin)),
            (&listed, "Origin: https://a.example\r\nOrigin: https://a.example\r\n", Err(Reject::Origin)),
            (&[OriginRule::Null], "Origin: null\r\n", origin("null", false)),
            (&[OriginRule::Null], "Origin: http://chat.example\r\n", Err(Reject::Origin)),
            (&[OriginRule::Any], "Origin: https://b.example\r\n", Ok(Cors::Any)),
            // What is listed has credentials, whatever else is on the list.
            (&[OriginRule::Any, exact], "Origin: https://a.example\r\n", origin("https://a.example", true)),
        ] {
            assert_eq!(check(rules, lines, true), expected, "{lines}");
            assert_eq!(check(rules, lines, false), expected, "{lines}");
        }
    }

    #[test]
    fn scripts_are_for_listed_pages() {
        let script = |rules: &[OriginRule], lines: &str| {
            let request = format!("GET / HTTP/1.1\r\nHost: chat.example\r\n{lines}\r\n");
            match parse_head(request.as_bytes(), &mut 0, &HeadLimits { head_bytes_max: 8192 }) {
                Ok(Step::Done(head)) => Cors::check_script(&head, &OriginRules(rules.to_vec())).is_ok(),
                _ => panic!("{lines}"),
            }
        };
        let listed = [OriginRule::SameHost, OriginRule::Exact("https://a.example".into())];
        for (lines, expected) in [
            ("", true),
            ("Sec-Fetch-Site: same-origin\r\n", true),
            ("Sec-Fetch-Site: cross-site\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\nReferer: https://a.example/\r\n", true),
            ("Sec-Fetch-Site: cross-site\r\nReferer: https://a.example\r\n", true),
            ("Sec-Fetch-Site: cross-site\r\nReferer: https://a.example.evil/\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\nReferer: https://evil/?https://a.example/\r\n", false),
            ("Sec-Fetch-Site: same-site\r\nReferer: https://b.example/\r\n", false),
            ("Origin: https://b.example\r\nReferer: https://a.example/\r\n", false),
        ] {
            assert_eq!(script(&listed, lines), expected, "{lines}");
        }
        assert!(script(&[OriginRule::Any], "Sec-Fetch-Site: cross-site\r\n"));
    }

    #[test]
    fn frames_are_for_listed_pages() {
        let of = |rules: &[OriginRule]| OriginRules(rules.to_vec()).frame_ancestors();
        let exact = OriginRule::Exact("https://a.example".into());
        let listed = of(&[OriginRule::SameHost, exact.clone(), OriginRule::Null]);
        assert_eq!(listed.as_deref(), Some("frame-ancestors 'self' https://a.example"));
        assert_eq!(of(&[OriginRule::Null]).as_deref(), Some("frame-ancestors 'none'"));
        assert_eq!(of(&[exact, OriginRule::Any]), None);
    }

    #[test]
    fn a_browser_without_an_origin_says_where_a_request_comes_from() {
        let same = [OriginRule::SameHost];
        for (site, refused) in
            [("same-origin", false), ("none", false), ("same-site", true), ("cross-site", true), ("x", true)]
        {
            let lines = format!("Sec-Fetch-Site: {site}\r\n");
            let expected = if refused { Err(Reject::Origin) } else { Ok(Cors::None) };
            assert_eq!(check(&same, &lines, true), expected, "{site}");
            assert_eq!(check(&same, &lines, false), Ok(Cors::None), "{site}: nothing changes");
            assert_eq!(check(&[OriginRule::Any], &lines, true), Ok(Cors::None), "{site}");
            // Where there is an origin, it decides.
            let lines = format!("{lines}Origin: http://chat.example\r\n");
            assert!(check(&same, &lines, true).is_ok(), "{site}");
        }
    }

    #[test]
    fn answers_vary_by_origin() {
        let fields = |cors: &Cors| -> Vec<String> {
            cors.fields().iter().map(|(name, _)| (*name).to_owned()).collect()
        };
        assert_eq!(fields(&Cors::None), ["Vary"]);
        let any = ["Vary", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers"];
        assert_eq!(fields(&Cors::Any), any);
        let listed = Cors::Origin { origin: "https://a.example".into(), credentials: true };
        assert!(listed.fields().contains(&("Access-Control-Allow-Origin", "https://a.example")));
        assert!(listed.fields().contains(&("Access-Control-Allow-Credentials", "true")));
        let preflight = listed.options_fields("POST, OPTIONS", true);
        assert!(preflight.contains(&("Access-Control-Max-Age", PREFLIGHT_MAX_AGE_S)));
        assert!(preflight.contains(&("Access-Control-Allow-Methods", "POST, OPTIONS")));
        assert_eq!(Cors::None.options_fields("POST, OPTIONS", false).len(), 2);
    }
}
