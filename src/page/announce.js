// Announcements for screen readers, at most one update within WAIT_MS.
"use strict";

import { count, shownName, shownText } from "./text.js";

const WAIT_MS = 1200;
// More messages within one update are counted instead of read.
const READ_MAX = 3;
const LENGTH_MAX = 280;

export class Announcer {
  /** `region`: a visually hidden live region. */
  constructor(region) {
    this.region = region;
    this.pending = [];
    this.timer = null;
  }

  /** Announces an event of the page: a complete sentence. */
  announce(sentence) {
    this.queue({ sentence });
  }

  /** Announces a message that another user has published in the open room. */
  announceMessage(name, text) {
    this.queue({ sentence: cut(`${shownName(name)}: ${shownText(text)}`), message: true });
  }

  queue(item) {
    this.pending.push(item);
    this.timer ??= setTimeout(() => this.flush(), WAIT_MS);
  }

  flush() {
    this.timer = null;
    const messages = this.pending.filter((item) => item.message);
    const events = this.pending.filter((item) => !item.message).map((item) => item.sentence);
    const read = messages.length > READ_MAX ? [`${count(messages.length, "new message")}.`] : messages.map((item) => item.sentence);
    this.pending = [];
    this.region.replaceChildren(...[...new Set(events), ...read].map((sentence) => {
      const line = document.createElement("p");
      line.textContent = sentence;
      return line;
    }));
  }
}

const cut = (text) => (text.length > LENGTH_MAX ? `${text.slice(0, LENGTH_MAX).toWellFormed()} …` : text);
