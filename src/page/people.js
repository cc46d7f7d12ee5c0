// Who is in a room: kept up to date by who comes and goes, or only counted where there are too many.
"use strict";

import { count, make, shownName } from "./text.js";
import { face } from "./timeline.js";

const SHOWN_MAX = 300;
// With no more than this, a list that does not agree with the server's count is asked for again; with more, nobody tells who
// has gone, and names would soon be wrong.
const LISTED_MAX = 500;

/** What to call somebody: what the server says of a client comes before what it says of itself. */
export function nameOf(info, data) {
  const called = info?.conn_info?.name ?? (info?.user || data?.name);
  return typeof called === "string" && called !== "" ? called : "somebody";
}

export class People {
  constructor() {
    this.clients = new Map(); // client → {user, name}
    this.total = 0;
    this.known = false;
    // What came while the list was on its way.
    this.moves = null;
  }

  /** The list is asked for: what is told from now on is newer than what it will say. */
  ask() {
    this.moves = [];
  }

  /** The list has come; `truncated`: there are more than it names. */
  set({ presence = {}, truncated = false, num_clients: total }) {
    const moves = this.moves ?? [];
    this.moves = null;
    this.clients = new Map(Object.entries(presence).map(([client, info]) => [client, person(info)]));
    this.total = truncated ? total ?? this.clients.size : this.clients.size;
    this.known = true;
    for (const move of moves) move();
  }

  /** Somebody came: false if that was known. */
  join(info) {
    this.moves?.push(() => this.join(info));
    if (this.clients.has(info.client)) return false;
    this.clients.set(info.client, person(info));
    this.total += 1;
    return true;
  }

  /** Somebody went: false if that was known. */
  leave(info) {
    this.moves?.push(() => this.leave(info));
    if (!this.clients.delete(info.client)) return false;
    this.total -= 1;
    return true;
  }

  /** The server has counted. Whether the list should be asked for again. */
  counted(total) {
    const differs = total !== this.total;
    this.total = total;
    if (differs && total > LISTED_MAX) this.clients.clear();
    return differs && total <= LISTED_MAX;
  }

  /** How many connections are not in the list. */
  get others() {
    return Math.max(0, this.total - this.clients.size);
  }

  /** Whether somebody of this name is still there. */
  has(name) {
    return [...this.clients.values()].some((person) => person.name === name);
  }

  /** One item for each name, one's own first. */
  draw(list, own) {
    const byName = new Map();
    for (const [client, { name }] of this.clients) {
      const entry = byName.get(name) ?? { name, connections: 0, own: false };
      entry.connections += 1;
      entry.own ||= own.has(client);
      byName.set(name, entry);
    }
    const sorted = [...byName.values()].sort((a, b) => b.own - a.own || a.name.localeCompare(b.name));
    const items = sorted.slice(0, SHOWN_MAX).map(personItem);
    const hidden = sorted.slice(SHOWN_MAX).reduce((sum, { connections }) => sum + connections, this.others);
    if (hidden) items.push(make("li.others", sorted.length ? `and ${count(hidden, "other")}` : count(hidden, "person", "people")));
    list.replaceChildren(...items);
  }
}

const person = (info) => ({ user: info.user ?? "", name: nameOf(info) });

function personItem({ name, connections, own }) {
  const item = make("li.person", face(name), make("bdi.who", shownName(name)));
  if (own) item.append(make("span.aside", "you"));
  if (connections > 1) item.append(make("span.aside", `× ${connections}`));
  return item;
}
