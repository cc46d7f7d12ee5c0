// The list of one room's entries on the page: messages, gaps, notes, joins and leaves, and dates.
"use strict";

import { bytes, clock, count, dayName, make, shownName, shownText, textNodes } from "./text.js";

// Consecutive messages of one author within this time are grouped.
const GROUP_MS = 5 * 60 * 1000;
// A list that exceeds ENTRIES_MAX by more than ENTRIES_SLACK is cut to ENTRIES_MAX.
const ENTRIES_MAX = 1000;
const ENTRIES_SLACK = 250;
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

/** `author`: {id, name, own}; `at`: a Date; `offset`: its offset in the room's history, if the room has one. */
export function messageEntry({ author, text, at, offset }) {
  const name = make("bdi.name", shownName(author.name));
  name.dataset.tint = tint(author.name);
  const node = make("li.message", avatar(author.name), make("p.head", name, " ", clock(at)), textBlock(shownText(text)));
  node.classList.toggle("own", author.own);
  return { kind: "message", author, text, at, offset, node };
}

function textBlock(text) {
  const block = make("p.text");
  block.dir = "auto";
  const short = shortened(text);
  if (short === text) {
    block.append(...textNodes(text));
    return block;
  }
  const size = bytes(text);
  const all = make("button.quiet", `Show all of it (${size > 2048 ? `${Math.round(size / 1024)} KiB` : count(size, "byte")})`);
  all.type = "button";
  all.addEventListener("click", () => {
    block.replaceChildren(...textNodes(text));
    // The focus moves from the removed button to the text.
    block.tabIndex = -1;
    block.focus({ preventScroll: true });
  });
  block.append(...textNodes(short), "… ", all);
  return block;
}

function shortened(text) {
  const lines = text.split("\n", SHOWN_LINES_MAX + 1);
  const few = lines.length > SHOWN_LINES_MAX ? lines.slice(0, SHOWN_LINES_MAX).join("\n") : text;
  if (few.length <= SHOWN_LENGTH_MAX) return few;
  // A surrogate pair is not split.
  return few.slice(0, SHOWN_LENGTH_MAX).toWellFormed().replace(/\ufffd$/u, "");
}

/** A note of the page itself. */
export function noteEntry(text) {
  const at = new Date();
  return { kind: "note", at, node: make("li.note", text) };
}

/** A mark where messages may be missing. `missing`: how many, or null if that is not known. */
export function gapEntry(missing, why) {
  const what = missing === null ? "Messages may be missing here" :
    `${count(missing, "message")} may be missing here`;
  return { kind: "gap", at: new Date(), node: make("li.gap", make("strong", `${what}.`), " ", why) };
}

/** Consecutive joins and leaves, as one line. */
class PresenceEntry {
  constructor() {
    this.kind = "presence";
    this.at = new Date();
    this.node = make("li.note");
    this.joined = new Set();
    this.left = new Set();
  }

  // A leave and a join of the same name cancel each other.
  join(name) { if (!this.left.delete(name)) this.joined.add(name); }
  leave(name) { if (!this.joined.delete(name)) this.left.add(name); }

  refresh() {
    const parts = [];
    if (this.joined.size) parts.push(...names(this.joined), " joined");
    if (this.joined.size && this.left.size) parts.push(" · ");
    if (this.left.size) parts.push(...names(this.left), " left");
    this.node.replaceChildren(...parts);
    return parts.length > 0;
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

/** The list. */
export class Timeline {
  constructor(label) {
    this.entries = [];
    this.list = make("ol.entries");
    // Some screen readers do not recognise a list without bullets by its element.
    this.list.setAttribute("role", "list");
    this.list.setAttribute("aria-label", label);
    this.newMarker = make("li.new", make("span", "New"));
    this.firstNew = null;
  }

  add(entry) {
    const before = this.entries.at(-1);
    this.entries.push(entry);
    this.list.append(...decorated(before, entry));
  }

  get isLong() {
    return this.entries.length > ENTRIES_MAX + ENTRIES_SLACK;
  }

  /** Removes the oldest entries. */
  trim() {
    this.entries.splice(0, this.entries.length - ENTRIES_MAX);
    this.draw();
  }

  /** Adds earlier entries at the top. */
  prepend(entries) {
    this.entries.unshift(...entries);
    this.draw();
  }

  draw() {
    this.list.replaceChildren(...this.entries.flatMap((entry, index) => decorated(this.entries[index - 1], entry)));
    this.markNew(this.entries.includes(this.firstNew) ? this.firstNew : null);
  }

  /** Puts the marker above `entry`, the first unread message; null removes the marker. */
  markNew(entry) {
    this.firstNew = entry;
    if (!entry) return this.newMarker.remove();
    entry.node.before(this.newMarker);
    entry.node.classList.add("first");
  }

  addPresence(name, joined) {
    let entry = this.entries.at(-1);
    if (!(entry instanceof PresenceEntry)) {
      entry = new PresenceEntry();
      this.add(entry);
    }
    if (joined) entry.join(name);
    else entry.leave(name);
    if (entry.refresh()) return;
    this.entries.pop();
    entry.node.remove();
  }

  /** The offset of the oldest message that has one. */
  oldestOffset() {
    return this.entries.find((entry) => entry.offset)?.offset ?? null;
  }
}

/** The nodes of an entry that follows `before`: with the date if the day differs, and its author unless the two are grouped. */
function decorated(before, entry) {
  const sameDay = before?.at.toDateString() === entry.at.toDateString();
  const grouped = sameDay && before.kind === "message" && entry.kind === "message" &&
    before.author.id === entry.author.id && before.author.name === entry.author.name &&
    entry.at - before.at < GROUP_MS;
  entry.node.classList.toggle("first", !grouped);
  return sameDay ? [entry.node] : [make("li.day", make("span", dayName(entry.at))), entry.node];
}
