// The members of a room: updated by joins and leaves, or only counted if there are too many.
"use strict";

import { count, make, shownName } from "./text.js";
import { avatar } from "./timeline.js";

const SHOWN_MAX = 300;
// Up to this number, a list that differs from the server's count is loaded again. Above it the server announces no leaves,
// and a list of names would become wrong: only the count is shown.
const LISTED_MAX = 500;

/** A client's name. What the server knows about the client takes precedence over what the client has sent in `data`. */
export function nameOf(info, data) {
  const name = info?.conn_info?.name ?? (info?.user || data?.name);
  return typeof name === "string" && name !== "" ? name : "anonymous";
}

export class Members {
  constructor() {
    this.clients = new Map(); // client → {user, name}
    this.total = 0;
    this.known = false;
    // Joins and leaves that arrive while the list is loaded; null at other times.
    this.changes = null;
  }

  /** The list has been requested: joins and leaves from now on are newer than its content. */
  loading() {
    this.changes = [];
  }

  /** The list has arrived; `truncated`: the room has more members than it names. */
  set({ presence = {}, truncated = false, num_clients: total }) {
    const changes = this.changes ?? [];
    this.changes = null;
    this.clients = new Map(Object.entries(presence).map(([client, info]) => [client, member(info)]));
    this.total = truncated ? total ?? this.clients.size : this.clients.size;
    this.known = true;
    for (const change of changes) change();
  }

  /** Adds a client: false if it is in the list already. */
  join(info) {
    this.changes?.push(() => this.join(info));
    if (this.clients.has(info.client)) return false;
    this.clients.set(info.client, member(info));
    this.total += 1;
    return true;
  }

  /** Removes a client: false if it is not in the list. */
  leave(info) {
    this.changes?.push(() => this.leave(info));
    if (!this.clients.delete(info.client)) return false;
    this.total -= 1;
    return true;
  }

  /** Takes the server's count. Returns whether the list should be loaded again. */
  setTotal(total) {
    const differs = total !== this.total;
    this.total = total;
    if (differs && total > LISTED_MAX) this.clients.clear();
    return differs && total <= LISTED_MAX;
  }

  /** The number of members that are not in the list. */
  get unlisted() {
    return Math.max(0, this.total - this.clients.size);
  }

  /** Whether a member has this name. */
  has(name) {
    return [...this.clients.values()].some((member) => member.name === name);
  }

  /** Draws one item for each name, the user's own first. */
  draw(list, own) {
    const byName = new Map();
    for (const [client, { name }] of this.clients) {
      const entry = byName.get(name) ?? { name, connections: 0, own: false };
      entry.connections += 1;
      entry.own ||= own.has(client);
      byName.set(name, entry);
    }
    const sorted = [...byName.values()].sort((a, b) => b.own - a.own || a.name.localeCompare(b.name));
    const items = sorted.slice(0, SHOWN_MAX).map(memberItem);
    const hidden = sorted.slice(SHOWN_MAX).reduce((sum, { connections }) => sum + connections, this.unlisted);
    if (hidden) items.push(make("li.others", sorted.length ? `and ${count(hidden, "other")}` : count(hidden, "member")));
    list.replaceChildren(...items);
  }
}

const member = (info) => ({ user: info.user ?? "", name: nameOf(info) });

function memberItem({ name, connections, own }) {
  const item = make("li.member", avatar(name), make("bdi.name", shownName(name)));
  if (own) item.append(make("span.aside", "you"));
  if (connections > 1) item.append(make("span.aside", `× ${connections}`));
  return item;
}
