// A client of the Centrifuge JSON protocol over one transport at a time: the part of the protocol that a chat page needs.
//
// It reconnects automatically, by another transport if need be, and recovers its subscriptions from their positions. It depends
// neither on chat nor on the page.
"use strict";

// The delay before attempt n is random in 0 … min(cap, base × 2ⁿ): full jitter, so that the clients of a restarted server do
// not reconnect at the same moment.
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 20_000;
// After a connection that lasted this long, the backoff starts again at its base.
const STABLE_MS = 10_000;
// The server's time for a command; for the connect command the transports say it.
const COMMAND_TIMEOUT_MS = 5_000;
// While the transport is not that of first choice, the latter is tried again at this interval, on average.
const UPGRADE_INTERVAL_MS = 4 * 60 * 1000;
// How often the client looks whether no command is in flight, so that it may change the transport.
const IDLE_CHECK_MS = 200;
// A ping may be this much later than the announced interval.
const PING_GRACE_MS = 10_000;
// What arrives within this time after the connect command is the beginning of a connection.
const BEGINNING_MS = 1000;
// Commands of one turn are sent in one frame up to this length, because the server bounds the length of a message.
const BATCH_LENGTH_MAX = 16 * 1024;
// Commands whose round trip is the latency: those that the server answers without reading a history.
const MEASURED = new Set(["publish", "presence_stats"]);

/** Errors of this client. The codes of the server's errors begin at 100. */
export const TIMEOUT = { code: 1, message: "the server did not answer" };
export const CLOSED = { code: 2, message: "the connection was lost" };

// Close codes of this client.
const BAD_FRAME = 4000;
const NO_PING = 4001;
const TIMED_OUT = 4002;
const CHANGED = 4005;

// Codes of the server.
const GOING_AWAY = 1001;
const SERVICE_RESTART = 1012;
const TRY_AGAIN = 1013;
const MESSAGE_TOO_BIG = 1009;
const UNRECOVERABLE_POSITION = 2502;
const PERMISSION_DENIED = 103;
const TOKEN_EXPIRED = 109;
const ALREADY_SUBSCRIBED = 105;

/** Whether the client stays disconnected after a close with `code`. The range decides, which covers unknown codes. */
export const isFinal = (code) =>
  code === MESSAGE_TOO_BIG || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);

/** Whether the server has closed a connection with this code: then the transport works. */
const isFromServer = (code) =>
  [GOING_AWAY, SERVICE_RESTART, TRY_AGAIN].includes(code) || (code >= 3000 && ![BAD_FRAME, NO_PING, TIMED_OUT].includes(code));

/** Whether a command that failed with this error may be repeated unchanged. */
const isTemporary = (error) => error.temporary === true || error.code < 100;

const backoffMs = (attempts) => Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** attempts);

/** The subscription to one channel, across connections. */
class Subscription {
  constructor(channel, handlers, needsStream) {
    this.channel = channel;
    this.handlers = handlers;
    this.needsStream = needsStream;
    this.active = false;
    // Made by the server: the client sends no subscribe command for it.
    this.serverSide = false;
    this.position = null; // {offset, epoch}
    this.attempts = 0;
    this.timer = null;
  }

  params() {
    const { channel, position } = this;
    return position ? { channel, recover: true, ...position } : { channel };
  }

  activate(result) {
    this.active = true;
    this.attempts = 0;
    const publications = result.publications ?? [];
    if (result.recoverable) this.position = { offset: result.offset ?? 0, epoch: result.epoch ?? "" };
    for (const publication of publications) this.advance(publication);
    this.handlers.subscribed(result, publications);
  }

  advance(publication) {
    if (this.position && publication.offset) this.position.offset = publication.offset;
  }

  suspend() {
    clearTimeout(this.timer);
    if (!this.active) return;
    this.active = false;
    this.handlers.suspended();
  }
}

/**
 * The client. `transports`: see transports.js. `handlers` are called on the events of the connection:
 * `connecting()`, `connected({client, isChange})` (`isChange`: the client itself has ended the connection before, for a better
 * transport), `latency(ms)` with the round trip of a command,
 * `waiting(ms, {code, message, reached, found})` before the next attempt (`reached`: the connection that ended was
 * established; `found`: the reason that the transports have found for a failure),
 * `disconnected({code, message})` when the client does not reconnect,
 * and `serverSubscribed(channel)`, which returns the handlers of a server-side subscription.
 */
