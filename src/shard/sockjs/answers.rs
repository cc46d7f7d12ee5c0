//! The answers that are the same for every session: what the service is, and what browsers ask before they
//! send anything.

use super::Service;
use crate::app::sockjs;
use crate::base::ConnKey;
use crate::http::{Fields, Head, Precondition, Reject, Response, StatusCode};
use crate::shard::Shard;
use crate::shard::http::Exchange;

/// The media types, as the public suite compares them.
pub(in crate::shard) const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json; charset=UTF-8";

/// Nothing of a session may be kept by a cache.
const NO_CACHE: (&str, &str) =
    ("Cache-Control", "no-store, no-cache, no-transform, must-revalidate, max-age=0");

/// How long what never changes is kept: a year, in seconds.
const YEAR: &str = "31536000";
const KEPT: (&str, &str) = ("Cache-Control", "public, max-age=31536000");
const EXPIRES: (&str, &str) = ("Expires", "Thu, 31 Dec 2037 23:55:55 GMT");

/// How long the page for iframes is kept: it has the list of the origins that may show it.
const KEPT_SHORTLY: (&str, &str) = ("Cache-Control", "public, max-age=600");

/// How long a browser keeps what it may do, where it is for pages of listed origins.
const PREFLIGHT_MAX_AGE_S: &str = "600";

/// What the answers of SockJS have beside what all answers have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::shard) struct Answers {
    /// The cookie by which a load balancer finds a session's server again.
    pub(super) cookie: Option<Box<str>>,
}

impl Answers {
    /// The fields; `is_cached`: something else decides what caches do.
    pub(in crate::shard) fn fields_into<'a>(&'a self, fields: &mut Fields<'a>, is_cached: bool) {
        if !is_cached {
            fields.push(NO_CACHE);
        }
        fields.extend(self.cookie.as_deref().map(|cookie| ("Set-Cookie", cookie)));
    }
}

/// The cookie of a session, where the service has it: the client's own, or one that stands for none.
pub(super) fn cookie_of(service: Service, head: &Head<'_>) -> Option<Box<str>> {
    if !matches!(service, Service::Echo { cookie: true, .. }) {
        return None;
    }
    let is_valid = |value: &&str| {
        !value.is_empty() && value.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it))
    };
    let value = head.fields("Cookie").find_map(|field| {
        let pairs = std::str::from_utf8(field).ok()?.split(';').map(str::trim);
        pairs.filter_map(|pair| pair.strip_prefix("JSESSIONID=")).find(is_valid)
    });
    Some(format!("JSESSIONID={}; Path=/", value.unwrap_or("dummy")).into())
}

/// An answer without content.
pub(super) const fn empty<'a>(status: StatusCode, fields: &'a [(&'a str, &'a str)]) -> Response<'a> {
    Response { fields, ..Response::new(status, "", b"") }
}

impl Shard {
    pub(super) fn greet(&mut self, key: ConnKey, exchange: &Exchange) -> Result<(), Reject> {
        self.metrics.requests.add(1);
        self.respond(key, exchange, true, |out, options| {
            Response::new(StatusCode::OK, TEXT, b"Welcome to SockJS!\n").with(options).write_into(out);
        });
        Ok(())
    }

    pub(super) fn answer_info(
        &mut self,
        key: ConnKey,
        service: Service,
        exchange: &Exchange,
    ) -> Result<(), Reject> {
        let (websocket, cookie) = match service {
            Service::Echo { websocket, cookie } => (websocket, cookie),
            Service::Rooms | Service::Close => (true, false),
        };
        let entropy = self.rng.next_u64() >> 32;
        let info = format!(
            "{{\"websocket\":{websocket},\"cookie_needed\":{cookie},\"origins\":[\"*:*\"],\"entropy\":{entropy}}}"
        );
        self.metrics.requests.add(1);
        self.respond(key, exchange, true, |out, options| {
            Response::new(StatusCode::OK, JSON, info.as_bytes()).with(options).write_into(out);
        });
        Ok(())
    }

    /// The page that a page of another origin loads into a frame, where its browser cannot do better.
    pub(super) fn answer_iframe(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        service: Service,
        exchange: &Exchange,
    ) -> Result<(), Reject> {
        let mut url = Vec::new();
        sockjs::quote_into(&mut url, &self.options.sockjs_script);
        let page = IFRAME.replace("URL", std::str::from_utf8(&url).unwrap_or_default());
        // It sends for the page around it, but its requests have this server's own origin.
        let is_room = service == Service::Rooms;
        let ancestors = if is_room { self.options.origins.frame_ancestors() } else { None };
        let etag = format!("\"{:016x}\"", self.mesh.seed().hash(&(&page, &ancestors)));
        let status = match head.precondition(&etag) {
            Precondition::Holds => StatusCode::OK,
            Precondition::NotModified => StatusCode::NOT_MODIFIED,
            Precondition::Failed => return Err(Reject::Precondition),
        };
        self.metrics.requests.add(1);
        let exchange = Exchange { sockjs: None, ..exchange.clone() };
        self.respond(key, &exchange, true, |out, options| {
            let mut fields = if is_room { vec![KEPT_SHORTLY] } else { vec![KEPT, EXPIRES] };
            fields.push(("ETag", etag.as_str()));
            fields.extend(ancestors.as_deref().map(|it| ("Content-Security-Policy", it)));
            let response = Response::new(status, "text/html; charset=UTF-8", page.as_bytes());
            Response { fields: &fields, ..response }.with(options).write_into(out);
        });
        Ok(())
    }

    /// What a page may send.
    pub(super) fn answer_sockjs_options(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        service: Service,
        methods: &'static str,
        exchange: &Exchange,
    ) {
        let requested = head.only_field("Access-Control-Request-Headers").unwrap_or_default();
        let is_field_list = |it: &u8| it.is_ascii_alphanumeric() || b"-_, ".contains(it);
        let requested =
            std::str::from_utf8(requested).ok().filter(|it| it.bytes().all(|it| is_field_list(&it)));
        let max_age = if service == Service::Rooms { PREFLIGHT_MAX_AGE_S } else { YEAR };
        let mut fields = vec![
            ("Allow", methods),
            ("Access-Control-Allow-Methods", methods),
            ("Access-Control-Max-Age", max_age),
        ];
        if service != Service::Rooms {
            fields.extend([KEPT, EXPIRES]);
        }
        fields.extend(requested.filter(|it| !it.is_empty()).map(|it| ("Access-Control-Allow-Headers", it)));
        self.metrics.requests.add(1);
        let exchange = Exchange { sockjs: None, ..exchange.clone() };
        self.respond(key, &exchange, true, |out, options| {
            empty(StatusCode::NO_CONTENT, &fields).with(options).write_into(out);
        });
    }
}

/// The page, in which the client's script is the one that `sockjs_script` names.
const IFRAME: &str = r#"<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src=URL></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>
"#;
