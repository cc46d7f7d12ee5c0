// The members of a room: updated by joins and leaves, or only counted if there are too many.
"use strict";

import { markOf } from "./identity.js";
import { count, make, shownName } from "./text.js";
import { avatar } from "./entries.js";

const SHOWN_MAX = 300;
// Up to this number, a list that differs from the server's count is loaded again. Above it the server announces no leaves,
// and a list of names would become wrong: only the count is shown.
const LISTED_MAX = 500;
// Authors that are marked because another one has the same name.
const MARKED_MAX = 1000;

/** A client's name. What the server knows about the client takes precedence over what the client has sent in `data`. */
export function nameOf(info, data) {
  const name = info?.conn_info?.name ?? (info?.user || data?.name);
  return typeof name === "string" && name !== "" ? name : "anonymous";
}

export class Members {
  constructor(identity) {
    this.identity = identity;
    this.clients = new Map(); // client → {id, name, info}
    this.authorsByName = new Map(); // name → Map of author id → number of clients
    this.marked = new Set(); // ids of authors that were in the room together with another one of the same name
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
    this.clear();
    for (const info of Object.values(presence)) this.add(info);
    this.total = truncated ? total ?? this.clients.size : this.clients.size;
    this.known = true;
    for (const change of changes) change();
  }

  /** The list has not arrived; `isUnavailable`: it never will. */
  failed(isUnavailable) {
    this.changes = null;
    if (isUnavailable) this.known = false;
  }

  clear() {
    this.clients.clear();
    this.authorsByName.clear();
  }

  /** Adds a client: false if it is in the list already. */
  join(info) {
    this.changes?.push(() => this.join(info));
    if (this.clients.has(info.client)) return false;
    this.add(info);
    this.total += 1;
    return true;
  }

  /** Removes a client: false if it is not in the list. */
  leave(info) {
    this.changes?.push(() => this.leave(info));
    const member = this.clients.get(info.client);
    if (!member) return false;
    this.clients.delete(info.client);
    this.total -= 1;
    const authors = this.authorsByName.get(member.name);
    const connections = authors.get(member.id) - 1;
    if (connections) authors.set(member.id, connections);
    else authors.delete(member.id);
    if (authors.size === 0) this.authorsByName.delete(member.name);
    return true;
  }

  add(info) {
    const name = nameOf(info);
    const id = this.identity.authorId(info, name);
    this.clients.set(info.client, { id, name, info });
    let authors = this.authorsByName.get(name);
    if (!authors) this.authorsByName.set(name, (authors = new Map()));
    authors.set(id, (authors.get(id) ?? 0) + 1);
    if (authors.size < 2) return;
    if (this.marked.size > MARKED_MAX) this.marked.clear();
    for (const author of authors.keys()) this.marked.add(author);
  }

  /** The page has learned its identity: author ids may be others. */
  identified() {
    const infos = [...this.clients.values()].map(({ info }) => info);
    this.clear();
    this.marked.clear();
    for (const info of infos) this.add(info);
  }

  /** Takes the server's count. Returns whether the list should be loaded again. */
  setTotal(total) {
    const differs = total !== this.total;
    this.total = total;
    if (differs && total > LISTED_MAX) this.clear();
    return differs && total <= LISTED_MAX;
  }

  /** The number of members that are not in the list. */
  get unlisted() {
    return Math.max(0, this.total - this.clients.size);
  }

  /** Whether a client of the same author is in the list. */
  hasAuthor(info) {
    const name = nameOf(info);
    return this.authorsByName.get(name)?.has(this.identity.authorId(info, name)) === true;
  }

  /** The name in a line of joins and leaves: with the mark, if another member has, or had, the same name. */
  labelOf(info) {
    const name = nameOf(info);
    return this.marked.has(this.identity.authorId(info, name)) ? `${name} (${markOf(info)})` : name;
  }

  /** Whether a member has this name, which is in lower case. */
  hasLowerCase(name) {
    for (const candidate of this.authorsByName.keys()) {
      if (candidate.length === name.length && candidate.toLowerCase() === name) return true;
    }
    return false;
  }

  /** Draws one item for each author, the user's own first. */
  draw(list) {
    const authors = new Map();
    for (const { id, name, info } of this.clients.values()) {
      const author = authors.get(id) ?? { id, name, info, connections: 0 };
      author.connections += 1;
      authors.set(id, author);
    }
    const isOwn = ({ id }) => id === "own";
    const sorted = [...authors.values()].sort((a, b) => isOwn(b) - isOwn(a) || a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1));
    const items = sorted.slice(0, SHOWN_MAX).map((author) => this.item(author));
    const hidden = sorted.slice(SHOWN_MAX).reduce((sum, { connections }) => sum + connections, this.unlisted);
    if (hidden) items.push(make("li.others", sorted.length ? `and ${count(hidden, "other")}` : count(hidden, "member")));
    list.replaceChildren(...items);
  }

  item({ id, name, info, connections }) {
    const item = make("li.member", avatar(name), make("bdi.name", shownName(name)));
    if (id === "own") item.append(make("span.aside", "you"));
    else if (this.authorsByName.get(name)?.size > 1) item.append(make("span.mark", markOf(info)));
    if (connections > 1) item.append(make("span.aside", `× ${connections}`));
    return item;
  }
}
