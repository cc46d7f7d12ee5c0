//! The transports over HTTP: in which form each of them has a frame.

use serde_json::json;

use super::Transport;

/// The media type of scripts.
const SCRIPT: &str = "application/javascript; charset=UTF-8";

impl Transport {
    /// Whether its answer goes on after a frame.
    pub(super) const fn is_stream(self) -> bool {
        matches!(self, Self::XhrStreaming | Self::EventSource | Self::HtmlFile)
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Xhr | Self::XhrStreaming | Self::Jsonp => SCRIPT,
            Self::EventSource => "text/event-stream",
            Self::HtmlFile => "text/html; charset=UTF-8",
        }
    }

    /// What an answer that goes on begins with: enough for browsers to pass it on.
    pub(super) fn prelude(self, callback: &str) -> Vec<u8> {
        match self {
            Self::Xhr | Self::Jsonp => Vec::new(),
            Self::XhrStreaming => [&[b'h'; 2048][..], b"\n"].concat(),
            Self::EventSource => b"\r\n".to_vec(),
            Self::HtmlFile => {
                let mut page = HTML_FILE.replace("CALLBACK", callback).into_bytes();
                page.resize(page.len().max(1024) + 1, b' ');
                page.extend_from_slice(b"\r\n\r\n");
                page
            }
        }
    }

    /// A frame as this transport has it.
    pub(super) fn frame(self, callback: &str, frame: &[u8]) -> Vec<u8> {
        let text = || std::str::from_utf8(frame).unwrap_or_default();
        match self {
            Self::Xhr | Self::XhrStreaming => [frame, b"\n"].concat(),
            // Clients decode it as a URI.
            Self::EventSource => format!("data: {}\r\n\r\n", text().replace('%', "%25")).into_bytes(),
            Self::HtmlFile => {
                // Nothing in a message may end the script.
                let script = json!(text()).to_string().replace('<', "\\u003c");
                format!("<script>\np({script});\n</script>\r\n").into_bytes()
            }
            Self::Jsonp => format!("/**/{callback}({});\r\n", json!(text())).into_bytes(),
        }
    }
}

/// The page whose scripts bring the frames.
const HTML_FILE: &str = r#"<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.CALLBACK;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
"#;
