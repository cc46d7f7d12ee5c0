// The scrolling part of the page: shows the entries of one room and keeps the reader's scroll position.
//
// Only the entries near the visible part are in the document. The space of the others is kept free by two spacers, with
// heights that were measured when the entries were drawn, or are estimated. The document changes once a frame.
"use strict";

import { appearance, draw } from "./entries.js";
import { make, shownName } from "./text.js";

const NEAR_END_PX = 60;
// What is drawn beyond the visible part: much, so that scrolling and screen readers find it; little while many messages arrive.
const MARGIN_PX = 1500;
const MARGIN_BUSY_PX = 50;
// More new entries in one frame than this are many, and the log is busy until none have arrived for CALM_MS.
const BUSY_ENTRIES = 8;
const CALM_MS = 300;
// A busy log is drawn at most this often, half as often as most screens show: so other changes of the page are not delayed.
const BUSY_INTERVAL_MS = 30;
// Entries with the focus or a selection stay in the document up to this distance.
const PINNED_MAX = 200;
// So many entries stay in the document on each side beyond what is needed.
const KEPT_MAX = 40;
// The estimated height of an entry: the first one, and the weight of each measured entry in those that follow.
const ESTIMATED_PX = 28;
const ESTIMATE_WEIGHT = 0.02;

export class Log {
  /**
   * `count` formats a number of messages; `jumped()` is called after the user has jumped to the newest message;
   * `loadEarlier()` when earlier messages are requested; `link(room)` returns the address of a room.
   */
  constructor(frame, jump, { count, jumped, loadEarlier, link }) {
    Object.assign(this, { frame, jump, count, link });
    this.room = null;
    this.newBelow = 0; // messages that have arrived below the visible part
    this.animationFrame = null;
    this.calmTimer = null;
    this.renderedAt = 0;
    this.lastScrollTop = 0;
    this.width = 0;
    this.drawn = new Map(); // entry → {element, key}
    this.entryOf = new WeakMap(); // element → entry
    this.estimate = ESTIMATED_PX;
    this.lastCount = 0; // entries added, as of the last frame

    this.earlier = make("button.quiet.earlier", "Show earlier messages");
    this.earlier.type = "button";
    this.earlier.addEventListener("click", () => loadEarlier());
    this.empty = make("div.empty");
    this.before = make("div.spacer");
    this.after = make("div.spacer");
    this.list = make("ol.entries");
    // Some screen readers do not recognise a list without bullets by its element.
    this.list.setAttribute("role", "list");
    this.view = make("div.view", this.earlier, this.empty, this.before, this.list, this.after);

    frame.addEventListener("scroll", () => this.scrolled(), { passive: true });
    jump.addEventListener("click", () => {
      this.scrollToEnd();
      jumped();
    });
    // When the size of the screen or of the message box changes, the newest message stays visible.
    new ResizeObserver(() => this.resized()).observe(frame);
  }

  show(room) {
    if (this.room) this.forget();
    this.room = room;
    this.newBelow = 0;
    this.frame.replaceChildren(...(room ? [this.view] : []));
    if (!room) return this.refreshJump();
    this.list.setAttribute("aria-label", `Messages in ${shownName(room.name)}`);
    this.view.append(room.outbox);
    const { entries, firstNew } = room.timeline;
    this.lastCount = entries.length;
    const unread = entries.indexOf(firstNew);
    if (unread >= 0 && entries.length - unread > this.frame.clientHeight / ESTIMATED_PX) {
      room.atEnd = false;
      room.anchor = { entry: firstNew, distance: NEAR_END_PX };
    }
    this.render();
  }

  /** Removes the elements of the room that was shown. */
  forget() {
    this.drawn.clear();
    this.list.replaceChildren();
    this.room.outbox.remove();
  }

  // ---- changes

  /** The entries of `room`, or how they are drawn, have changed: they are drawn in the next frame. */
  changed(room) {
    if (room === this.room) this.renderSoon();
  }

  /** Messages have been added: `others` of other users and, if `own`, at least one of the user's own. */
  appended(others, own) {
    if (own) this.room.atEnd = true;
    if (!this.room.atEnd) this.newBelow += others;
    this.renderSoon();
  }

  renderSoon() {
    this.animationFrame ??= requestAnimationFrame((now) => {
      this.animationFrame = null;
      if (!this.room) return;
      if (this.isBusy && now - this.renderedAt < BUSY_INTERVAL_MS) return this.renderSoon();
      this.renderedAt = now;
      this.render();
    });
  }

  resized() {
    if (!this.room) return;
    const { clientWidth } = this.frame;
    if (clientWidth !== this.width) {
      this.width = clientWidth;
      for (const entry of this.room.timeline.entries) entry.height = 0;
    }
    this.render();
  }

  // ---- scrolling

  get isAtEnd() {
    return this.frame.scrollHeight - this.frame.scrollTop - this.frame.clientHeight < NEAR_END_PX;
  }

