// The transport for networks that let neither a WebSocket nor a stream through: long polling and requests of the plain
// protocol. The client uses the same protocol with it as with the others: it answers the commands itself, as far as
// requests go: messages, their history and recovery. Who is in a room it cannot say.
"use strict";

import { ABNORMAL } from "./stream_source.js";

// How long a poll waits: less than the time-outs of most proxies.
const WAIT_S = 20;
// A browser has six connections to a server without HTTP/2, for all its tabs: of these so many wait at a time. The polls of
// more rooms take turns.
const POLLS_MAX = 2;
const TURN_S = 2;
// The server answers all other requests at once.
const ANSWER_TIMEOUT_MS = 8000;
// A room that keeps no history may lose messages between any two polls: its loss is reported at most this often.
const LOSS_INTERVAL_MS = 1000;
// As many as a room has.
const ALL = 1_000_000;

// Codes of the server, for what it answers by a status here.
const PERMISSION_DENIED = 103;
const METHOD_NOT_FOUND = 104;
const BAD_REQUEST = 107;
const NOT_AVAILABLE = 108;
const TOO_MANY_REQUESTS = 111;
const INVALID_TOKEN = 3500;
const INSUFFICIENT_STATE = 2500;

const randomId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

// The page is one client in all its polls, before and after a reconnect.
const SESSION = randomId();

// The page's own messages, which it knows by the positions in the answers to its requests: the newest ones.
const OWN_MAX = 200;
const own = [];

class OwnMessage {
  constructor(channel, { epoch, offset }, data) {
    Object.assign(this, { channel, epoch, offset, data, isDelivered: false });
    this.delivery = new Promise((resolve) => (this.resolve = resolve));
    own.push(this);
    if (own.length > OWN_MAX) own.shift();
  }

  delivered() {
    this.isDelivered = true;
    this.resolve();
  }
}

/** Marks a publication that is the page's own. */
function claim(channel, epoch, one) {
  const mine = own.find((message) => message.offset === one.offset && message.epoch === epoch && message.channel === channel);
  if (!mine) return one;
  mine.delivered();
  one.info.client = SESSION;
  return one;
}

/** A command is refused: an error of the protocol. Everything else that is thrown here ends the connection. */
class Refusal extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** A room that is polled. */
class PolledRoom {
  constructor(channel, position) {
    this.channel = channel;
    this.position = position; // where the next poll goes on: {epoch, offset}
    this.abort = null; // of the poll that waits
    this.sending = new Set(); // promises of messages that have no answer yet
    this.isLost = false; // messages are missing, and the subscription is to end
  }
}

const show = ({ epoch, offset }) => `${epoch}:${offset}`;

function parse(position) {
  const colon = position.lastIndexOf(":");
  return { epoch: position.slice(0, colon), offset: Number(position.slice(colon + 1)) };
}

/** The name in a token, which the path has to repeat; "": the token has none. */
function nameIn(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0));
    const { sub, info } = JSON.parse(new TextDecoder().decode(bytes));
    return info?.name ?? sub ?? "";
  } catch {
    return "";
  }
}

export class PollTransport {
  static label = "Long polling";
  static hasMembers = false;
  static isStream = false;

  constructor(base, handlers) {
    Object.assign(this, { base, handlers, isCompressed: false });
    this.name = "";
    this.token = "";
    this.ready = null; // the connect command
    this.rooms = new Map(); // channel → PolledRoom
    this.queue = []; // rooms whose poll waits for its turn
    this.polls = 0;
    this.requests = new AbortController();
    queueMicrotask(() => handlers.opened());
  }

  send(frame) {
    for (const line of frame.split("\n")) this.perform(JSON.parse(line));
  }

  close() {
    this.requests.abort();
  }

  end(reason) {
    if (this.requests.signal.aborted) return;
    this.close();
    this.handlers.closed(ABNORMAL, reason);
  }

  reply(line) {
    if (!this.requests.signal.aborted) this.handlers.received(JSON.stringify(line));
  }

  // ---- commands

  async perform({ id, ...command }) {
    const [[method, params]] = Object.entries(command);
    try {
      this.reply({ id, [method]: await this.result(method, params) });
    } catch (error) {
      if (error instanceof Refusal) this.reply({ id, error: { code: error.code, message: error.message } });
      else this.end(error.message);
    }
  }

