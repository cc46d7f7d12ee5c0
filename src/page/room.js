// One open room: its history and new publications, its members, and the user's messages that are not yet confirmed.
"use strict";

import { Members, nameOf } from "./members.js";
import { count, duration, make, shownText } from "./text.js";
import { Timeline, gapEntry, messageEntry, noteEntry } from "./timeline.js";

const PAGE_LENGTH = 50;
// After a gap, up to this many publications of the history are loaded.
const AFTER_GAP_MAX = 300;
const CLOSED_CODE = 2;
const NOT_AVAILABLE = 108;

export class Room {
  /**
   * `me`: {name, user, client, clients}, shared by all rooms. `page` is notified by `changed(room)`, `received(room, entries)`,
   * `publishFailed(room, reason)`, `membersChanged(room)` and `identified({user, name})`; `keepScrollPosition(room, change)`
   * runs a change to entries above the visible part.
   */
  constructor(name, client, me, page) {
    Object.assign(this, { name, client, me, page });
    this.timeline = new Timeline(`Messages in ${name}`);
    this.members = new Members();
    this.outbox = make("ol.outbox");
    this.outbox.setAttribute("aria-label", "Not sent yet");
    this.earlier = make("button.quiet.earlier", "Show earlier messages");
    this.earlier.type = "button";
    this.earlier.hidden = true;
    this.earlier.addEventListener("click", () => this.loadEarlier());
    this.view = make("div.view", this.earlier, this.timeline.list, this.outbox);

    this.active = false;
    this.unsubscribeReason = null; // {code, message} after the subscription has ended
    this.wasSubscribed = false;
    this.epoch = "";
    this.lastOffset = 0; // the offset of the newest publication on the page
    this.serverOffset = 0; // the offset of the room, as of the last history reply
    this.buffered = null; // publications that arrive while the history is loaded; null at other times
    this.suspendedAt = 0;
    this.namesBefore = new Set(); // the members' names when the connection was lost
    this.unsent = [];

    // State of the page for this room.
    this.unread = 0;
    this.draft = "";
    this.atEnd = true;
    this.scrollTop = 0;
  }

  subscribe() {
    this.unsubscribeReason = null;
    this.client.subscribe(this.name, this.handlers());
    this.page.changed(this);
  }

  handlers() {
    return {
      subscribed: (result, publications) => this.subscribed(result, publications),
      publication: (publication) => this.receive([publication]),
      join: (info) => this.join(info),
      leave: (info) => this.leave(info),
      suspended: () => this.suspended(),
      unsubscribed: (reason) => this.unsubscribed(reason),
    };
  }

  // ---- the subscription

  subscribed(result, publications) {
    this.active = true;
    this.unsubscribeReason = null;
    this.loadMembers();
    const isFirst = !this.wasSubscribed;
    this.wasSubscribed = true;
    if (isFirst) this.loadHistory(result);
    else if (result.recovered) this.recovered(publications);
    else this.continueAfterGap(result);
    this.page.changed(this);
  }

  suspended() {
    this.active = false;
    this.suspendedAt = performance.now();
    this.namesBefore = new Set([...this.members.clients.values()].map((member) => member.name));
    this.page.changed(this);
  }

  unsubscribed(reason) {
    this.active = false;
    this.unsubscribeReason = reason;
    this.timeline.add(noteEntry(`You are not in this room: ${reason.message || `code ${reason.code}`}.`));
    this.page.changed(this);
  }

  // ---- history

  /** After the first subscription: shows the newest page of the history, then the publications that have arrived since. */
  async loadHistory({ recoverable, epoch = "" }) {
    this.epoch = epoch;
    if (!recoverable) return;
    const publications = await this.whileBuffering(() => this.history());
    if (publications) this.prepend(publications);
    if (publications?.length) this.lastOffset = Math.max(this.lastOffset, publications.at(-1).offset);
    this.earlier.hidden = publications !== null && publications.length < PAGE_LENGTH;
    this.receiveBuffered();
  }

  /** After a recovery: nothing is missing. */
  recovered(publications) {
    const away = performance.now() - this.suspendedAt;
    if (publications.length) {
      this.timeline.add(noteEntry(`Reconnected after ${duration(away)}: ${count(publications.length, "message")} recovered.`));
    }
    this.receive(publications);
  }

  /** After a failed recovery: shows a mark for the missing publications, and those that the history still has. */
  async continueAfterGap({ recoverable, epoch = "" }) {
    const sameEpoch = epoch === this.epoch;
    const lastOffset = this.lastOffset;
    if (!recoverable) {
      this.timeline.add(gapEntry(null, "This room keeps no history."));
      return;
    }
    const publications = await this.whileBuffering(() => this.history({ limit: AFTER_GAP_MAX }));
    this.epoch = epoch;
    if (!sameEpoch) {
      this.lastOffset = 0;
      // Nothing is missing if the page showed no publication of the old epoch and the history has all of the new one.
      const complete = lastOffset === 0 && publications && (publications[0]?.offset ?? 1) === 1;
      if (!complete) this.timeline.add(gapEntry(null, "The server has started a new history of this room."));
    } else if (publications) {
      const newer = publications.concat(this.buffered ?? []).find(({ offset }) => offset > lastOffset);
      const next = newer?.offset ?? this.serverOffset + 1;
      if (next > lastOffset + 1) this.timeline.add(gapEntry(next - lastOffset - 1, "The server no longer has them."));
    } else {
      this.timeline.add(gapEntry(null, "They could not be loaded."));
    }
    this.buffered = [...(publications ?? []), ...(this.buffered ?? [])];
    this.receiveBuffered();
  }

