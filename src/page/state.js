// The line about the connection: its state, transport and latency; and while there is none, why, and when the next attempt is.
"use strict";

import { probe } from "./probe.js";

const REASONS = {
  109: "the token has expired",
  1001: "the server is going away",
  1009: "a message was too big for this server",
  1012: "the server is restarting",
  3001: "the server is going away",
  3005: "the token has expired",
  3008: "this page received too slowly",
  3500: "the token is not valid",
  4003: "this page was too slow",
  4004: "there are too many connections",
  3507: "this server requires a token",
};

const element = (id) => document.getElementById(id);

/** Why a connection has ended, or could not be established. */
export const reasonOf = ({ code, message, reached }) =>
  REASONS[code] ?? (reached === undefined ? message || `code ${code}` : reached ? "the connection was lost" : "the server cannot be reached");

export class StateLine {
  /** `changed()` is called when the connection is ready or not ready any more; `explained(reason)` after a probe. */
  constructor({ changed, explained }) {
    Object.assign(this, { changed, explained });
    this.countdown = null;
    this.attemptAt = 0;
    this.known = null; // {reason, advice}, of the last probe
  }

  connecting(wasConnected) {
    this.show(wasConnected ? "reconnecting" : "connecting", "Connecting …");
  }

  connected(transport, compressed) {
    this.known = null;
    this.show("connected", "Connected", { transport });
    element("transport").title = compressed ? "Compressed with permessage-deflate" : "";
  }

  /** The round trip of a command. */
  latency(ms) {
    if (element("state").dataset.state !== "connected") return;
    element("latency").textContent = ms < 1 ? "< 1 ms" : `${Math.round(ms).toLocaleString("en")} ms`;
  }

  waiting(ms, end) {
    this.attemptAt = performance.now() + ms;
    this.showWaiting(end.reached ? { reason: reasonOf(end) } : this.known ?? { reason: reasonOf(end) });
    // A probe is a request to a server that may be overloaded: only of the first, second, fourth, eighth … failure in a row.
    if (!end.reached && (end.failures & (end.failures - 1)) === 0) this.probe();
  }

  async probe() {
    const found = await probe("/connection/websocket");
    this.known = found;
    if (element("state").dataset.state !== "waiting") return;
    this.showWaiting(found);
    this.explained(found.reason);
  }

  showWaiting({ reason, advice = "" }) {
    this.show("waiting", `Not connected: ${reason}.`, { button: "Try now", advice });
    this.countdown = setInterval(() => this.refreshCountdown(), 250);
    this.refreshCountdown();
  }

  disconnected(reason) {
    this.show("disconnected", `Disconnected: ${reason}.`, { button: "Connect" });
  }

  stop() {
    clearInterval(this.countdown);
    this.known = null;
    element("state").dataset.state = "idle";
  }

  show(state, text, { transport = "", button = "", advice = "" } = {}) {
    clearInterval(this.countdown);
    element("state").dataset.state = state;
    element("state-text").textContent = text;
    element("transport").textContent = transport;
    element("latency").textContent = "";
    element("countdown").textContent = "";
    element("advice").textContent = advice;
    element("connect-now").textContent = button;
    element("connect-now").hidden = !button;
    this.changed();
  }

  refreshCountdown() {
    const seconds = Math.max(0, Math.ceil((this.attemptAt - performance.now()) / 1000));
    element("countdown").textContent = `Next attempt in ${seconds} s.`;
  }
}
