// The part of the page that scrolls: shows one room's messages and keeps the reader's place in them.
"use strict";

const NEAR_END_PX = 60;

export class Log {
  /** `texts`: `count`, and `readToEnd()` after the jump to the newest message. */
  constructor(frame, jump, { count, readToEnd }) {
    Object.assign(this, { frame, jump, count });
    this.room = null;
    this.below = 0; // messages that came while the reader was further up
    this.frameAsked = null;
    this.lastTop = 0;
    frame.addEventListener("scroll", () => this.scrolled(), { passive: true });
    jump.addEventListener("click", () => {
      this.toEnd();
      readToEnd();
    });
    // When the screen or the box below changes its size, the newest message stays in sight.
    new ResizeObserver(() => this.room?.atEnd && this.toEnd()).observe(frame);
  }

  show(room) {
    if (this.room) this.room.scrollTop = this.frame.scrollTop;
    this.room = room;
    this.below = 0;
    this.frame.replaceChildren(...(room ? [room.view] : []));
    if (!room) return this.refresh();
    const { newMark } = room.timeline;
    if (newMark.isConnected && newMark.offsetTop < this.frame.scrollHeight - this.frame.clientHeight) {
      this.frame.scrollTop = newMark.offsetTop - NEAR_END_PX;
      room.atEnd = this.atEnd;
    } else if (room.atEnd) this.toEnd();
    else this.frame.scrollTop = room.scrollTop;
    this.lastTop = this.frame.scrollTop;
    this.refresh();
  }

  get atEnd() {
    return this.frame.scrollHeight - this.frame.scrollTop - this.frame.clientHeight < NEAR_END_PX;
  }

  scrolled() {
    if (!this.room) return;
    // By the time that we hear of our own scrolling down, more may have come below: only who goes up leaves the end.
    const wentUp = this.frame.scrollTop < this.lastTop;
    this.lastTop = this.frame.scrollTop;
    this.room.atEnd = this.atEnd || (this.room.atEnd && !wentUp);
    if (this.room.atEnd) this.below = 0;
    this.refresh();
  }

  /** Something has come at the end: `others` messages of others, and perhaps one of our own. */
  grown(others, own) {
    if (own) this.room.atEnd = true;
    if (this.room.atEnd) return this.toEndSoon();
    this.below += others;
    this.refresh();
  }

  /** Many messages in one turn are one layout. */
  toEndSoon() {
    this.frameAsked ??= requestAnimationFrame(() => {
      this.frameAsked = null;
      if (this.room?.atEnd) this.toEnd();
    });
  }

  toEnd() {
    this.frame.scrollTop = this.frame.scrollHeight;
    this.lastTop = this.frame.scrollTop;
    this.below = 0;
    if (this.room) this.room.atEnd = true;
    this.refresh();
  }

  /** Does `change` to what is above, and keeps what the reader sees where it is. */
  keepingPlace(room, change) {
    const fromEnd = this.frame.scrollHeight - this.frame.scrollTop;
    change();
    if (room !== this.room) return;
    if (room.atEnd) return this.toEndSoon();
    this.frame.scrollTop = this.frame.scrollHeight - fromEnd;
    this.lastTop = this.frame.scrollTop;
  }

  refresh() {
    this.jump.hidden = !this.room || this.room.atEnd;
    this.jump.textContent = this.below ? `↓ ${this.count(this.below, "new message")}` : "↓ To the newest";
  }
}
