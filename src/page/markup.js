// What a text contains besides words: links, mentions and inline code. The result consists of text nodes and elements that
// are created here; a text is never parsed as HTML.
"use strict";

import { make } from "./text.js";

const NAME_LENGTH_MAX = 64;
const TOKEN = /`([^`\n]+)`|\bhttps?:\/\/[^\s<>"'`\p{Cc}]+|@/giu;
const WORD_CHARACTER = /[\p{L}\p{N}_]/u;
const PAIRS = { ")": "(", "]": "[", "}": "{" };

/**
 * The text as nodes. `mentions`: {own, isMember(name)}, with the own name and with whether a member has a name, both in lower
 * case.
 */
export function textNodes(text, mentions) {
  const nodes = [];
  let end = 0;
  for (const { 0: token, 1: code, index } of text.matchAll(TOKEN)) {
    if (index < end) continue;
    const [node, length] = code ? [make("code", code), token.length] : token === "@" ? mention(text, index, mentions) : link(token);
    if (!node) continue;
    nodes.push(text.slice(end, index), node);
    end = index + length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

/** Whether the text mentions the user with this name in lower case. */
export function mentionsName(text, own) {
  for (let at = text.indexOf("@"); at >= 0; at = text.indexOf("@", at + 1)) {
    if (mentionedOwn(text, at, own)) return true;
  }
  return false;
}

function mention(text, at, { own, isMember }) {
  const ownMention = mentionedOwn(text, at, own);
  if (ownMention) return [make("mark.mention.own-mention", ownMention), ownMention.length];
  if (!beginsWord(text, at)) return [];
  const word = /^[\p{L}\p{N}_.-]+/u.exec(text.slice(at + 1, at + 1 + NAME_LENGTH_MAX))?.[0].replace(/[.-]+$/, "");
  return word && isMember(word.toLowerCase()) ? [make("mark.mention", `@${word}`), word.length + 1] : [];
}

/** The mention of the user's own name at an "@", or "". A name may consist of several words. */
function mentionedOwn(text, at, own) {
  const found = text.slice(at, at + 1 + own.length);
  const next = text.slice(at + 1 + own.length, at + 3 + own.length);
  const isOwn = own !== "" && found.slice(1).toLowerCase() === own && beginsWord(text, at) && !/^[\p{L}\p{N}_]/u.test(next);
  return isOwn ? found : "";
}

/** Whether the "@" begins a word: that of an e-mail address does not. */
const beginsWord = (text, at) => at === 0 || !WORD_CHARACTER.test(text[at - 1]);

/** An anchor for an http or https link, which opens without access to this page and without a Referer header. */
function link(token) {
  const text = withoutPunctuation(token);
  const url = URL.canParse(text) ? new URL(text) : null;
  // A link with a user name displays one host and opens another one: "https://bank.example@evil.example/".
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password) return [];
  const anchor = make("a", text);
  anchor.href = url.href;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
  // The host as it is resolved, where letters of another script look like those of another name.
  if (!text.toLowerCase().includes(url.hostname)) anchor.title = url.href;
  return [anchor, text.length];
}

/** A link ends before punctuation that usually ends a sentence, and before a bracket that it does not open itself. */
function withoutPunctuation(link) {
  const count = (sign) => link.split(sign).length - 1;
  const closing = { ")": count(")") - count("("), "]": count("]") - count("["), "}": count("}") - count("{") };
  let end = link.length;
  for (; end > 0; end -= 1) {
    const last = link[end - 1];
    if (last in PAIRS && closing[last] > 0) closing[last] -= 1;
    else if (!/[.,;:!?]/.test(last)) break;
  }
  return link.slice(0, end);
}
