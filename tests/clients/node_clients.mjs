// npm's ws, as its authors publish it, against a running server: node node_clients.mjs HOST:PORT
import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";

const server = process.argv[2];
setTimeout(() => {
  console.error("no answer for 30 s");
  process.exit(1);
}, 30_000).unref();

const connect = async (name, options) => {
  const socket = new WebSocket(`ws://${server}/ws/${name}?room=node`, "chat", options);
  socket.lines = [];
  socket.on("message", (data) => socket.lines.push(String(data)));
  await once(socket, "open");
  return socket;
};
const received = async (socket, count) => {
  while (socket.lines.length < count) await once(socket, "message");
};

const plain = await connect("plain", { perMessageDeflate: false });
const deflated = await connect("deflated", { perMessageDeflate: { serverMaxWindowBits: 10, threshold: 0 } });
assert.equal(plain.protocol, "chat");
assert.match(deflated.extensions, /permessage-deflate/);
const texts = ["short", "la ".repeat(500), "Grüße 🙂 ".repeat(2000)];
for (const text of texts) deflated.send(text);
for (const socket of [plain, deflated]) {
  await received(socket, texts.length);
  assert.deepEqual(socket.lines, texts.map((text) => `deflated: ${text}`));
}
plain.ping("there?");
const [payload] = await once(plain, "pong");
assert.equal(String(payload), "there?");
plain.close(4001, "done");
const [code] = await once(plain, "close");
assert.equal(code, 4001);
deflated.send(Buffer.alloc(10));
assert.equal((await once(deflated, "close"))[0], 1003);
console.log("ws: ok");
