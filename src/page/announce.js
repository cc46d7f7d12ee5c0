// Announcements for screen readers, at most one update within WAIT_MS.
"use strict";

import { count, make, shownName, shownText } from "./text.js";

const WAIT_MS = 1200;
// More messages within one update are counted instead of read.
const READ_MAX = 3;
const LENGTH_MAX = 280;

export class Announcer {
  /** `region`: a visually hidden live region. */
  constructor(region) {
    this.region = region;
    this.pending = [];
    this.messages = 0; // since the last update
    this.timer = null;
  }

  /** Announces an event of the page: a complete sentence. */
  announce(sentence) {
    this.queue({ sentence });
  }

  /** Announces a message that another user has published in the open room. */
  announceMessage(name, text) {
    this.messages += 1;
    if (this.messages <= READ_MAX) this.queue({ name, text });
  }

  queue(item) {
    this.pending.push(item);
    this.timer ??= setTimeout(() => this.flush(), WAIT_MS);
  }

  flush() {
    this.timer = null;
    const sentences = new Set(this.pending.filter((item) => item.sentence).map((item) => item.sentence));
    const read = this.messages > READ_MAX ? [`${count(this.messages, "new message")}.`] :
      this.pending.filter((item) => item.name).map(({ name, text }) => cut(`${shownName(name)}: ${shownText(text)}`));
    this.pending = [];
    this.messages = 0;
    this.region.replaceChildren(...[...sentences, ...read].map((sentence) => make("p", sentence)));
  }
}

const cut = (text) => (text.length > LENGTH_MAX ? `${text.slice(0, LENGTH_MAX).toWellFormed()} …` : text);