export class Client {
  constructor(transports, { data, token = "" }, handlers) {
    this.transports = transports;
    this.credentials = { data, token };
    this.handlers = handlers;
    this.subscriptions = new Map();
    this.transport = null;
    this.isOpen = false; // the connect command has been sent
    this.isConnected = false; // it has succeeded
    this.isChange = false; // the client has closed the connection before, to change the transport
    this.isEnabled = false; // between connect() and a final close
    this.lastId = 0;
    this.pending = new Map(); // id → {method, resolve, reject, timer}
    this.outgoing = [];
    this.attempts = 0;
    this.failures = 0;
    this.beginnings = 0; // connections in a row of which only the beginning has arrived
    this.timer = null;
    this.connectTimer = null;
    this.pingTimer = null;
    this.upgradeTimer = null;
    this.pingMs = 0;
    this.receivedAt = 0;
    this.connectedAt = 0;
  }

  // ---- public methods

  /** Connects; a client that waits for its next attempt connects immediately. */
  connect() {
    this.isEnabled = true;
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.transport) this.open();
  }

  /** Disconnects and does not reconnect. */
  disconnect() {
    this.isEnabled = false;
    clearTimeout(this.timer);
    this.close(1000, "");
  }

  /** Whether the transport tells who is in a room. */
  get hasMembers() { return this.transports.current.hasMembers; }

  /** Subscribes to `channel`. `handlers`: `subscribed(result, publications)`, `publication`, `join`, `leave`, `suspended()`,
   * `unsubscribed({code, message})`. `needsStream`: only while the server can send by itself. */
  subscribe(channel, handlers, { needsStream = false } = {}) {
    const subscription = new Subscription(channel, handlers, needsStream);
    this.subscriptions.set(channel, subscription);
    if (this.isOpen) this.sendSubscribe(subscription);
    return subscription;
  }

  /** Ends the subscription to `channel`. */
  unsubscribe(channel) {
    const subscription = this.subscriptions.get(channel);
    if (!subscription) return;
    clearTimeout(subscription.timer);
    this.subscriptions.delete(channel);
    // The ping timer detects a connection that does not answer this.
    if (this.isOpen) this.request("unsubscribe", { channel }).catch(() => {});
  }

  publish(channel, data) { return this.command("publish", { channel, data }); }

  /** Whether this client may publish in `channel`: a publish command without data is refused either for that or for the data. */
  async mayPublish(channel) {
    try {
      await this.command("publish", { channel });
    } catch ({ code }) {
      return code !== PERMISSION_DENIED;
    }
    return true;
  }

  presence(channel) { return this.command("presence", { channel }); }
  presenceStats(channel) { return this.command("presence_stats", { channel }); }
  history(channel, options) { return this.command("history", { channel, ...options }); }

  // ---- commands and replies

  command(method, params) {
    return this.isConnected ? this.request(method, params) : Promise.reject(CLOSED);
  }

  /** The reply, later: pushes that stand behind it in a frame are handled before it. */
  request(method, params) {
    return new Promise((resolve, reject) => this.perform(method, params, resolve, reject));
  }

  /** Sends a command. Its reply goes to `resolve` or `reject` in its place among the pushes. */
  perform(method, params, resolve, reject) {
    const id = ++this.lastId;
    this.send({ id, [method]: params });
    const timer = setTimeout(() => {
      this.pending.delete(id);
      reject(TIMEOUT);
    }, COMMAND_TIMEOUT_MS);
    this.pending.set(id, { method, resolve, reject, timer, sentAt: performance.now() });
  }

  send(command) {
    if (this.outgoing.length === 0) queueMicrotask(() => this.flush());
    this.outgoing.push(JSON.stringify(command));
  }

  flush() {
    const lines = this.outgoing;
    this.outgoing = [];
    if (!this.isOpen) return;
    let frame = "";
    for (const line of lines) {
      if (frame && frame.length + line.length > BATCH_LENGTH_MAX) {
        this.transport.send(frame);
        frame = "";
      }
      frame = frame ? `${frame}\n${line}` : line;
    }
    if (frame) this.transport.send(frame);
  }

  receive(frame) {
    this.receivedAt = performance.now();
    let replies;
    try {
      replies = frame.split("\n").filter(Boolean).map((line) => JSON.parse(line));
    } catch {
      return this.close(BAD_FRAME, "bad frame");
    }
    const { transport } = this;
    for (const reply of replies) {
      // What follows the end of the connection is not processed.
      if (this.transport !== transport) return;
      if (reply.id) this.receiveReply(reply);
      else if (reply.push) this.receivePush(reply.push);
      else this.receivePing();
    }
  }

  receiveReply(reply) {
    const request = this.pending.get(reply.id);
    if (!request) return;
    this.pending.delete(reply.id);
    clearTimeout(request.timer);
    if (MEASURED.has(request.method)) this.handlers.latency(performance.now() - request.sentAt);
    if (reply.error) request.reject(reply.error);
    else request.resolve(reply[request.method] ?? {});
  }

  // ---- the connection

  open() {
    if (!this.isChange) this.handlers.connecting();
    this.connectedAt = 0;
    this.isAnswered = false; // the server has answered the connect command
    this.connectTimer = setTimeout(() => this.close(TIMED_OUT, "connect timed out"), this.transports.timeoutMs);
    const transport = this.transports.open({
      opened: () => this.transport === transport && this.sendConnect(),
      received: (frame) => this.transport === transport && this.receive(frame),
      closed: (code, reason) => this.transport === transport && this.closed(code, reason),
    });
    this.transport = transport;
  }

  /** Sends the connect command and all subscribe commands in one frame. */
  sendConnect() {
    this.isOpen = true;
    const { data, token } = this.credentials;
    const subs = {};
    for (const { channel, serverSide, position } of this.subscriptions.values()) {
      if (serverSide && position) subs[channel] = { recover: true, ...position };
    }
    const params = { data, name: "stentor-page", ...(token && { token }), ...(Object.keys(subs).length && { subs }) };
    this.perform("connect", params, (result) => this.connectSucceeded(result), (error) => this.connectFailed(error));
    for (const subscription of this.subscriptions.values()) {
      if (!subscription.serverSide) this.sendSubscribe(subscription);
    }
  }

  connectSucceeded(result) {
    clearTimeout(this.connectTimer);
    this.isAnswered = true;
    this.transports.worked();
    this.isConnected = true;
    this.connectedAt = performance.now();
    this.pingMs = (result.ping ?? 0) * 1000;
    this.sendsPongs = result.pong === true;
    this.failures = 0;
    this.checkPings();
    this.scheduleUpgrade();
    this.handlers.connected({ client: result.client, isChange: this.isChange });
    this.isChange = false;
    const subs = result.subs ?? {};
    for (const [channel, sub] of Object.entries(subs)) this.addServerSubscription(channel, sub);
    for (const subscription of [...this.subscriptions.values()]) {
      if (subscription.serverSide && !subs[subscription.channel]) {
        this.endSubscription(subscription, { code: 2000, message: "the subscription has ended" });
      }
    }
  }

  connectFailed(error) {
    if (!this.transport || error === CLOSED) return;
    this.isAnswered = error.code >= 100;
    if (error.code !== TOKEN_EXPIRED && isTemporary(error)) return this.close(TIMED_OUT, error.message);
    this.isEnabled = false;
    this.close(1000, "");
    this.handlers.disconnected(error);
  }

  /** Ends the connection without waiting for the server: it may be unreachable. */
  close(code, reason) {
    const transport = this.transport;
    if (!transport) return;
    transport.close(code, reason);
    this.closed(code, reason);
  }

  closed(code, reason) {
    this.transport = null;
    this.isOpen = false;
    this.isConnected = false;
    this.outgoing = [];
    for (const timer of [this.connectTimer, this.pingTimer, this.upgradeTimer]) clearTimeout(timer);
    this.checkBeginning(code);
    if (this.connectedAt && performance.now() - this.connectedAt > STABLE_MS) this.attempts = 0;
    const pending = [...this.pending.values()];
    this.pending.clear();
    for (const { reject, timer } of pending) {
      clearTimeout(timer);
      reject(CLOSED);
    }
    for (const subscription of this.subscriptions.values()) subscription.suspend();
    if (!this.isEnabled) return;
    if (isFinal(code)) {
      this.isEnabled = false;
      this.handlers.disconnected({ code, message: reason });
    } else {
      this.reconnect({ code, message: reason, reached: this.connectedAt > 0 });
    }
  }

  /** A proxy may pass on no more than the beginning of a stream: a connection of which only that has arrived, the second one
   * in a row, counts as one that was not established. */
  checkBeginning(code) {
    if (!this.connectedAt) return;
    const { isFirst, current } = this.transports;
    const hasOnlyBegun = !isFirst && current.isStream && !isFromServer(code) && this.receivedAt < this.connectedAt + BEGINNING_MS;
    this.beginnings = hasOnlyBegun ? this.beginnings + 1 : 0;
    if (this.beginnings < 2) return;
    this.beginnings = 0;
    this.connectedAt = 0;
    this.isAnswered = false;
  }

  /** Tries the next transport at once if it is the present one that fails; else the same again, later. */
  async reconnect(reason) {
    const isCurrent = () => this.isEnabled && !this.transport && this.timer === null;
    if (reason.code === CHANGED) return this.connect();
    this.isChange = false;
    let found = null;
    if (!reason.reached) {
      this.failures += 1;
      const mayBeTheTransport = !this.isAnswered && !isFromServer(reason.code);
      found = await this.transports.failed(this.failures, mayBeTheTransport);
      if (!isCurrent()) return;
      if (found.isNext) return this.open();
    }
    const delay = backoffMs(this.attempts);
    this.attempts += 1;
    this.timer = setTimeout(() => this.connect(), delay);
    this.handlers.waiting(delay, { ...reason, found });
  }

  // ---- the transport of first choice

  scheduleUpgrade() {
    clearTimeout(this.upgradeTimer);
    if (this.transports.isFirst) return;
    this.upgradeTimer = setTimeout(() => this.upgrade(), UPGRADE_INTERVAL_MS * (0.5 + Math.random()));
  }

  /** Changes to the transport of first choice, if that is available by now. */
  async upgrade() {
    const { transport } = this;
    if (!this.isConnected || this.transports.isFirst) return;
    clearTimeout(this.upgradeTimer);
    const isAvailable = await this.transports.isFirstAvailable();
    if (this.transport !== transport) return;
    if (isAvailable) this.changeWhenIdle(transport);
    else this.scheduleUpgrade();
  }

  /** A command in flight would be lost with the connection: the client waits for its reply. */
  changeWhenIdle(transport) {
    if (this.transport !== transport) return;
    if (this.pending.size || this.outgoing.length) {
      this.upgradeTimer = setTimeout(() => this.changeWhenIdle(transport), IDLE_CHECK_MS);
      return;
    }
    this.transports.useFirst();
    this.isChange = true;
    this.close(CHANGED, "another transport");
  }

  // ---- pings

  receivePing() {
    if (this.sendsPongs) this.send({});
  }

  /** Ends a connection on which nothing has arrived for too long. One timer serves all frames of an interval. */
  checkPings() {
    clearTimeout(this.pingTimer);
    if (!this.isConnected || !this.pingMs) return;
    const remaining = this.receivedAt + this.pingMs + PING_GRACE_MS - performance.now();
    if (remaining <= 0) this.close(NO_PING, "no ping");
    else this.pingTimer = setTimeout(() => this.checkPings(), remaining);
  }

  // ---- subscriptions

  sendSubscribe(subscription) {
    if (subscription.needsStream && !this.transports.current.isStream) return;
    const isCurrent = () => this.subscriptions.get(subscription.channel) === subscription;
    const succeeded = (result) => isCurrent() && subscription.activate(result);
    const failed = (error) => isCurrent() && this.subscribeFailed(subscription, error);
    this.perform("subscribe", subscription.params(), succeeded, failed);
  }

  subscribeFailed(subscription, error) {
    if (error.code === CLOSED.code) return; // sent again on the next connection
    if (error.code === ALREADY_SUBSCRIBED && subscription.serverSide) return;
    if (error.code === TIMEOUT.code) return this.close(TIMED_OUT, "subscribe timed out");
    if (!isTemporary(error)) return this.endSubscription(subscription, error);
    const delay = backoffMs(subscription.attempts);
    subscription.attempts += 1;
    subscription.timer = setTimeout(() => this.isConnected && this.sendSubscribe(subscription), delay);
  }

  endSubscription(subscription, reason) {
    subscription.suspend();
    this.subscriptions.delete(subscription.channel);
    subscription.handlers.unsubscribed(reason);
  }

  addServerSubscription(channel, result) {
    let subscription = this.subscriptions.get(channel);
    if (!subscription) {
      subscription = new Subscription(channel, this.handlers.serverSubscribed(channel));
      this.subscriptions.set(channel, subscription);
    }
    subscription.serverSide = true;
    subscription.activate(result);
  }

  receivePush({ channel = "", ...push }) {
    if (push.disconnect) return this.close(push.disconnect.code, push.disconnect.reason);
    if (push.subscribe) return this.addServerSubscription(channel, push.subscribe);
    const subscription = this.subscriptions.get(channel);
    if (!subscription) return;
    if (push.pub) {
      subscription.advance(push.pub);
      subscription.handlers.publication(push.pub);
    } else if (push.join) {
      subscription.handlers.join(push.join.info);
    } else if (push.leave) {
      subscription.handlers.leave(push.leave.info);
    } else if (push.unsubscribe) {
      this.unsubscribedByServer(subscription, push.unsubscribe);
    }
  }

  /** The server has ended a subscription. Below 2500 that is final; from 2500 on the client subscribes again. */
  unsubscribedByServer(subscription, { code, reason }) {
    if (code < 2500) return this.endSubscription(subscription, { code, message: reason });
    subscription.suspend();
    subscription.serverSide = false;
    if (code === UNRECOVERABLE_POSITION) subscription.position = null;
    this.sendSubscribe(subscription);
  }
}
