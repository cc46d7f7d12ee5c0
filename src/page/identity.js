// The user of this page. What is one's own is decided by the client id, or by a user id that the server has verified,
// and never by a name, which two users can share.
"use strict";

import { comparableName } from "./text.js";

// Client ids of earlier connections of this tab, which are kept across reloads.
const CLIENTS_MAX = 50;
const KEY = "stentor.clients";

export class Identity {
  /** `name`: the name that the user has entered. `hasToken`: whether the page sends a token. */
  constructor(name, hasToken) {
    Object.assign(this, { name, hasToken });
    this.requestedName = name;
    this.client = "";
    this.clients = new Set(JSON.parse(sessionStorage.getItem(KEY) ?? "[]"));
    // "": not known, or anonymous.
    this.user = "";
    // Whether user ids come from tokens or an auth backend. Without authentication the server takes the name for a user id.
    this.usersAreVerified = false;
  }

  /** The server has assigned this client id to the page's connection. */
  connected(client) {
    this.client = client;
    this.clients.delete(client);
    this.clients.add(client);
    for (const oldest of this.clients) {
      if (this.clients.size <= CLIENTS_MAX) break;
      this.clients.delete(oldest);
    }
    sessionStorage.setItem(KEY, JSON.stringify([...this.clients]));
  }

  /** The presence of the page's own client. Returns whether that changes anything. */
  identified({ user, name }) {
    const before = `${this.usersAreVerified} ${this.user} ${this.name}`;
    this.usersAreVerified =
      user === "" || (this.hasToken && comparableName(user) !== comparableName(this.requestedName));
    this.user = this.usersAreVerified ? user : "";
    // An anonymous client keeps the name that the user has entered.
    if (user !== "") this.name = name;
    return before !== `${this.usersAreVerified} ${this.user} ${this.name}`;
  }

  /** Whether a publication or a member with this `info` is the user's own. */
  owns(info) {
    return this.clients.has(info?.client) || (this.user !== "" && info?.user === this.user);
  }

  /** What tells authors apart: the verified user, else the client; the name only of those who have neither. */
  authorId(info, name) {
    if (this.owns(info)) return "own";
    if (this.usersAreVerified && info?.user) return `user ${info.user}`;
    return info?.client ? `client ${info.client}` : `name ${name}`;
  }

  static forget() {
    sessionStorage.removeItem(KEY);
  }
}

/** The short mark beside a name that another user in the room has, too: the beginning of the client or user id. */
export const markOf = (info) => (info?.client || info?.user || "").slice(0, 4);
