// The line about the connection: its state, transport and latency; and while there is none, why, and when the next attempt is.
"use strict";

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

const FALLBACK = "No WebSocket can be opened from here. The page tries it again every few minutes.";

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
  }

  connecting(wasConnected, { isFirst, current }) {
    this.show(wasConnected ? "reconnecting" : "connecting", isFirst ? "Connecting …" : `Connecting by ${current.label} …`);
  }

  connected({ isFirst, current }, isCompressed) {
    this.show("connected", "Connected", { transport: current.label });
    element("state").classList.toggle("fallback", !isFirst);
    element("transport").title = !isFirst ? FALLBACK : isCompressed ? "Compressed with permessage-deflate" : "";
  }

  /** The round trip of a command. */
  latency(ms) {
    if (element("state").dataset.state !== "connected") return;
    element("latency").textContent = ms < 1 ? "< 1 ms" : `${Math.round(ms).toLocaleString("en")} ms`;
  }

  waiting(ms, end) {
    this.attemptAt = performance.now() + ms;
    const { reason, advice = "" } = end.found ?? { reason: reasonOf(end) };
    this.show("waiting", `Not connected: ${reason}.`, { button: "Try now", advice });
    if (end.found) this.explained(reason);
    this.countdown = setInterval(() => this.refreshCountdown(), 250);
    this.refreshCountdown();
  }

  disconnected(reason) {
    this.show("disconnected", `Disconnected: ${reason}.`, { button: "Connect" });
  }

  stop() {
    clearInterval(this.countdown);
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