  scrolled() {
    const { room, frame } = this;
    if (!room) return;
    const { scrollTop } = frame;
    // New messages may have been added before the event of a scroll to the end: only scrolling up leaves the end.
    const up = scrollTop < this.lastScrollTop;
    if (scrollTop === this.lastScrollTop) return;
    this.lastScrollTop = scrollTop;
    room.atEnd = this.isAtEnd || (room.atEnd && !up);
    if (room.atEnd) this.newBelow = 0;
    else this.takeAnchor();
    this.render();
  }

  scrollToEnd() {
    if (!this.room) return;
    this.room.atEnd = true;
    this.newBelow = 0;
    this.render();
  }

  /** Notes the first visible entry and its distance from the upper edge: it stays there when entries above it change. */
  takeAnchor() {
    const edge = this.frame.getBoundingClientRect().top;
    for (const element of this.list.children) {
      const { top, bottom } = element.getBoundingClientRect();
      if (bottom <= edge) continue;
      // Above the first element there may be others, which are not drawn.
      if (top > edge && element === this.list.firstElementChild) break;
      this.room.anchor = { entry: this.entryOf.get(element), distance: top - edge };
      return;
    }
    const { entries } = this.room.timeline;
    const offsets = this.offsets(entries);
    const top = this.frame.scrollTop - this.before.offsetTop;
    const index = Math.max(0, Math.min(entries.length - 1, upperBound(offsets, top) - 1));
    this.room.anchor = entries.length ? { entry: entries[index], distance: offsets[index] - top } : null;
  }

  // ---- drawing

  render() {
    const { room, frame, before, after } = this;
    const { entries } = room.timeline;
    this.refreshSurroundings();
    this.noteLoad(entries.length);
    const visible = frame.clientHeight;
    const margin = this.isBusy ? MARGIN_BUSY_PX : MARGIN_PX;
    const isQuick = this.isBusy && room.atEnd;
    let range = this.withPinned(entries, this.withDrawn(entries, this.range(entries, visible, margin)));
    // Entries that are drawn for the first time may be lower than the estimate: then the range grows.
    for (let attempt = 0; attempt < 3; attempt += 1) {
      this.drawRange(entries, range);
      if (isQuick) break;
      this.measure();
      const needed = this.range(entries, visible, 0);
      if (needed.start >= range.start && needed.end <= range.end) break;
      range = { start: Math.min(needed.start, range.start), end: Math.max(needed.end, range.end) };
    }
    const offsets = this.offsets(entries);
    setHeight(before, offsets[range.start]);
    setHeight(after, offsets[entries.length] - offsets[range.end]);
    this.restoreScrollPosition(entries);
    if (isQuick) this.measureList(range);
    this.refreshJump();
  }

  /** The tops of all entries, and the end of the last one, from the first one's top. */
  offsets(entries) {
    const { estimate } = this;
    const offsets = new Float64Array(entries.length + 1);
    for (let index = 0; index < entries.length; index += 1) {
      offsets[index + 1] = offsets[index] + (entries[index].height || estimate);
    }
    return offsets;
  }

  /** The entries in the visible part and up to `margin` pixels beyond it. */
  range(entries, visible, margin) {
    const { atEnd, anchor } = this.room;
    const offsets = this.offsets(entries);
    const total = offsets[entries.length];
    const index = atEnd || !anchor ? -1 : entries.indexOf(anchor.entry);
    const top = atEnd ? total - visible : index < 0 ? 0 : offsets[index] - anchor.distance;
    const start = Math.max(0, upperBound(offsets, top - margin) - 1);
    const end = Math.min(entries.length, upperBound(offsets, Math.max(0, top) + visible + margin));
    return { start: Math.min(start, end), end };
  }

  /** The range, extended to what is in the document already, if that is little: most frames then only add elements. */
  withDrawn(entries, { start, end }) {
    if (this.isBusy) return { start, end };
    const first = entries.indexOf(this.entryOf.get(this.list.firstElementChild));
    const last = entries.indexOf(this.entryOf.get(this.list.lastElementChild));
    return {
      start: first >= 0 && first < start && start - first <= KEPT_MAX ? first : start,
      end: last >= end && last - end < KEPT_MAX ? last + 1 : end,
    };
  }

  /** The range, extended to the entries with the focus or with an end of the selection. */
  withPinned(entries, { start, end }) {
    const selection = getSelection();
    const nodes = [document.activeElement, ...(selection.isCollapsed ? [] : [selection.anchorNode, selection.focusNode])];
    for (const node of nodes) {
      if (!node || node === this.list || !this.list.contains(node)) continue;
      const element = node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement;
      const index = entries.indexOf(this.entryOf.get(element.closest(".entry")));
      if (index < 0 || index < start - PINNED_MAX || index > end + PINNED_MAX) continue;
      start = Math.min(start, index);
      end = Math.max(end, index + 1);
    }
    return { start, end };
  }

