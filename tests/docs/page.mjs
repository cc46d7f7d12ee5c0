// Runs the script of a chat page of a document, with as much of a browser as it needs, and WebSocket or SockJS: node page.mjs FILE
// It has to send what is typed, to show what arrives, and to resume without a gap when its connection is cut.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import vm from "node:vm";

const require = createRequire(new URL("../clients/package.json", import.meta.url));
const WebSocket = require("ws");
const SockJS = require("sockjs-client");
const script = /<script>([^]*)<\/script>/.exec(readFileSync(process.argv[2], "utf8"))[1];
setTimeout(() => {
  console.error(`no end after 30 s; shown: ${JSON.stringify(shown)}`);
  process.exit(1);
}, 30_000).unref();

const sockets = [];
const kept = (Socket) =>
  new Proxy(Socket, {
    construct(Socket, more) {
      sockets.push(new Socket(...more));
      return sockets.at(-1);
    },
  });
const shown = [];
const elements = {
  "#log": { append: (element) => shown.push(element.textContent) },
  "#form": {},
  "#text": { value: "" },
};
const document = { querySelector: (name) => elements[name], createElement: () => ({}) };
const library = { WebSocket: kept(WebSocket), SockJS: kept(SockJS), setTimeout, Math, console, encodeURIComponent };
vm.runInNewContext(script, { document, prompt: () => "ann", ...library });

const until = async (what, condition) => {
  for (let tries = 0; !condition(); tries++) {
    assert(tries < 1000, `never: ${what}; shown: ${JSON.stringify(shown)}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
const type = (text) => {
  elements["#text"].value = text;
  elements["#form"].onsubmit({ preventDefault() {} });
};
const last = () => sockets.at(-1);

await until("open", () => last().readyState === WebSocket.OPEN);
type("one");
await until("one", () => shown.includes("ann: one"));
const { host, searchParams, origin } = new URL(last().url);
const other = new WebSocket(`ws://${host}/ws/bob?room=${searchParams.get("room")}`);
await new Promise((resolve) => other.once("open", resolve));
// SockJS knows no other end than its own.
last().terminate ? last().terminate() : last().close();
other.send("two");
await until("two, published during the break", () => shown.includes("bob: two"));
type("three");
await until("three", () => shown.includes("ann: three"));
assert.deepEqual(shown.slice(-3), ["ann: one", "bob: two", "ann: three"]);
assert.equal(sockets.length, 2, origin);
console.log(`${process.argv[2]}: ok`);
process.exit(0);
