// Who is typing in the room that is shown. The clients of the page publish that in a room of its own, "typing:" and the
// room's name. It exists where the server is configured for it: rooms of that name keep no history. Elsewhere nothing is shown.
"use strict";

import { nameOf } from "./members.js";
import { make, shownName } from "./text.js";

const PREFIX = "typing:";
// While the user types, that is published this often; a client that has not repeated it for EXPIRY_MS has stopped.
const INTERVAL_MS = 3000;
const EXPIRY_MS = 5000;
// In larger rooms the page does not publish that its user is typing.
const MEMBERS_MAX = 50;
// Clients that are remembered as typing, and how many of their names are shown.
const CLIENTS_MAX = 20;
const NAMES_MAX = 2;

export class Typing {
  /** `line`: the element that names who is typing. */
  constructor(line, client, identity) {
    Object.assign(this, { line, client, identity });
    this.room = null;
    this.channel = "";
    this.isAvailable = false; // the room for it is subscribed to
    this.refused = new Set(); // channels that are not configured for it
    this.clients = new Map(); // client → {name, until}
    this.publishedAt = -Infinity;
    this.isPublished = false;
    this.timer = null;
  }

  /** Shows who is typing in `room`; null: nowhere. */
  show(room) {
    if (room === this.room) return;
    this.stopped();
    if (this.channel) this.client.unsubscribe(this.channel);
    this.forget();
    this.room = room;
    this.channel = "";
    if (!room || room.name.startsWith(PREFIX) || this.refused.has(room.name)) return;
    // The user has opened that room itself.
    if (this.client.subscriptions.has(PREFIX + room.name)) return;
    this.channel = PREFIX + room.name;
    this.client.subscribe(this.channel, this.handlers(room), { needsStream: true });
  }

  handlers(room) {
    const isCurrent = () => this.room === room && this.channel !== "";
    const refuse = () => {
      this.refused.add(room.name);
      this.channel = "";
    };
    return {
      subscribed: ({ recoverable }) => {
        if (!isCurrent()) return;
        this.isAvailable = !recoverable;
        if (this.isAvailable) return;
        // An ordinary room: the server is not configured for typing.
        this.client.unsubscribe(this.channel);
        refuse();
      },
      publication: (publication) => isCurrent() && this.receive(publication),
      join() {},
      leave() {},
      suspended: () => this.forget(),
      unsubscribed: () => isCurrent() && refuse(),
    };
  }

  forget() {
    this.isAvailable = false;
    this.publishedAt = -Infinity;
    this.isPublished = false;
    this.clients.clear();
    this.draw();
  }

  // ---- the user

  /** The user has changed the text, which is empty or not. */
  typed(isEmpty) {
    if (isEmpty) return this.stopped();
    const now = performance.now();
    const { members } = this.room ?? {};
    if (!this.isAvailable || now - this.publishedAt < INTERVAL_MS || (members.known && members.total > MEMBERS_MAX)) return;
    this.publishedAt = now;
    this.publish(true);
  }

  /** The user has sent the text or removed it. */
  stopped() {
    if (this.isAvailable && this.isPublished) this.publish(false);
    this.publishedAt = -Infinity;
  }

  publish(typing) {
    this.isPublished = typing;
    // That a client is typing is not worth a second attempt.
    this.client.publish(this.channel, { name: this.identity.name, typing }).catch(() => {});
  }

  // ---- the others

  receive({ data, info }) {
    if (!info?.client || this.identity.owns(info)) return;
    this.clients.delete(info.client);
    if (data?.typing === true && this.clients.size < CLIENTS_MAX) {
      this.clients.set(info.client, { name: nameOf(info, data), until: performance.now() + EXPIRY_MS });
    }
    this.draw();
  }

  /** A message of this client has arrived: it is not typing any more. */
  received(client) {
    if (this.clients.delete(client)) this.draw();
  }

  draw() {
    clearTimeout(this.timer);
    const now = performance.now();
    for (const [client, { until }] of this.clients) {
      if (until <= now) this.clients.delete(client);
    }
    const names = [...new Set([...this.clients.values()].map(({ name }) => name))];
    this.line.replaceChildren(...sentence(names));
    if (!names.length) return;
    const next = Math.min(...[...this.clients.values()].map(({ until }) => until));
    this.timer = setTimeout(() => this.draw(), next - now + 1);
  }
}

function sentence(names) {
  const shown = names.map((name) => make("bdi", shownName(name)));
  if (names.length === 0) return [];
  if (names.length === 1) return [shown[0], " is typing …"];
  if (names.length <= NAMES_MAX) return [shown[0], " and ", shown[1], " are typing …"];
  return [`${names.length} members are typing …`];
}