  async result(method, params) {
    if (method === "connect") return (this.ready = this.connect(params));
    // A failed connect command has its own answer.
    await this.ready.catch(() => new Promise(() => {}));
    switch (method) {
      case "subscribe": return this.subscribe(params);
      case "unsubscribe": return this.unsubscribe(params);
      case "publish": return this.publish(params);
      case "history": return this.history(params);
      case "presence":
      case "presence_stats": throw new Refusal(NOT_AVAILABLE, "not available by long polling");
      default: throw new Refusal(METHOD_NOT_FOUND, "method not found");
    }
  }

  /** Asks the server whether it would take a poll of this user, without one. */
  async connect({ data, token = "" }) {
    this.token = token;
    this.name = nameIn(token) || data.name;
    const { status } = await this.request("poll", {}, { method: "HEAD" });
    if (status === 401) throw new Refusal(INVALID_TOKEN, "invalid token");
    if (status === 400) throw new Refusal(BAD_REQUEST, "bad request");
    // 403: of the room that is the default one, which this user need not join.
    if (status > 299 && status !== 403) throw new Error(`status ${status}`);
    return { client: SESSION };
  }

  async subscribe({ channel, recover = false, epoch, offset }) {
    const batch = await this.poll(channel, { wait: 0, ...(recover && { since: show({ epoch, offset }) }) });
    const room = new PolledRoom(channel, batch.position);
    this.rooms.set(channel, room);
    this.queue.push(room);
    queueMicrotask(() => this.hurry(room));
    const recovered = recover && !batch.gap;
    const publications = recovered ? this.publications(channel, batch) : [];
    return { recoverable: true, ...batch.position, recovered, publications };
  }

  unsubscribe({ channel }) {
    const room = this.rooms.get(channel);
    this.rooms.delete(channel);
    this.queue = this.queue.filter((other) => other !== room);
    room?.abort?.abort();
    return {};
  }

  /** A page of the history, the newest first: of the end, or before `since`. */
  async history({ channel, limit, since }) {
    const query = since ? { since: show({ ...since, offset: Math.max(0, since.offset - 1 - limit) }) } : { history: limit };
    let batch = await this.poll(channel, { wait: 0, ...query });
    if (batch.gap) batch = await this.poll(channel, { wait: 0, history: ALL });
    const publications = this.publications(channel, batch).filter(({ offset }) => !since || offset < since.offset);
    return { ...batch.position, publications: publications.slice(-limit).reverse() };
  }

  async publish({ channel, data }) {
    // Whether the user may publish here, its first message finds out.
    if (data === undefined) return {};
    const room = this.rooms.get(channel);
    const sent = this.sendMessage(channel, JSON.stringify(data)).then((position) => new OwnMessage(channel, position, data));
    const answered = sent.catch(() => {});
    room?.sending.add(answered);
    answered.then(() => room?.sending.delete(answered));
    const { delivery } = await sent;
    if (room && this.isPolled(room)) {
      // Before its delivery, the client would not know the message for its own over another transport.
      this.hurry(room);
      await delivery;
    }
    return {};
  }

  /** Publishes, and tries it again once if there is no answer: the key makes the server publish it once. Returns its position. */
  async sendMessage(channel, body) {
    const headers = { "Content-Type": "application/json", Accept: "application/json", "Idempotency-Key": randomId() };
    const send = () => this.request("send", { room: channel }, { method: "POST", headers, body });
    const response = await send().catch((error) => (this.requests.signal.aborted ? Promise.reject(error) : send()));
    if (response.status === 429) throw new Refusal(TOO_MANY_REQUESTS, "too many requests");
    await this.check(response);
    return parse((await response.json()).position);
  }

  // ---- polls

  pollNext() {
    while (this.queue.length && this.polls < POLLS_MAX && !this.requests.signal.aborted) {
      const room = this.queue.shift();
      this.polls += 1;
      this.pollRoom(room)
        .catch((error) => (error instanceof Refusal ? this.lose(room, error) : this.end(error.message)))
        .finally(() => {
          this.polls -= 1;
          if (this.isPolled(room) && !room.isLost) this.queue.push(room);
          this.pollNext();
        });
    }
  }

