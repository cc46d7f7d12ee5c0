//! The chat page: plain HTML, CSS and JavaScript, embedded in the binary. No build step.

#![forbid(unsafe_code)]

use std::sync::LazyLock;

/// One file of the page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asset {
    /// The path under which it is served.
    pub path: &'static str,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its content.
    pub body: &'static [u8],
    /// Its `ETag`, which changes with the content.
    pub etag: String,
}

/// The file at `path`.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

static ASSETS: LazyLock<[Asset; 26]> = LazyLock::new(|| {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    [
        file("/", "text/html; charset=utf-8", include_bytes!("index.html")),
        file("/style.css", "text/css; charset=utf-8", include_bytes!("style.css")),
        file("/favicon.svg", "image/svg+xml", include_bytes!("favicon.svg")),
        file("/chat.js", SCRIPT, include_bytes!("chat.js")),
        file("/centrifuge.js", SCRIPT, include_bytes!("centrifuge.js")),
        file("/transports.js", SCRIPT, include_bytes!("transports.js")),
        file("/transport_websocket.js", SCRIPT, include_bytes!("transport_websocket.js")),
        file("/transport_sse.js", SCRIPT, include_bytes!("transport_sse.js")),
        file("/transport_poll.js", SCRIPT, include_bytes!("transport_poll.js")),
        file("/stream.js", SCRIPT, include_bytes!("stream.js")),
        file("/stream_worker.js", SCRIPT, include_bytes!("stream_worker.js")),
        file("/stream_source.js", SCRIPT, include_bytes!("stream_source.js")),
        file("/state.js", SCRIPT, include_bytes!("state.js")),
        file("/probe.js", SCRIPT, include_bytes!("probe.js")),
        file("/identity.js", SCRIPT, include_bytes!("identity.js")),
        file("/room.js", SCRIPT, include_bytes!("room.js")),
        file("/timeline.js", SCRIPT, include_bytes!("timeline.js")),
        file("/entries.js", SCRIPT, include_bytes!("entries.js")),
        file("/markup.js", SCRIPT, include_bytes!("markup.js")),
        file("/members.js", SCRIPT, include_bytes!("members.js")),
        file("/log.js", SCRIPT, include_bytes!("log.js")),
        file("/rooms.js", SCRIPT, include_bytes!("rooms.js")),
        file("/typing.js", SCRIPT, include_bytes!("typing.js")),
        file("/drawer.js", SCRIPT, include_bytes!("drawer.js")),
        file("/announce.js", SCRIPT, include_bytes!("announce.js")),
        file("/text.js", SCRIPT, include_bytes!("text.js")),
    ]
});

fn file(path: &'static str, content_type: &'static str, body: &'static [u8]) -> Asset {
    // FNV-1a: an ETag must distinguish versions of one file, and needs no cryptographic hash.
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Asset { path, content_type, body, etag: format!("\"{hash:016x}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requested_file_exists() {
        let mut found = 0;
        for asset in ASSETS.iter() {
            let text = str::from_utf8(asset.body).unwrap();
            for before in ["from \"./", "new Worker(\"/", "src=\"/", "href=\"/"] {
                for rest in text.split(before).skip(1) {
                    let path = format!("/{}", rest.split('"').next().unwrap());
                    assert!(super::asset(&path).is_some(), "{} requests {path}", asset.path);
                    found += 1;
                }
            }
        }
        assert!(found > ASSETS.len(), "every file but the first is requested by another one");
    }

    #[test]
    fn no_two_files_have_the_same_etag() {
        let mut tags: Vec<_> = ASSETS.iter().map(|asset| &asset.etag).collect();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), ASSETS.len());
    }
}
