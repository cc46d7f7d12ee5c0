// The entries of a room and how they are drawn: messages, gaps, notes, and joins and leaves. An entry is plain data; its
// element exists only while it is near the visible part of the log.
"use strict";

import { markOf } from "./identity.js";
import { textNodes } from "./markup.js";
import { bytes, clock, count, dayName, make, shownName, shownText } from "./text.js";

// Consecutive messages of one author within this time are grouped.
const GROUP_MS = 5 * 60 * 1000;
const NAMES_MAX = 3;
// A longer message is cut, and gets a button that shows all of it.
const SHOWN_LENGTH_MAX = 1500;
const SHOWN_LINES_MAX = 24;
const TINTS = 8;

/** The index of a name's colour, which is the same on every page. */
export function tint(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 65_521;
  return hash % TINTS;
}

/** The round initial beside a name. */
export function avatar(name) {
  const initial = make("span.avatar", [...shownName(name).trim()][0]?.toUpperCase() ?? "?");
  initial.dataset.tint = tint(name);
  initial.setAttribute("aria-hidden", "true");
  return initial;
}

/** What all entries have: `kind`; `at`, a Date; `version`, which changes with the content; `height` in pixels, 0: not measured. */
class Entry {
  constructor(kind, at = new Date()) {
    Object.assign(this, { kind, at, version: 0, height: 0 });
  }
}

/** A message. `offset`: its offset in the room's history, if the room has one. */
export class MessageEntry extends Entry {
  constructor({ name, info, text, at, offset = 0 }) {
    super("message", at);
    Object.assign(this, { name, info, text, offset, isExpanded: false });
  }

  draw(element, { first, mark, own, mentions, changed }) {
    const name = make("bdi.name", shownName(this.name));
    name.dataset.tint = tint(this.name);
    const head = make("p.head", name);
    if (first && mark) head.append(" ", make("span.mark", mark));
    if (first && own) head.append(" ", make("span.aside", "you"));
    head.append(" ", clock(this.at));
    if (first) element.append(avatar(this.name));
    element.append(head, this.textBlock(shownText(this.text), mentions, changed));
  }

  textBlock(text, mentions, changed) {
    const block = make("p.text");
    block.dir = "auto";
    const short = this.isExpanded ? text : shortened(text);
    block.append(...textNodes(short, mentions));
    if (short === text) return block;
    const size = bytes(text);
    const all = make("button.quiet", `Show all of it (${size > 2048 ? `${Math.round(size / 1024)} KiB` : count(size, "byte")})`);
    all.type = "button";
    all.addEventListener("click", () => {
      this.isExpanded = true;
      block.replaceChildren(...textNodes(text, mentions));
      // The focus moves from the removed button to the text.
      block.tabIndex = -1;
      block.focus({ preventScroll: true });
      changed();
    });
    block.append("… ", all);
    return block;
  }
}

function shortened(text) {
  const lines = text.split("\n", SHOWN_LINES_MAX + 1);
  const few = lines.length > SHOWN_LINES_MAX ? lines.slice(0, SHOWN_LINES_MAX).join("\n") : text;
  if (few.length <= SHOWN_LENGTH_MAX) return few;
  // A surrogate pair is not split.
  return few.slice(0, SHOWN_LENGTH_MAX).toWellFormed().replace(/\ufffd$/u, "");
}

/** A note of the page itself. */
export class NoteEntry extends Entry {
  constructor(text) {
    super("note");
    this.text = text;
  }

  draw(element) {
    element.append(this.text);
  }
}

/** A mark where messages may be missing. `missing`: how many, or null if that is not known. */
export class GapEntry extends Entry {
  constructor(missing, reason) {
    super("gap");
    Object.assign(this, { missing, reason });
  }

  draw(element) {
    const what = this.missing === null ? "Messages may be missing here" : `${count(this.missing, "message")} may be missing here`;
    element.append(make("strong", `${what}.`), " ", this.reason);
  }
}

/** Consecutive joins and leaves, as one line. */
export class PresenceEntry extends Entry {
  constructor() {
    super("note");
    this.joined = new Set();
    this.left = new Set();
  }

  // A leave and a join of the same name cancel each other.
  join(name) {
    this.version += 1;
    if (!this.left.delete(name)) this.joined.add(name);
  }

  leave(name) {
    this.version += 1;
    if (!this.joined.delete(name)) this.left.add(name);
  }

  /** The number of names in the line. */
  get names() {
    return this.joined.size + this.left.size;
  }

  draw(element) {
    if (this.joined.size) element.append(...names(this.joined), " joined");
    if (this.joined.size && this.left.size) element.append(" · ");
    if (this.left.size) element.append(...names(this.left), " left");
  }
}

function names(set) {
  // A single further name is shown: "and 1 other" would not be shorter.
  const shown = [...set].slice(0, set.size > NAMES_MAX + 1 ? NAMES_MAX : set.size);
  const more = set.size - shown.length;
  return shown.flatMap((name, index) => {
    const last = index === shown.length - 1 && more === 0;
    return [index === 0 ? "" : last ? " and " : ", ", make("bdi", shownName(name))];
  }).concat(more ? [` and ${count(more, "other")}`] : []);
}

/** How an entry is drawn after `before`: what of it depends on its neighbour, the members and the user. */
export function appearance(entry, before, room) {
  const sameDay = before !== undefined && isSameDay(before.at, entry.at);
  if (entry.kind !== "message") return { key: `${sameDay} ${entry.version}`, sameDay, first: true };
  const { identity, members } = room;
  const id = identity.authorId(entry.info, entry.name);
  const isNew = room.timeline.firstNew === entry;
  const first = !sameDay || isNew || before.kind !== "message" || before.name !== entry.name ||
    identity.authorId(before.info, before.name) !== id || entry.at - before.at >= GROUP_MS;
  const own = id === "own";
  // Another author with the user's own name is always marked.
  const mark = !own && (members.marked.has(id) || entry.name === identity.name) ? markOf(entry.info) : "";
  return { key: `${sameDay} ${first} ${isNew} ${own} ${mark} ${identity.name}`, sameDay, first, isNew, own, mark };
}

const isSameDay = (one, other) =>
  one.getDate() === other.getDate() && one.getMonth() === other.getMonth() && one.getFullYear() === other.getFullYear();

/** The list item of an entry, with the date and the mark of the first unread message above it. */
export function draw(entry, { sameDay, first, isNew, own, mark }, room, changed) {
  const item = make("li.entry");
  if (!sameDay) item.append(make("div.day", make("span", dayName(entry.at))));
  if (isNew) item.append(make("div.new", make("span", "New")));
  const body = make(`div.${entry.kind}`);
  body.classList.toggle("first", first);
  body.classList.toggle("own", own === true);
  const mentions = { own: room.identity.name.toLowerCase(), isMember: (name) => room.members.hasLowerCase(name) };
  entry.draw(body, { first, mark, own, mentions, changed });
  if (!own && body.querySelector(".own-mention")) body.classList.add("mentioned");
  item.append(body);
  return item;
}
