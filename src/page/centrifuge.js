// A client of the Centrifuge JSON protocol over one WebSocket, as far as a chat page needs it.
//
// It comes back by itself, and takes its subscriptions up where they stopped. It knows nothing of chat or of the page.
"use strict";

// The wait before try n is random in 0 … min(cap, base × 2ⁿ): full jitter, so that a restart is not followed by everybody
// at the same moment.
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 20_000;
// A connection that lasted this long begins again with the shortest wait.
const STEADY_MS = 10_000;
// How long the server has to let us in, and to answer a command.
const CONNECT_MS = 10_000;
const COMMAND_MS = 5_000;
// How much later than announced a ping may come.
const PING_DELAY_MS = 10_000;
// Commands that are made in one turn travel in one frame, up to this length: the server bounds its messages.
const BATCH_LENGTH_MAX = 16 * 1024;

/** Codes that this client makes itself; the server's begin with 100. */
export const TIMEOUT = { code: 1, message: "the server did not answer" };
export const CLOSED = { code: 2, message: "the connection was lost" };
const BAD_FRAME = 4000;
const NO_PING = 4001;
const TOO_LATE = 4002;

const TOO_BIG = 1009;
const NO_SUCH_POSITION_ANYMORE = 2502;
const TOKEN_EXPIRED = 109;
const ALREADY_SUBSCRIBED = 105;

/** Whether a client stays away after its connection was closed with `code`. The ranges decide, so unknown codes are no riddle. */
export const isFinal = (code) =>
  code === TOO_BIG || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);

/** Whether a command that was refused with this error may be tried again as it is. */
const isTemporary = (error) => error.temporary === true || error.code < 100;

/** One channel, for as long as we want to be in it. */
class Subscription {
  constructor(channel, hooks) {
    this.channel = channel;
    this.hooks = hooks;
    this.active = false;
    // Joined by the server on our behalf: it is not ours to ask for.
    this.byServer = false;
    this.position = null; // {offset, epoch}
    this.tries = 0;
    this.timer = null;
  }

  request() {
    const { channel, position } = this;
    return position ? { channel, recover: true, ...position } : { channel };
  }

  accepted(result) {
    this.active = true;
    this.tries = 0;
    const publications = result.publications ?? [];
    if (result.recoverable) this.position = { offset: result.offset ?? 0, epoch: result.epoch ?? "" };
    for (const publication of publications) this.advance(publication);
    this.hooks.subscribed(result, publications);
  }

  advance(publication) {
    if (this.position && publication.offset) this.position.offset = publication.offset;
  }

  suspend() {
    clearTimeout(this.timer);
    if (!this.active) return;
    this.active = false;
    this.hooks.suspended();
  }
}

/**
 * The client. `hooks` are told what happens to the connection:
 * `connecting()`, `connected({client, transport})`, `waiting(ms, {code, message, reached})` (`reached`: there was a connection),
 * `disconnected({code, message})` for good,
 * and `joined(channel)` → the hooks of a subscription that the server made.
 */
export class Client {
  constructor(url, { data, token = "" }, hooks) {
    this.url = url;
    this.credentials = { data, token };
    this.hooks = hooks;
    this.subscriptions = new Map();
    this.socket = null;
    this.open = false; // let in
    this.wanted = false;
    this.lastId = 0;
    this.asked = new Map(); // id → {resolve, reject, timer}
    this.outgoing = [];
    this.tries = 0;
    this.timer = null;
    this.connectTimer = null;
    this.pingTimer = null;
    this.pingMs = 0;
    this.openedAt = 0;
  }

  // ---- what may be asked of it

