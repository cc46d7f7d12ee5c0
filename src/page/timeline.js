// What has happened in one room, as a list on the page: messages, gaps, comings and goings, days.
"use strict";

import { bytes, clock, count, dayName, make, shownName, shownText, textNodes } from "./text.js";

// Messages of one author within this time stand together.
const GROUP_MS = 5 * 60 * 1000;
// A list that has grown longer by so much is cut to its bound.
const ENTRIES_MAX = 1000;
const ENTRIES_SLACK = 250;
const NAMES_MAX = 3;
// A message that is longer is cut, with a button for all of it.
const SHOWN_LENGTH_MAX = 1500;
const SHOWN_LINES_MAX = 24;
const TINTS = 8;

/** Which of the colours is this name's, on every page. */
export function tint(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 65_521;
  return hash % TINTS;
}

/** The round sign beside what somebody says. */
export function face(name) {
  const sign = make("span.face", [...shownName(name).trim()][0]?.toUpperCase() ?? "?");
  sign.dataset.tint = tint(name);
  sign.setAttribute("aria-hidden", "true");
  return sign;
}

/** `author`: {id, name, own}; `at`: a Date; `offset`: its place in the room's history, if the room keeps one. */
export function messageEntry({ author, text, at, offset }) {
  const who = make("bdi.who", shownName(author.name));
  who.dataset.tint = tint(author.name);
  const node = make("li.message", face(author.name), make("p.head", who, " ", clock(at)), textBlock(shownText(text)));
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
    // The button is gone, and the focus must not be lost with it.
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
  // Not between the halves of a surrogate pair.
  return few.slice(0, SHOWN_LENGTH_MAX).toWellFormed().replace(/\ufffd$/u, "");
}

/** Something quiet that the page says itself. */
export function noteEntry(text) {
  const at = new Date();
  return { kind: "note", at, node: make("li.note", text) };
}

/** A place where messages may be missing: how many, if that is known. */
export function gapEntry(missing, why) {
  const what = missing === null ? "Messages may be missing here" :
    `${count(missing, "message")} may be missing here`;
  return { kind: "gap", at: new Date(), node: make("li.gap", make("strong", `${what}.`), " ", why) };
}

/** People who came and went, one line for all until something else happens. */
class Moves {
  constructor() {
    this.kind = "moves";
    this.at = new Date();
    this.node = make("li.note");
    this.joined = new Set();
    this.left = new Set();
  }

  // Who goes and comes back while nobody says anything is not worth a line.
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
  // "And one other" would be no shorter than the name.
  const shown = [...set].slice(0, set.size > NAMES_MAX + 1 ? NAMES_MAX : set.size);
  const more = set.size - shown.length;
  return shown.flatMap((name, index) => {
    const last = index === shown.length - 1 && more === 0;
    return [index === 0 ? "" : last ? " and " : ", ", make("bdi", shownName(name))];
  }).concat(more ? [` and ${count(more, "other")}`] : []);
}

/** The list itself. */
export class Timeline {
  constructor(label) {
    this.entries = [];
    this.list = make("ol.entries");
    // Some readers take a list without its dots for no list.
    this.list.setAttribute("role", "list");
    this.list.setAttribute("aria-label", label);
    this.newMark = make("li.new", make("span", "New"));
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

  /** Lets go of the oldest entries. */
  trim() {
    this.entries.splice(0, this.entries.length - ENTRIES_MAX);
    this.draw();
  }

  /** Puts what was said earlier on top. */
  prepend(entries) {
    this.entries.unshift(...entries);
    this.draw();
  }

  draw() {
    this.list.replaceChildren(...this.entries.flatMap((entry, index) => decorated(this.entries[index - 1], entry)));
    this.markNew(this.entries.includes(this.firstNew) ? this.firstNew : null);
  }

  /** Puts the line above the first message that has not been seen; null: takes it away. */
  markNew(entry) {
    this.firstNew = entry;
    if (!entry) return this.newMark.remove();
    entry.node.before(this.newMark);
    entry.node.classList.add("first");
  }

  moved(name, came) {
    let moves = this.entries.at(-1);
    if (!(moves instanceof Moves)) {
      moves = new Moves();
      this.add(moves);
    }
    if (came) moves.join(name);
    else moves.leave(name);
    if (moves.refresh()) return;
    this.entries.pop();
    moves.node.remove();
  }

  /** The oldest message that has a place in the history. */
  oldestOffset() {
    return this.entries.find((entry) => entry.offset)?.offset ?? null;
  }
}

/** The nodes of an entry after `before`: with the day if it is another one, and its author if that is another one. */
function decorated(before, entry) {
  const sameDay = before?.at.toDateString() === entry.at.toDateString();
  const together = sameDay && before.kind === "message" && entry.kind === "message" &&
    before.author.id === entry.author.id && before.author.name === entry.author.name &&
    entry.at - before.at < GROUP_MS;
  entry.node.classList.toggle("first", !together);
  return sameDay ? [entry.node] : [make("li.day", make("span", dayName(entry.at))), entry.node];
}