  /** A room is polled next: if it waits for its turn, it gets that of the poll that has waited longest. */
  hurry(room) {
    if (!this.queue.includes(room)) return;
    this.queue = [room, ...this.queue.filter((other) => other !== room)];
    if (this.polls >= POLLS_MAX) [...this.rooms.values()].find(({ abort }) => abort)?.abort.abort();
    this.pollNext();
  }

  isPolled(room) {
    return this.rooms.get(room.channel) === room && !this.requests.signal.aborted;
  }

  async pollRoom(room) {
    const wait = this.queue.length ? TURN_S : WAIT_S;
    room.abort = new AbortController();
    let batch;
    try {
      const signal = AbortSignal.any([room.abort.signal, AbortSignal.timeout(wait * 1000 + ANSWER_TIMEOUT_MS)]);
      batch = await this.poll(room.channel, { wait, since: show(room.position) }, signal);
    } catch (error) {
      // Another room takes its turn, or it has been left.
      if (room.abort.signal.aborted) return;
      throw error;
    } finally {
      room.abort = null;
    }
    // Which of the messages are this page's own, the answers to its requests say.
    await Promise.all(room.sending);
    if (!this.isPolled(room)) return;
    if (batch.gap && !(await this.bridge(room, batch.position))) {
      setTimeout(() => this.lose(room, new Refusal(INSUFFICIENT_STATE, "insufficient state")), LOSS_INTERVAL_MS);
      room.isLost = true;
      return;
    }
    for (const one of this.publications(room.channel, batch)) this.deliver(room, one);
    room.position = batch.position;
  }

  /** Over a gap up to `position`: of a room that keeps nothing, the page has its own messages. Returns whether these are all. */
  async bridge(room, { epoch, offset }) {
    const { messages } = await this.poll(room.channel, { wait: 0, history: 1 });
    if (messages.length || epoch !== room.position.epoch || !this.isPolled(room)) return false;
    const isMissing = (mine) => mine.channel === room.channel && mine.epoch === epoch && !mine.isDelivered && mine.offset <= offset;
    const missing = own.filter(isMissing).sort((one, other) => one.offset - other.offset);
    for (const mine of missing) {
      this.deliver(room, claim(room.channel, epoch, { data: mine.data, info: {}, time: Date.now(), offset: mine.offset }));
    }
    return missing.length === offset - room.position.offset;
  }

  /** The messages of a batch as publications of the protocol. */
  publications(channel, { messages, position: { epoch } }) {
    return messages.map(({ position, name, text, time, client }) =>
      claim(channel, epoch, { data: { name, text }, info: { client }, time, ...(position && { offset: parse(position).offset }) }));
  }

  deliver(room, one) {
    this.reply({ push: { channel: room.channel, pub: one } });
  }

  /** The subscription ends. After `INSUFFICIENT_STATE` the client makes a new one, from its position. */
  lose(room, { code, message }) {
    if (!this.isPolled(room)) return;
    this.rooms.delete(room.channel);
    this.reply({ push: { channel: room.channel, unsubscribe: { code, reason: message } } });
  }

  // ---- requests

  /** What a poll brings: {position, messages, gap}. */
  async poll(channel, query, signal) {
    const response = await this.request("poll", { room: channel, session: SESSION, ...query }, { signal });
    await this.check(response);
    if (response.status === 204) return { position: parse(response.headers.get("Stentor-Position")), messages: [], gap: false };
    const { position, messages, gap = false } = await response.json();
    return { position: parse(position), messages, gap };
  }

  request(path, query, { signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS), headers, ...options }) {
    const url = `${this.base}/${path}/${encodeURIComponent(this.name)}?${new URLSearchParams(query)}`;
    return fetch(url, {
      cache: "no-store",
      credentials: "same-origin",
      headers: { ...headers, ...(this.token && { Authorization: `Bearer ${this.token}` }) },
      signal: AbortSignal.any([this.requests.signal, signal]),
      ...options,
    });
  }

  /** Throws if the server has refused a request of a room: a `Refusal` if only this request is wrong. */
  async check(response) {
    const { status, ok } = response;
    if (ok) return;
    const sentence = (await response.text()).trim().replace(/\.$/, "");
    if (status === 403) throw new Refusal(PERMISSION_DENIED, "permission denied");
    if ([400, 413, 415].includes(status)) throw new Refusal(BAD_REQUEST, sentence || `status ${status}`);
    throw new Error(`status ${status}`);
  }
}