  /** Draws exactly the entries of this range. */
  drawRange(entries, { start, end }) {
    const { room, list, drawn } = this;
    const wanted = new Set(entries.slice(start, end));
    for (const [entry, { element }] of drawn) {
      if (wanted.has(entry)) continue;
      if (element.contains(document.activeElement)) this.frame.focus({ preventScroll: true });
      element.remove();
      drawn.delete(entry);
    }
    let next = list.firstElementChild;
    let index = start;
    for (const entry of wanted) {
      const look = appearance(entry, entries[index - 1], room);
      let found = drawn.get(entry);
      if (found?.key !== look.key) {
        const element = draw(entry, look, room, () => this.expanded());
        this.entryOf.set(element, entry);
        if (found) {
          if (found.element === next) next = element;
          found.element.replaceWith(element);
        }
        found = { element, key: look.key };
        drawn.set(entry, found);
      }
      const { element } = found;
      if (element === next) next = next.nextElementSibling;
      else list.insertBefore(element, next);
      setPosition(element, index + 1);
      index += 1;
    }
  }

  /** The reader has asked for all of a long message, and reads it from its beginning. */
  expanded() {
    this.room.atEnd = false;
    this.takeAnchor();
    this.renderSoon();
  }

  /** Measures what is drawn. One layout for all. */
  measure() {
    for (const [entry, { element }] of this.drawn) {
      const { height } = element.getBoundingClientRect();
      if (entry.height === 0 && height > 0) this.estimate += (height - this.estimate) * ESTIMATE_WEIGHT;
      entry.height = height;
    }
  }

  /**
   * At the end of a busy log a frame costs one layout: instead of each entry, which is gone in the next frame, the list is
   * measured. If it is too low for the visible part, more is drawn in the next frame.
   */
  measureList({ start, end }) {
    const { height } = this.list.getBoundingClientRect();
    if (end === start || height === 0) return;
    this.estimate = height / (end - start);
    if (start > 0 && height < this.frame.clientHeight) this.renderSoon();
  }

  restoreScrollPosition(entries) {
    const { room, frame } = this;
    if (room.atEnd) {
      frame.scrollTop = frame.scrollHeight;
    } else if (room.anchor) {
      const index = entries.indexOf(room.anchor.entry);
      const offsets = this.offsets(entries);
      const top = index < 0 ? 0 : this.before.offsetTop + offsets[index] - room.anchor.distance;
      // An assignment would end a scroll in progress.
      if (Math.abs(frame.scrollTop - top) >= 1) frame.scrollTop = top;
      if (index < 0) this.takeAnchor();
      room.atEnd = this.isAtEnd;
    }
    this.lastScrollTop = frame.scrollTop;
  }

  // ---- load

  /** Many new entries in one frame make the log busy, until a time without any. */
  noteLoad(count) {
    if (Math.abs(count - this.lastCount) > BUSY_ENTRIES) {
      clearTimeout(this.calmTimer);
      this.calmTimer = setTimeout(() => {
        this.calmTimer = null;
        this.renderSoon();
      }, CALM_MS);
    }
    this.lastCount = count;
  }

  get isBusy() {
    return this.calmTimer !== null;
  }

  // ---- what surrounds the entries

  refreshSurroundings() {
    const { room, earlier, empty } = this;
    earlier.hidden = !room.timeline.hasEarlier;
    earlier.disabled = room.isLoadingEarlier;
    const wasHidden = empty.hidden;
    empty.hidden = !room.isEmpty;
    if (empty.hidden || (!wasHidden && empty.dataset.room === room.name && empty.dataset.readOnly === String(room.isReadOnly))) return;
    empty.dataset.room = room.name;
    empty.dataset.readOnly = room.isReadOnly;
    empty.replaceChildren(...emptyNotice(room, this.link(room)));
  }

  refreshJump() {
    const hidden = !this.room || this.room.atEnd;
    const text = this.newBelow ? `↓ ${this.count(this.newBelow, "new message")}` : "↓ To the newest";
    if (this.jump.hidden !== hidden) this.jump.hidden = hidden;
    if (this.jump.textContent !== text) this.jump.textContent = text;
  }
}

/** What an empty room shows: that it is empty, and what to do. */
function emptyNotice(room, address) {
  const title = make("p.title", "No messages yet");
  if (room.isReadOnly) return [title, make("p", "What is published here appears at once.")];
  const link = make("input");
  link.readOnly = true;
  link.value = address;
  link.setAttribute("aria-label", "Link to this room");
  link.addEventListener("focus", () => link.select());
  const copy = make("button.quiet", "Copy link");
  copy.type = "button";
  // Browsers permit access to the clipboard on secure pages only.
  copy.hidden = !navigator.clipboard;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(address).then(() => (copy.textContent = "Copied"), () => link.focus());
  });
  return [title, make("p", "Write the first one, or invite others with this link:"), make("p.invite", link, copy)];
}

/** Where an entry is among all entries, of which only some are in the document. Their number changes with each message: -1. */
function setPosition(element, position) {
  if (element.ariaPosInSet === String(position)) return;
  element.ariaPosInSet = position;
  element.ariaSetSize = -1;
}

function setHeight(spacer, height) {
  const value = `${height}px`;
  if (spacer.style.height !== value) spacer.style.height = value;
}

/** The first index of sorted `offsets` whose value is larger than `value`. */
function upperBound(offsets, value) {
  let low = 0;
  let high = offsets.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (offsets[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
