// Tells a screen reader what is new, without flooding it: one sentence for all that came within a while.
"use strict";

import { count, shownName, shownText } from "./text.js";

const WAIT_MS = 1200;
const READ_MAX = 3;
const LENGTH_MAX = 280;

export class Announcer {
  /** `region`: an element that is a live region and not seen. */
  constructor(region) {
    this.region = region;
    this.waiting = [];
    this.timer = null;
  }

  /** Something of the page's own. */
  say(sentence) {
    this.queue({ sentence });
  }

  /** Somebody has said something in the room that is shown. */
  message(name, text) {
    this.queue({ sentence: cut(`${shownName(name)}: ${shownText(text)}`), message: true });
  }

  queue(item) {
    this.waiting.push(item);
    this.timer ??= setTimeout(() => this.flush(), WAIT_MS);
  }

  flush() {
    this.timer = null;
    const messages = this.waiting.filter((item) => item.message);
    const own = this.waiting.filter((item) => !item.message).map((item) => item.sentence);
    const read = messages.length > READ_MAX ? [`${count(messages.length, "new message")}.`] : messages.map((item) => item.sentence);
    this.waiting = [];
    this.region.replaceChildren(...[...new Set(own), ...read].map((sentence) => {
      const line = document.createElement("p");
      line.textContent = sentence;
      return line;
    }));
  }
}

const cut = (text) => (text.length > LENGTH_MAX ? `${text.slice(0, LENGTH_MAX).toWellFormed()} …` : text);
