// The transport of first choice: the protocol's frames over a WebSocket.
"use strict";

import { openStream } from "./stream.js";

const urlOf = (base) => `${base.replace(/^http/, "ws")}/connection/websocket`;

export class WebSocketTransport {
  static label = "WebSocket";
  static hasMembers = true;
  static isStream = true;

  constructor(base, handlers) {
    this.isCompressed = false;
    this.stream = openStream(urlOf(base), {
      ...handlers,
      opened: (extensions) => {
        this.isCompressed = extensions.includes("permessage-deflate");
        handlers.opened();
      },
    });
  }

  send(frame) {
    this.stream.send(frame);
  }

  close(code, reason) {
    this.stream.close(code, reason);
  }

  /** Whether a WebSocket can be opened: tried with one that is closed at once. */
  static isAvailable(base, timeoutMs) {
    return new Promise((resolve) => {
      const resolveOnce = (available) => {
        clearTimeout(timer);
        stream.close(1000, "");
        resolve(available);
      };
      const timer = setTimeout(() => resolveOnce(false), timeoutMs);
      const stream = openStream(urlOf(base), { opened: () => resolveOnce(true), received() {}, closed: () => resolveOnce(false) });
    });
  }
}
