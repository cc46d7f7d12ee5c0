//! A client of the JSON protocol that sends commands and waits.

use std::collections::VecDeque;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{Server, Tcp, text};

/// A client that keeps the lines that are not consumed yet.
pub struct Client {
    pub socket: WebSocket<Tcp>,
    lines: VecDeque<Value>,
    id: u64,
}

impl Client {
    pub fn raw(server: &Server) -> Self {
        Self { socket: server.client("/connection/websocket"), lines: VecDeque::new(), id: 0 }
    }

    pub fn connect(server: &Server, name: &str) -> Self {
        let mut client = Self::raw(server);
        let reply = client.ask("connect", json!({"data": {"name": name}}));
        assert_eq!(reply["connect"]["pong"], true, "{reply}");
        client
    }

    pub fn send_line(&mut self, line: &str) {
        self.socket.send(Message::text(line)).expect("JSON, and a connection");
    }

    /// The next line that is no ping.
    pub fn next(&mut self) -> Value {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return line;
            }
            let frame = text(&mut self.socket);
            let lines = frame.lines().map(|line| serde_json::from_str(line).expect("JSON, and a connection"));
            self.lines.extend(lines.filter(|line| *line != json!({})));
        }
    }

    /// Sends a command and waits for its reply; pushes that come before it stay.
    pub fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.id += 1;
        let id = self.id;
        self.send_line(&json!({"id": id, method: parameters}).to_string());
        let mut others = Vec::new();
        loop {
            let line = self.next();
            if line["id"] == id {
                for other in others.into_iter().rev() {
                    self.lines.push_front(other);
                }
                return line;
            }
            others.push(line);
        }
    }

    pub fn result(&mut self, method: &str, parameters: Value) -> Value {
        let reply = self.ask(method, parameters);
        assert_eq!(reply.get("error"), None, "{reply}");
        reply[method].clone()
    }

    pub fn error(&mut self, method: &str, parameters: Value) -> u64 {
        let reply = self.ask(method, parameters);
        reply["error"]["code"].as_u64().unwrap_or_else(|| panic!("no error: {reply}"))
    }

    pub fn publish(&mut self, channel: &str, data: impl Into<Value>) {
        self.result("publish", json!({"channel": channel, "data": data.into()}));
    }

    /// The next push of this kind; others are thrown away.
    pub fn push(&mut self, kind: &str) -> Value {
        loop {
            let line = self.next();
            if let Some(push) = line["push"].get(kind) {
                return push.clone();
            }
        }
    }
}
