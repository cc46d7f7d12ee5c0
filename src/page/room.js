// One room that we are in: its past and present, who is in it, what we have said that has not come back yet.
"use strict";

import { People, nameOf } from "./people.js";
import { count, duration, make, shownText } from "./text.js";
import { Timeline, gapEntry, messageEntry, noteEntry } from "./timeline.js";

const PAGE_LENGTH = 50;
// After a gap, all that the server still has is wanted, within reason.
const AFTER_GAP_MAX = 300;
const CLOSED_CODE = 2;
const NOT_AVAILABLE = 108;

export class Room {
  /**
   * `me`: {name, user, clients}, all rooms' own. `page` is told: `changed(room)`, `heard(room, entries)`,
   * `peopleChanged(room)`, `identified({user, name})`, and does `keepingPlace(room, change)` when what is above the reader's eyes changes.
   */
  constructor(name, client, me, page) {
    Object.assign(this, { name, client, me, page });
    this.timeline = new Timeline(`Messages in ${name}`);
    this.people = new People();
    this.outbox = make("ol.outbox");
    this.outbox.setAttribute("aria-label", "Not sent yet");
    this.earlier = make("button.quiet.earlier", "Show earlier messages");
    this.earlier.type = "button";
    this.earlier.hidden = true;
    this.earlier.addEventListener("click", () => this.loadEarlier());
    this.view = make("div.view", this.earlier, this.timeline.list, this.outbox);

    this.active = false;
    this.refusal = null; // why we are not in it
    this.entered = false; // ever
    this.epoch = "";
    this.top = 0; // the offset of the newest message on the page
    this.held = null; // what is said while the past is on its way
    this.suspendedAt = 0;
    this.hereBefore = new Set(); // who was here when the connection was lost
    this.unsent = [];

    // Of the page, for this room.
    this.unread = 0;
    this.draft = "";
    this.atEnd = true;
    this.scrollTop = 0;
  }

  enter() {
    this.refusal = null;
    this.client.subscribe(this.name, this.hooks());
    this.page.changed(this);
  }

  hooks() {
    return {
      subscribed: (result, publications) => this.subscribed(result, publications),
      publication: (publication) => this.hear([publication]),
      join: (info) => this.join(info),
      leave: (info) => this.leave(info),
      suspended: () => this.suspended(),
      unsubscribed: (why) => this.unsubscribed(why),
    };
  }

  // ---- in and out

  subscribed(result, publications) {
    this.active = true;
    this.refusal = null;
    this.askPeople();
    const back = this.entered;
    this.entered = true;
    if (!back) this.begin(result);
    else if (result.recovered) this.recovered(publications);
    else this.goOnWithGap(result);
    this.page.changed(this);
  }

  suspended() {
    this.active = false;
    this.suspendedAt = performance.now();
    this.hereBefore = new Set([...this.people.clients.values()].map((person) => person.name));
    this.page.changed(this);
  }

  unsubscribed(why) {
    this.active = false;
    this.refusal = why;
    this.timeline.add(noteEntry(`You are not in this room: ${why.message || `code ${why.code}`}.`));
    this.page.changed(this);
  }

  // ---- the past

  /** For the first time here: what was said before is shown, then what has been said since. */
  async begin({ recoverable, epoch = "" }) {
    this.epoch = epoch;
    if (!recoverable) return;
    const past = await this.whileHolding(() => this.history());
    if (past) this.page.keepingPlace(this, () => this.timeline.prepend(past.map((publication) => this.entry(publication))));
    if (past?.length) this.top = Math.max(this.top, past.at(-1).offset);
    this.earlier.hidden = past !== null && past.length < PAGE_LENGTH;
    this.release();
  }

  /** Nothing is missing. */
  recovered(publications) {
    const away = performance.now() - this.suspendedAt;
    if (publications.length) {
      this.timeline.add(noteEntry(`Back after ${duration(away)}: ${count(publications.length, "message")} caught up.`));
    }
    this.hear(publications);
  }

  /** The server cannot give us all that we have missed: what it can, and a mark for the rest. */
  async goOnWithGap({ recoverable, epoch = "" }) {
    const sameLife = epoch === this.epoch;
    const top = this.top;
    if (!recoverable) {
      this.timeline.add(gapEntry(null, "This room keeps no history."));
      return;
    }
    const past = await this.whileHolding(() => this.history({ limit: AFTER_GAP_MAX }));
    this.epoch = epoch;
    if (!sameLife) {
      this.top = 0;
      // Where nothing had been said, and all that was said since is there, there is nothing to warn of.
      const complete = top === 0 && past && (past[0]?.offset ?? 1) === 1;
      if (!complete) this.timeline.add(gapEntry(null, "The server has begun a new history of this room."));
    } else if (past) {
      const next = past.concat(this.held ?? []).find(({ offset }) => offset > top)?.offset ?? this.newest + 1;
      if (next > top + 1) this.timeline.add(gapEntry(next - top - 1, "The server no longer has them."));
    } else {
      this.timeline.add(gapEntry(null, "They could not be loaded."));
    }
    this.held = [...(past ?? []), ...(this.held ?? [])];
    this.release();
  }

