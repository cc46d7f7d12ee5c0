// The entries of one room in their order, as data.
"use strict";

import { PresenceEntry } from "./entries.js";

// Beyond ENTRIES_MAX entries, the oldest ENTRIES_SLACK are removed; beyond TEXT_LENGTH_MAX UTF-16 code units of text, a
// quarter of it.
const ENTRIES_MAX = 2500;
const ENTRIES_SLACK = 500;
const TEXT_LENGTH_MAX = 2 * 1024 * 1024;
// One line of joins and leaves has at most this many names.
const PRESENCE_NAMES_MAX = 100;

export class Timeline {
  /** `changed()` is called after each change. */
  constructor(changed) {
    this.changed = changed;
    this.entries = [];
    this.textLength = 0;
    this.firstNew = null; // the first unread message, which has a mark above it
    this.hasEarlier = false; // whether the room's history may have messages before the first entry
  }

  add(entry) {
    this.entries.push(entry);
    this.textLength += textLength(entry);
    if (this.entries.length > ENTRIES_MAX) this.removeOldest(ENTRIES_SLACK, Infinity);
    else if (this.textLength > TEXT_LENGTH_MAX) this.removeOldest(Infinity, TEXT_LENGTH_MAX / 4);
    this.changed();
  }

  /** Removes the oldest entries, up to `count` or as soon as they have `length` code units. The newest one stays. */
  removeOldest(count, length) {
    let removed = 0;
    let removedLength = 0;
    for (; removed < Math.min(count, this.entries.length - 1) && removedLength < length; removed += 1) {
      removedLength += textLength(this.entries[removed]);
    }
    const gone = this.entries.splice(0, removed);
    this.textLength -= removedLength;
    if (gone.includes(this.firstNew)) this.firstNew = null;
    this.hasEarlier ||= gone.some(({ offset }) => offset > 0);
  }

  /** Adds earlier entries at the top. */
  prepend(entries) {
    this.entries.unshift(...entries);
    for (const entry of entries) this.textLength += textLength(entry);
    this.changed();
  }

  /** Puts the mark above `entry`, the first unread message; null removes the mark. */
  markNew(entry) {
    this.firstNew = entry;
    this.changed();
  }

  addPresence(name, joined) {
    let entry = this.entries.at(-1);
    if (!(entry instanceof PresenceEntry) || entry.names >= PRESENCE_NAMES_MAX) {
      entry = new PresenceEntry();
      this.add(entry);
    }
    if (joined) entry.join(name);
    else entry.leave(name);
    if (entry.names === 0) this.entries.pop();
    this.changed();
  }

  get hasMessages() {
    return this.entries.some(({ kind }) => kind === "message");
  }

  /** The offset of the oldest message that has one. */
  oldestOffset() {
    return this.entries.find((entry) => entry.offset)?.offset ?? null;
  }
}

const textLength = ({ text = "" }) => text.length;
