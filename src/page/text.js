// Names and texts of other users as text nodes, never as HTML; formats of numbers and times.
"use strict";

export const bytes = (text) => new TextEncoder().encode(text).length;

/** The error in the name of a user or a room as a sentence, or "". The server validates the name again. */
export function validationError(what, text, bytesMax) {
  if (text === "") return `The ${what} is empty.`;
  if (bytes(text) > bytesMax) return `The ${what} is too long: at most ${bytesMax} bytes.`;
  if (/\p{Cc}/u.test(text)) return `The ${what} must not contain control characters.`;
  return "";
}

// Characters that can make a name look like another one or reorder the line around it: control characters and the marks of
// bidirectional text.
const UNSAFE_IN_NAMES = /[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

/** A name for display: unsafe characters are replaced. */
export const shownName = (name) => String(name).replace(UNSAFE_IN_NAMES, "\ufffd");

/** A name in the form in which the server compares it (RFC 8266 §2.3). */
export const comparableName = (name) => name.normalize("NFKC").trim().replace(/\p{Zs}+/gu, " ").toLowerCase();

/** A text for display: control characters become their visible symbols, and directional overrides are replaced. */
export const shownText = (text) =>
  String(text).replace(/\r\n?/g, "\n").replace(/[\u202d\u202e]/g, "\ufffd").replace(/[\0-\x08\x0b-\x1f\x7f]/g, (control) =>
    control === "\x7f" ? "\u2421" : String.fromCharCode(0x2400 + control.charCodeAt(0)));

/** `make("p.quiet", child, …)`: an element with classes and children; strings become text nodes. */
export function make(kind, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  element.append(...children);
  return element;
}

/** "1 message", "2,000 messages". */
export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

const TIME = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const EXACT = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat("en", { weekday: "long", day: "numeric", month: "long" });
const DAY_OF_ANOTHER_YEAR = new Intl.DateTimeFormat("en", { dateStyle: "long" });

let formatted = { second: NaN };

/** A time of day, as a `<time>`. */
export function clock(date) {
  // Of many messages at once, most are of the same second.
  const second = Math.floor(date / 1000);
  if (second !== formatted.second) {
    formatted = { second, time: TIME.format(date), exact: EXACT.format(date), iso: new Date(second * 1000).toISOString() };
  }
  const time = make("time", formatted.time);
  time.dateTime = formatted.iso;
  time.title = formatted.exact;
  return time;
}

/** "Today", "Yesterday", "Monday, November 23". */
export function dayName(date, now = new Date()) {
  const yesterday = new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1);
  if (date.toDateString() === now.toDateString()) return "Today";
  if (date.toDateString() === yesterday.toDateString()) return "Yesterday";
  return (date.getFullYear() === now.getFullYear() ? DAY : DAY_OF_ANOTHER_YEAR).format(date);
}

/** "4 s", "3 min", "2 h". */
export function duration(ms) {
  const seconds = Math.max(1, Math.round(ms / 1000));
  if (seconds < 100) return `${seconds} s`;
  return seconds < 100 * 60 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
