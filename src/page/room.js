// One open room: its history and new publications, its members, and the user's messages that are not yet confirmed.
"use strict";

import { GapEntry, MessageEntry, NoteEntry } from "./entries.js";
import { mentionsName } from "./markup.js";
import { Members, nameOf } from "./members.js";
import { count, duration, make, shownText } from "./text.js";
import { Timeline } from "./timeline.js";

const PAGE_LENGTH = 50;
// After a gap, up to this many publications of the history are loaded.
const AFTER_GAP_MAX = 300;
const CLOSED_CODE = 2;
const PERMISSION_DENIED = 103;
const NOT_AVAILABLE = 108;

export class Room {
  /**
   * `identity`: shared by all rooms. `page` is notified by `changed(room)`, `entriesChanged(room)`, `received(room, entries)`,
   * `publishFailed(room, reason)`, `membersChanged(room)` and `identified()`.
   */
  constructor(name, client, identity, page) {
    Object.assign(this, { name, client, identity, page });
    this.timeline = new Timeline(() => page.entriesChanged(this));
    this.members = new Members(identity);
    this.outbox = make("ol.outbox");
    this.outbox.setAttribute("aria-label", "Not sent yet");

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
    this.isReadOnly = false; // the user may not publish here
    this.isLoaded = false; // the newest page of the history has arrived, or there is none
    this.isLoadingEarlier = false;

    // State of the page for this room.
    this.unread = 0;
    this.isMentioned = false; // in an unread message
    this.draft = "";
    this.atEnd = true;
    this.anchor = null; // {entry, distance}: what the reader sees, if that is not the end
  }

  /** Whether the room is known to have no messages. */
  get isEmpty() {
    return this.active && this.isLoaded && !this.timeline.hasMessages && this.unsent.length === 0;
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
    this.checkPermission();
    const isFirst = !this.wasSubscribed;
    this.wasSubscribed = true;
    if (isFirst) this.loadHistory(result);
    else if (result.recovered) this.recovered(publications);
    else this.continueAfterGap(result);
    this.page.changed(this);
  }

  async checkPermission() {
    try {
      this.isReadOnly = !(await this.client.mayPublish(this.name));
    } finally {
      this.page.changed(this);
    }
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
    this.timeline.add(new NoteEntry(`You are not in this room: ${reason.message || `code ${reason.code}`}.`));
    this.page.changed(this);
  }

  // ---- history

  /** After the first subscription: shows the newest page of the history, then the publications that have arrived since. */
  async loadHistory({ recoverable, epoch = "" }) {
    this.epoch = epoch;
    if (recoverable) {
      const publications = await this.whileBuffering(() => this.history());
      if (publications) this.prepend(publications);
      if (publications?.length) this.lastOffset = Math.max(this.lastOffset, publications.at(-1).offset);
      this.timeline.hasEarlier = publications === null || publications.length === PAGE_LENGTH;
      this.receiveBuffered();
    }
    this.isLoaded = true;
    this.page.entriesChanged(this);
  }

  /** After a recovery: nothing is missing. */
  recovered(publications) {
    const away = performance.now() - this.suspendedAt;
    if (publications.length) {
      this.timeline.add(new NoteEntry(`Reconnected after ${duration(away)}: ${count(publications.length, "message")} recovered.`));
    }
    this.receive(publications);
  }