  /** A page of the history, the newest unless `options` say otherwise; oldest first. */
  async history(options = {}) {
    const page = await this.client.history(this.name, { limit: PAGE_LENGTH, reverse: true, ...options });
    this.newest = page.offset ?? 0;
    return (page.publications ?? []).reverse();
  }

  /** Fetches something; what is said meanwhile waits in `held`. Null if it could not be had. */
  async whileHolding(fetch) {
    this.held ??= [];
    try {
      return await fetch();
    } catch {
      return null;
    }
  }

  release() {
    const held = this.held ?? [];
    this.held = null;
    this.hear(held);
  }

  async loadEarlier() {
    const offset = this.timeline.oldestOffset();
    this.earlier.disabled = true;
    try {
      const past = await this.history(offset ? { since: { offset, epoch: this.epoch } } : {});
      this.page.keepingPlace(this, () => this.timeline.prepend(past.map((publication) => this.entry(publication))));
      this.endOfHistory(past.length < PAGE_LENGTH);
    } catch (error) {
      // A connection that was lost comes back; any other answer will not be another one tomorrow.
      this.endOfHistory(error.code >= 100);
    }
    this.earlier.disabled = false;
  }

  endOfHistory(reached) {
    this.earlier.hidden = reached;
    if (!reached) return;
    if (document.activeElement === document.body) this.page.focusLog();
  }

  // ---- what is said

  hear(publications) {
    if (this.held) {
      this.held.push(...publications);
      return;
    }
    const entries = [];
    for (const publication of publications) {
      const { offset = 0 } = publication;
      if (offset && offset <= this.top) continue;
      if (offset) this.top = offset;
      const entry = this.entry(publication);
      if (entry.author.own) this.arrived(entry.text, publication.info?.client);
      this.timeline.add(entry);
      entries.push(entry);
    }
    if (this.timeline.isLong) {
      this.page.keepingPlace(this, () => this.timeline.trim());
      this.earlier.hidden = false;
    }
    if (entries.length) this.page.heard(this, entries);
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

  // ---- what we say

  say(text) {
    const unsent = { text, node: make("li.unsent") };
    this.unsent.push(unsent);
    this.outbox.append(unsent.node);
    this.send(unsent);
  }

  send(unsent) {
    unsent.node.replaceChildren(make("p.text", shownText(unsent.text).slice(0, 500)), make("p.hint", "sending …"));
    const data = { name: this.me.name, text: unsent.text };
    this.client.publish(this.name, data).catch((error) => this.notSent(unsent, error));
  }

  notSent(unsent, { code, message }) {
    if (!this.unsent.includes(unsent)) return;
    const why = code <= CLOSED_CODE ? "It is not known whether this has arrived." : `Not sent: ${message}.`;
    const again = make("button.quiet", "Say it again");
    const never = make("button.quiet", "Discard");
    again.addEventListener("click", () => this.active && this.send(unsent));
    never.addEventListener("click", () => {
      this.forget(unsent);
      this.page.focusText();
    });
    for (const button of [again, never]) button.type = "button";
    unsent.node.replaceChildren(unsent.node.firstChild, make("p.hint", `${why} `, again, " ", never));
    unsent.node.classList.add("failed");
    this.page.failed(this, why);
  }

  /** What we have said has come back, perhaps after we were away. */
  arrived(text, client) {
    if (!this.me.clients.has(client)) return;
    const unsent = this.unsent.find((one) => one.text === text);
    if (unsent) this.forget(unsent);
  }

  forget(unsent) {
    this.unsent = this.unsent.filter((one) => one !== unsent);
    unsent.node.remove();
  }

  // ---- who is here

  async askPeople() {
    this.people.ask();
    try {
      this.people.set(await this.client.presence(this.name));
      const self = this.people.clients.get(this.me.client);
      if (self) this.page.identified(self);
    } catch (error) {
      if (error.code === NOT_AVAILABLE) this.people.known = false;
    }
    this.page.peopleChanged(this);
  }

  /** Where joins and leaves are not told, the number must be asked for. */
  async countPeople() {
    if (!this.active || !this.people.known) return;
    try {
      const { num_clients: total } = await this.client.presenceStats(this.name);
      if (this.people.counted(total)) await this.askPeople();
      else this.page.peopleChanged(this);
    } catch {
      // The next count will do.
    }
  }

  join(info) {
    const name = nameOf(info);
    const knownByName = this.people.has(name) || this.hereBefore.delete(name);
    if (!this.people.join(info)) return;
    if (!knownByName && !this.me.clients.has(info.client)) this.timeline.moved(name, true);
    this.page.peopleChanged(this);
  }

  leave(info) {
    const name = nameOf(info);
    if (!this.people.leave(info)) return;
    if (!this.people.has(name)) this.timeline.moved(name, false);
    this.page.peopleChanged(this);
  }
}
