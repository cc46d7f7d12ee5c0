// The scrolling part of the page: shows the messages of one room and keeps the reader's scroll position.
"use strict";

const NEAR_END_PX = 60;

export class Log {
  /** `count` formats a number of messages; `jumped()` is called after the user has jumped to the newest message. */
  constructor(frame, jump, { count, jumped }) {
    Object.assign(this, { frame, jump, count });
    this.room = null;
    this.newBelow = 0; // messages that have arrived below the visible part
    this.animationFrame = null;
    this.lastScrollTop = 0;
    frame.addEventListener("scroll", () => this.scrolled(), { passive: true });
    jump.addEventListener("click", () => {
      this.scrollToEnd();
      jumped();
    });
    // When the size of the screen or of the message box changes, the newest message stays visible.
    new ResizeObserver(() => this.room?.atEnd && this.scrollToEnd()).observe(frame);
  }

  show(room) {
    if (this.room) this.room.scrollTop = this.frame.scrollTop;
    this.room = room;
    this.newBelow = 0;
    this.frame.replaceChildren(...(room ? [room.view] : []));
    if (!room) return this.refresh();
    const { newMarker } = room.timeline;
    if (newMarker.isConnected && newMarker.offsetTop < this.frame.scrollHeight - this.frame.clientHeight) {
      this.frame.scrollTop = newMarker.offsetTop - NEAR_END_PX;
      room.atEnd = this.isAtEnd;
    } else if (room.atEnd) this.scrollToEnd();
    else this.frame.scrollTop = room.scrollTop;
    this.lastScrollTop = this.frame.scrollTop;
    this.refresh();
  }

  get isAtEnd() {
    return this.frame.scrollHeight - this.frame.scrollTop - this.frame.clientHeight < NEAR_END_PX;
  }

  scrolled() {
    if (!this.room) return;
    // New messages may have been appended before the event of a scroll to the end: only scrolling up leaves the end.
    const up = this.frame.scrollTop < this.lastScrollTop;
    this.lastScrollTop = this.frame.scrollTop;
    this.room.atEnd = this.isAtEnd || (this.room.atEnd && !up);
    if (this.room.atEnd) this.newBelow = 0;
    this.refresh();
  }

  /** Entries have been appended: `others` messages of other users and, if `own`, at least one of the user's own. */
  appended(others, own) {
    if (own) this.room.atEnd = true;
    if (this.room.atEnd) return this.scrollToEndSoon();
    this.newBelow += others;
    this.refresh();
  }

  /** Many messages in one turn cost one layout. */
  scrollToEndSoon() {
    this.animationFrame ??= requestAnimationFrame(() => {
      this.animationFrame = null;
      if (this.room?.atEnd) this.scrollToEnd();
    });
  }

  scrollToEnd() {
    this.frame.scrollTop = this.frame.scrollHeight;
    this.lastScrollTop = this.frame.scrollTop;
    this.newBelow = 0;
    if (this.room) this.room.atEnd = true;
    this.refresh();
  }

  /** Runs `change`, which alters entries above the visible part, and keeps the visible part in place. */
  keepScrollPosition(room, change) {
    const fromEnd = this.frame.scrollHeight - this.frame.scrollTop;
    change();
    if (room !== this.room) return;
    if (room.atEnd) return this.scrollToEndSoon();
    this.frame.scrollTop = this.frame.scrollHeight - fromEnd;
    this.lastScrollTop = this.frame.scrollTop;
  }

  refresh() {
    this.jump.hidden = !this.room || this.room.atEnd;
    this.jump.textContent = this.newBelow ? `↓ ${this.count(this.newBelow, "new message")}` : "↓ To the newest";
  }
}
