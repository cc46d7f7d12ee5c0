// The transport for networks that let no WebSocket through: replies and pushes come as server-sent events, commands go by
// requests (Centrifuge's emulation). The event stream's address carries the connect command; its reply names the session that
// the requests are for.
"use strict";

import { openStream } from "./stream.js";
import { ABNORMAL } from "./stream_source.js";

// Commands that wait for the request before them are sent in one, up to this length: the server bounds a request's content.
const BATCH_LENGTH_MAX = 16 * 1024;
const TOO_LONG = 413;

export class EventStreamTransport {
  static label = "SSE";
  static hasMembers = true;
  static isStream = true;

  constructor(base, handlers) {
    Object.assign(this, { base, handlers, isCompressed: false });
    this.stream = null;
    this.session = null; // {session, node}, when the connect command has succeeded
    this.frames = []; // not sent yet
    this.isPosting = false;
    this.requests = new AbortController();
    // There is nothing to open before the connect command.
    queueMicrotask(() => handlers.opened());
  }

  send(frame) {
    if (this.stream) {
      this.frames.push(frame);
      return this.post();
    }
    const [connect, ...others] = frame.split("\n");
    if (others.length) this.frames.push(others.join("\n"));
    this.stream = openStream(`${this.base}/connection/sse?cf_connect=${encodeURIComponent(connect)}`, {
      opened() {},
      received: (lines) => this.received(lines),
      closed: (code, reason) => this.end(code, reason),
    });
  }

  received(lines) {
    this.handlers.received(lines);
    if (this.session || this.requests.signal.aborted) return;
    const { connect } = JSON.parse(lines.split("\n", 1)[0]);
    if (!connect) return;
    this.session = { session: connect.session, node: connect.node };
    this.post();
  }

  /** Sends what waits, one request after the other: so the server receives all commands in their order. */
  async post() {
    if (!this.session || this.isPosting) return;
    this.isPosting = true;
    while (this.frames.length && !this.requests.signal.aborted) {
      let data = this.frames.shift();
      while (this.frames.length && data.length + this.frames[0].length < BATCH_LENGTH_MAX) data += `\n${this.frames.shift()}`;
      const status = await this.request(data);
      if (status === TOO_LONG) this.refuse(data);
      else if (status < 200 || status > 299) this.end(ABNORMAL, `commands are refused with status ${status}`);
    }
    this.isPosting = false;
  }

  /** The status of a request with these commands; 0: none. */
  async request(data) {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, signal: this.requests.signal };
    const body = JSON.stringify({ ...this.session, data });
    try {
      return (await fetch(`${this.base}/emulation`, { ...options, body, cache: "no-store", credentials: "same-origin" })).status;
    } catch {
      return 0;
    }
  }

  /** Commands that are too long for a request: the transport answers them itself. */
  refuse(data) {
    for (const line of data.split("\n")) {
      const { id } = JSON.parse(line);
      if (id) this.handlers.received(JSON.stringify({ id, error: { code: 107, message: "the message is too long" } }));
    }
  }

  end(code, reason) {
    if (this.requests.signal.aborted) return;
    this.close(code, reason);
    this.handlers.closed(code, reason);
  }

  close(code, reason) {
    this.requests.abort();
    this.stream?.close(code, reason);
  }
}