  /** After a failed recovery: shows a mark for the missing publications, and those that the history still has. */
  async continueAfterGap({ recoverable, epoch = "" }) {
    const sameEpoch = epoch === this.epoch;
    const lastOffset = this.lastOffset;
    if (!recoverable) {
      this.timeline.add(new GapEntry(null, "This room keeps no history."));
      return;
    }
    const publications = await this.whileBuffering(() => this.history({ limit: AFTER_GAP_MAX }));
    this.epoch = epoch;
    if (!sameEpoch) {
      this.lastOffset = 0;
      // Nothing is missing if the page showed no publication of the old epoch and the history has all of the new one.
      const complete = lastOffset === 0 && publications && (publications[0]?.offset ?? 1) === 1;
      if (!complete) this.timeline.add(new GapEntry(null, "The server has started a new history of this room."));
    } else if (publications) {
      const newer = publications.concat(this.buffered ?? []).find(({ offset }) => offset > lastOffset);
      const next = newer?.offset ?? this.serverOffset + 1;
      if (next > lastOffset + 1) this.timeline.add(new GapEntry(next - lastOffset - 1, "The server no longer has them."));
    } else {
      this.timeline.add(new GapEntry(null, "They could not be loaded."));
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
    this.timeline.prepend(publications.map((publication) => this.entry(publication)));
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
    this.isLoadingEarlier = true;
    this.page.entriesChanged(this);
    try {
      const publications = await this.history(offset ? { since: { offset, epoch: this.epoch } } : {});
      this.prepend(publications);
      this.setHistoryEnd(publications.length < PAGE_LENGTH);
    } catch (error) {
      // An error of the server is final for this room; after an error of the connection the user can try again.
      this.setHistoryEnd(error.code >= 100);
    }
    this.isLoadingEarlier = false;
    this.page.entriesChanged(this);
  }

  setHistoryEnd(reached) {
    this.timeline.hasEarlier = !reached;
    // The button that was used is not there any more.
    if (reached) this.page.focusLog();
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
      if (this.identity.clients.has(entry.info?.client)) this.confirm(entry.text);
      this.timeline.add(entry);
      entries.push(entry);
    }
    if (entries.length) this.page.received(this, entries);
  }

  entry({ data, info, time, offset }) {
    return new MessageEntry({
      name: nameOf(info, data),
      info,
      text: typeof data?.text === "string" ? data.text : typeof data === "string" ? data : JSON.stringify(data) ?? "",
      at: time ? new Date(time) : new Date(),
      offset,
    });
  }

  /** Whether a message mentions the user. */
  mentionsUser({ text }) {
    return mentionsName(text, this.identity.name.toLowerCase());
  }

  // ---- the user's messages

  publish(text) {
    const unsent = { text, node: make("li.unsent") };
    this.unsent.push(unsent);
    this.outbox.append(unsent.node);
    this.page.entriesChanged(this);
    this.send(unsent);
  }

  send(unsent) {
    unsent.node.replaceChildren(make("p.text", shownText(unsent.text).slice(0, 500)), make("p.hint", "sending …"));
    unsent.node.classList.remove("failed");
    const data = { name: this.identity.name, text: unsent.text };
    this.client.publish(this.name, data).catch((error) => this.publishFailed(unsent, error));
  }

  publishFailed(unsent, { code, message }) {
    if (!this.unsent.includes(unsent)) return;
    if (code === PERMISSION_DENIED) this.isReadOnly = true;
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
    this.page.changed(this);
  }

  /** A publication of one of the page's own clients has arrived, on this connection or by recovery: it is not unsent. */
  confirm(text) {
    const unsent = this.unsent.find((candidate) => candidate.text === text);
    if (unsent) this.removeUnsent(unsent);
  }

  removeUnsent(unsent) {
    this.unsent = this.unsent.filter((other) => other !== unsent);
    unsent.node.remove();
    this.page.entriesChanged(this);
  }

  // ---- members

  async loadMembers() {
    this.members.loading();
    try {
      this.members.set(await this.client.presence(this.name));
      const self = this.members.clients.get(this.identity.client);
      if (self && this.identity.identified({ user: self.info.user ?? "", name: self.name })) this.page.identified();
    } catch (error) {
      this.members.failed(error.code === NOT_AVAILABLE);
    }
    this.membersChanged();
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
    const isKnown = this.members.hasAuthor(info) || this.namesBefore.delete(name);
    if (!this.members.join(info)) return;
    if (!isKnown && !this.identity.owns(info)) this.timeline.addPresence(this.members.labelOf(info), true);
    this.membersChanged();
  }

  leave(info) {
    if (!this.members.leave(info)) return;
    if (!this.members.hasAuthor(info) && !this.identity.owns(info)) this.timeline.addPresence(this.members.labelOf(info), false);
    this.membersChanged();
  }

  /** Which authors are marked depends on the members. */
  membersChanged() {
    this.page.membersChanged(this);
    this.page.entriesChanged(this);
  }
}
