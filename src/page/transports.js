// Which transport the page uses: the first of the list that works here. What worked is remembered for a while, also by the
// browser's other pages of this server.
//
// A transport: `new Transport(base, handlers)` with the server's origin and `opened()`, after which frames can be sent, of which
// the first line is the connect command; `received(frame)` with one or more lines; `closed(code, reason)`. It has `send(frame)`,
// `close(code, reason)`, after which no handler is called, and `isCompressed`. Of the class: `label`; `hasMembers`, whether it
// tells who is in a room; `isStream`, whether the server sends by itself.
"use strict";

import { probe } from "./probe.js";
import { EventStreamTransport } from "./transport_sse.js";
import { PollTransport } from "./transport_poll.js";
import { WebSocketTransport } from "./transport_websocket.js";

const ALL = [WebSocketTransport, EventStreamTransport, PollTransport];
const KEY = "stentor.transport";
const REMEMBERED_MS = 15 * 60 * 1000;
// The time for the connect command, from the opening on: less while there is another transport to try. A proxy that collects
// what it passes on lets nothing of a stream through until then.
const TIMEOUT_MS = 10_000;
const TIMEOUT_OF_FIRST_TRY_MS = 5000;

export class Transports {
  constructor(base) {
    this.base = base;
    this.index = remembered();
    this.hasWorked = false; // the current one, in this page
    this.found = null; // {reason, advice}: of the last probe
  }

  get current() {
    return ALL[this.index];
  }

  get isFirst() {
    return this.index === 0;
  }

  get timeoutMs() {
    return this.hasWorked || this.index === ALL.length - 1 ? TIMEOUT_MS : TIMEOUT_OF_FIRST_TRY_MS;
  }

  open(handlers) {
    return new this.current(this.base, handlers);
  }

  /** The server has answered the connect command. */
  worked() {
    this.hasWorked = true;
    this.found = null;
    if (this.isFirst) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, JSON.stringify({ index: this.index, at: Date.now() }));
  }

  /**
   * A connection has failed, as often in a row as `failures` says. Returns why: {reason, advice, isNext}; `isNext`: the next
   * transport is to be tried now. That is so if `isTransport`, the transport may be the cause, and the server answers ordinary
   * requests.
   */
  async failed(failures, isTransport) {
    // A probe is a request to a server that may be overloaded: only of the first, second, fourth, eighth … failure in a row.
    if (this.found && (failures & (failures - 1)) !== 0) return { ...this.found, isNext: false };
    const { isServing, ...found } = await probe("/connection/websocket");
    this.found = found;
    if (!isServing || !isTransport) return { ...found, isNext: false };
    this.select((this.index + 1) % ALL.length);
    return { ...found, isNext: !this.isFirst };
  }

  select(index) {
    this.index = index;
    this.hasWorked = false;
  }

  /** Whether the transport of first choice works by now. */
  isFirstAvailable() {
    return WebSocketTransport.isAvailable(this.base, TIMEOUT_OF_FIRST_TRY_MS);
  }

  useFirst() {
    this.select(0);
  }
}

function remembered() {
  const { index, at } = JSON.parse(localStorage.getItem(KEY) ?? "{}");
  const isRecent = at <= Date.now() && Date.now() - at < REMEMBERED_MS;
  return isRecent && ALL[index] ? index : 0;
}