  /** One page of the history, oldest first: the newest page unless `options` has a position. */
  async history(options = {}) {
    const page = await this.client.history(this.name, { limit: PAGE_LENGTH, reverse: true, ...options });
    this.serverOffset = page.offset ?? 0;
    return (page.publications ?? []).reverse();
  }

  prepend(publications) {
    const entries = publications.map((publication) => this.entry(publication));
    this.page.keepScrollPosition(this, () => this.timeline.prepend(entries));
  }

  /** Awaits `load`. Publications that arrive meanwhile are buffered. Returns null if `load` fails. */
  async whileBuffering(load) {
    this.buffered ??= [];
    try {
      return await load();
    } catch {
      return null;
    }
  }

  receiveBuffered() {
    const buffered = this.buffered ?? [];
    this.buffered = null;
    this.receive(buffered);
  }

  async loadEarlier() {
    const offset = this.timeline.oldestOffset();
    this.earlier.disabled = true;
    try {
      const publications = await this.history(offset ? { since: { offset, epoch: this.epoch } } : {});
      this.prepend(publications);
      this.setHistoryEnd(publications.length < PAGE_LENGTH);
    } catch (error) {
      // An error of the server is final for this room; after an error of the connection the user can try again.
      this.setHistoryEnd(error.code >= 100);
    }
    this.earlier.disabled = false;
  }

  setHistoryEnd(reached) {
    this.earlier.hidden = reached;
    if (!reached) return;
    if (document.activeElement === document.body) this.page.focusLog();
  }

  // ---- publications

  receive(publications) {
    if (this.buffered) {
      this.buffered.push(...publications);
      return;
    }
    const entries = [];
    for (const publication of publications) {
      const { offset = 0 } = publication;
      if (offset && offset <= this.lastOffset) continue;
      if (offset) this.lastOffset = offset;
      const entry = this.entry(publication);
      if (entry.author.own) this.confirm(entry.text, publication.info?.client);
      this.timeline.add(entry);
      entries.push(entry);
    }
    if (this.timeline.isLong) {
      this.page.keepScrollPosition(this, () => this.timeline.trim());
      this.earlier.hidden = false;
    }
    if (entries.length) this.page.received(this, entries);
  }

  entry({ data, info, time, offset }) {
    const name = nameOf(info, data);
    const own = this.me.clients.has(info?.client) || (Boolean(info?.user) && info.user === this.me.user);
    return messageEntry({
      author: { id: info?.user || info?.client || name, name, own },
      text: typeof data?.text === "string" ? data.text : typeof data === "string" ? data : JSON.stringify(data) ?? "",
      at: time ? new Date(time) : new Date(),
      offset,
    });
  }

  // ---- the user's messages

  publish(text) {
    const unsent = { text, node: make("li.unsent") };
    this.unsent.push(unsent);
    this.outbox.append(unsent.node);
    this.send(unsent);
  }

  send(unsent) {
    unsent.node.replaceChildren(make("p.text", shownText(unsent.text).slice(0, 500)), make("p.hint", "sending …"));
    const data = { name: this.me.name, text: unsent.text };
    this.client.publish(this.name, data).catch((error) => this.publishFailed(unsent, error));
  }

  publishFailed(unsent, { code, message }) {
    if (!this.unsent.includes(unsent)) return;
    const reason = code <= CLOSED_CODE ? "It is not known whether this message was published." : `Not sent: ${message}.`;
    const retry = make("button.quiet", "Retry");
    const discard = make("button.quiet", "Discard");
    retry.addEventListener("click", () => this.active && this.send(unsent));
    discard.addEventListener("click", () => {
      this.removeUnsent(unsent);
      this.page.focusText();
    });
    for (const button of [retry, discard]) button.type = "button";
    unsent.node.replaceChildren(unsent.node.firstChild, make("p.hint", `${reason} `, retry, " ", discard));
    unsent.node.classList.add("failed");
    this.page.publishFailed(this, reason);
  }

  /** A publication of one of the page's own clients has arrived, on this connection or by recovery: it is not unsent. */
  confirm(text, client) {
    if (!this.me.clients.has(client)) return;
    const unsent = this.unsent.find((candidate) => candidate.text === text);
    if (unsent) this.removeUnsent(unsent);
  }

  removeUnsent(unsent) {
    this.unsent = this.unsent.filter((other) => other !== unsent);
    unsent.node.remove();
  }

  // ---- members

  async loadMembers() {
    this.members.loading();
    try {
      this.members.set(await this.client.presence(this.name));
      const self = this.members.clients.get(this.me.client);
      if (self) this.page.identified(self);
    } catch (error) {
      if (error.code === NOT_AVAILABLE) this.members.known = false;
    }
    this.page.membersChanged(this);
  }

  /** Queries the number of members: the server announces joins and leaves only in rooms that are small enough. */
  async refreshMemberCount() {
    if (!this.active || !this.members.known) return;
    try {
      const { num_clients: total } = await this.client.presenceStats(this.name);
      if (this.members.setTotal(total)) await this.loadMembers();
      else this.page.membersChanged(this);
    } catch {
      // The next query corrects the count.
    }
  }

  join(info) {
    const name = nameOf(info);
    const isKnownName = this.members.has(name) || this.namesBefore.delete(name);
    if (!this.members.join(info)) return;
    if (!isKnownName && !this.me.clients.has(info.client)) this.timeline.addPresence(name, true);
    this.page.membersChanged(this);
  }

  leave(info) {
    const name = nameOf(info);
    if (!this.members.leave(info)) return;
    if (!this.members.has(name)) this.timeline.addPresence(name, false);
    this.page.membersChanged(this);
  }
}