  /** Connects, at once if it was waiting to. */
  connect() {
    this.wanted = true;
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.socket) this.dial();
  }

  /** Leaves for good. */
  disconnect() {
    this.wanted = false;
    clearTimeout(this.timer);
    this.hangUp(1000, "");
  }

  /** Wants to be in `channel`. `hooks`: `subscribed(result, publications)`, `publication`, `join`, `leave`, `suspended()`,
   * `unsubscribed({code, message})`. */
  subscribe(channel, hooks) {
    const subscription = new Subscription(channel, hooks);
    this.subscriptions.set(channel, subscription);
    if (this.open) this.askIn(subscription);
    return subscription;
  }

  /** Does not want to be in `channel` any more. */
  unsubscribe(channel) {
    const subscription = this.subscriptions.get(channel);
    if (!subscription) return;
    clearTimeout(subscription.timer);
    this.subscriptions.delete(channel);
    // A connection that does not answer this is noticed by its pings.
    if (this.open) this.ask("unsubscribe", { channel }).catch(() => {});
  }

  publish(channel, data) { return this.command("publish", { channel, data }); }
  presence(channel) { return this.command("presence", { channel }); }
  presenceStats(channel) { return this.command("presence_stats", { channel }); }
  history(channel, options) { return this.command("history", { channel, ...options }); }

  // ---- commands and replies

  command(method, params) {
    return this.open ? this.ask(method, params) : Promise.reject(CLOSED);
  }

  ask(method, params) {
    const id = ++this.lastId;
    this.send({ id, [method]: params });
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.asked.delete(id);
        reject(TIMEOUT);
      }, COMMAND_MS);
      this.asked.set(id, { method, resolve, reject, timer });
    });
  }

  send(command) {
    if (this.outgoing.length === 0) queueMicrotask(() => this.flush());
    this.outgoing.push(JSON.stringify(command));
  }

  flush() {
    const lines = this.outgoing;
    this.outgoing = [];
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    let frame = "";
    for (const line of lines) {
      if (frame && frame.length + line.length > BATCH_LENGTH_MAX) {
        this.socket.send(frame);
        frame = "";
      }
      frame = frame ? `${frame}\n${line}` : line;
    }
    if (frame) this.socket.send(frame);
  }

  receive(frame) {
    this.expectPing();
    let replies;
    try {
      replies = frame.split("\n").filter(Boolean).map((line) => JSON.parse(line));
    } catch {
      return this.hangUp(BAD_FRAME, "bad frame");
    }
    for (const reply of replies) {
      if (reply.id) this.answered(reply);
      else if (reply.push) this.pushed(reply.push);
      else this.pinged();
    }
  }

  answered(reply) {
    const asked = this.asked.get(reply.id);
    if (!asked) return;
    this.asked.delete(reply.id);
    clearTimeout(asked.timer);
    if (reply.error) asked.reject(reply.error);
    else asked.resolve(reply[asked.method] ?? {});
  }

  // ---- the connection

  dial() {
    this.hooks.connecting();
    const socket = new WebSocket(this.url);
    this.socket = socket;
    this.openedAt = 0;
    this.connectTimer = setTimeout(() => this.hangUp(TOO_LATE, "too late"), CONNECT_MS);
    socket.addEventListener("open", () => this.introduce());
    socket.addEventListener("message", ({ data }) => this.socket === socket && this.receive(data));
    socket.addEventListener("close", ({ code, reason }) => {
      if (this.socket === socket) this.closed(code, reason);
    });
  }

  /** Says who we are and which channels we want, in one frame. */
  introduce() {
    const { data, token } = this.credentials;
    const subs = {};
    for (const { channel, byServer, position } of this.subscriptions.values()) {
      if (byServer && position) subs[channel] = { recover: true, ...position };
    }
    const request = { data, name: "stentor-page", ...(token && { token }), ...(Object.keys(subs).length && { subs }) };
    this.ask("connect", request).then((result) => this.welcomed(result), (error) => this.refused(error));
    for (const subscription of this.subscriptions.values()) {
      if (!subscription.byServer) this.askIn(subscription);
    }
  }

  welcomed(result) {
    clearTimeout(this.connectTimer);
    this.open = true;
    this.openedAt = performance.now();
    this.pingMs = (result.ping ?? 0) * 1000;
    this.answersPings = result.pong === true;
    this.expectPing();
    this.hooks.connected({ client: result.client, transport: "WebSocket" });
    const subs = result.subs ?? {};
    for (const [channel, sub] of Object.entries(subs)) this.joinedByServer(channel, sub);
    for (const subscription of [...this.subscriptions.values()]) {
      if (subscription.byServer && !subs[subscription.channel]) this.lose(subscription, { code: 2000, message: "it has ended" });
    }
  }

  refused(error) {
    if (!this.socket || error === CLOSED) return;
    if (error.code !== TOKEN_EXPIRED && isTemporary(error)) return this.hangUp(TOO_LATE, error.message);
    this.wanted = false;
    this.hangUp(1000, "");
    this.hooks.disconnected(error);
  }

  /** Ends this connection without waiting for the other side, which may be gone. */
  hangUp(code, reason) {
    const socket = this.socket;
    if (!socket) return;
    socket.close(code, reason);
    this.closed(code, reason);
  }

  closed(code, reason) {
    this.socket = null;
    this.open = false;
    this.outgoing = [];
    clearTimeout(this.connectTimer);
    clearTimeout(this.pingTimer);
    if (this.openedAt && performance.now() - this.openedAt > STEADY_MS) this.tries = 0;
    const asked = [...this.asked.values()];
    this.asked.clear();
    for (const { reject, timer } of asked) {
      clearTimeout(timer);
      reject(CLOSED);
    }
    for (const subscription of this.subscriptions.values()) subscription.suspend();
    if (!this.wanted) return;
    if (isFinal(code)) {
      this.wanted = false;
      this.hooks.disconnected({ code, message: reason });
    } else {
      this.waitAndConnect({ code, message: reason, reached: this.openedAt > 0 });
    }
  }

  waitAndConnect(why) {
    const wait = Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.tries);
    this.tries += 1;
    this.timer = setTimeout(() => this.connect(), wait);
    this.hooks.waiting(wait, why);
  }

  // ---- silence

  pinged() {
    if (this.answersPings) this.send({});
  }

  expectPing() {
    clearTimeout(this.pingTimer);
    if (!this.open || !this.pingMs) return;
    this.pingTimer = setTimeout(() => this.hangUp(NO_PING, "no ping"), this.pingMs + PING_DELAY_MS);
  }

  // ---- subscriptions

  askIn(subscription) {
    const current = () => this.subscriptions.get(subscription.channel) === subscription;
    this.ask("subscribe", subscription.request()).then(
      (result) => current() && subscription.accepted(result),
      (error) => current() && this.turnedAway(subscription, error),
    );
  }

  turnedAway(subscription, error) {
    if (error.code === CLOSED.code) return; // asked again on the next connection
    if (error.code === ALREADY_SUBSCRIBED && subscription.byServer) return;
    if (error.code === TIMEOUT.code) return this.hangUp(TOO_LATE, "subscribe timed out");
    if (!isTemporary(error)) return this.lose(subscription, error);
    const wait = Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** subscription.tries);
    subscription.tries += 1;
    subscription.timer = setTimeout(() => this.open && this.askIn(subscription), wait);
  }

  lose(subscription, why) {
    subscription.suspend();
    this.subscriptions.delete(subscription.channel);
    subscription.hooks.unsubscribed(why);
  }

  joinedByServer(channel, result) {
    let subscription = this.subscriptions.get(channel);
    if (!subscription) {
      subscription = new Subscription(channel, this.hooks.joined(channel));
      this.subscriptions.set(channel, subscription);
    }
    subscription.byServer = true;
    subscription.accepted(result);
  }

  pushed({ channel = "", ...push }) {
    if (push.disconnect) return this.hangUp(push.disconnect.code, push.disconnect.reason);
    if (push.subscribe) return this.joinedByServer(channel, push.subscribe);
    const subscription = this.subscriptions.get(channel);
    if (!subscription) return;
    if (push.pub) {
      subscription.advance(push.pub);
      subscription.hooks.publication(push.pub);
    } else if (push.join) {
      subscription.hooks.join(push.join.info);
    } else if (push.leave) {
      subscription.hooks.leave(push.leave.info);
    } else if (push.unsubscribe) {
      this.unsubscribed(subscription, push.unsubscribe);
    }
  }

  /** The server has put us out of a channel: from 2500 on only to make us come in again. */
  unsubscribed(subscription, { code, reason }) {
    if (code < 2500) return this.lose(subscription, { code, message: reason });
    subscription.suspend();
    subscription.byServer = false;
    if (code === NO_SUCH_POSITION_ANYMORE) subscription.position = null;
    this.askIn(subscription);
  }
}
