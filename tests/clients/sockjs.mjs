// npm's sockjs-client, as its authors publish it, with each transport that works in Node: node sockjs.mjs STENTOR
//
// Against a server of its own with two shards. Each request of the HTTP transports may arrive on either.
import assert from "node:assert/strict";
import { once } from "node:events";
import SockJS from "sockjs-client";
import WebSocket from "ws";
import { Server } from "./server.mjs";
import { Network, limit, run, until, upTo } from "./support.mjs";

const stentor = process.argv[2];
limit(240);

const TRANSPORTS = ["websocket", "xhr-streaming", "eventsource", "xhr-polling"];

/** A session that records its messages and how it is closed. */
const open = async (url, transports) => {
  // Without it, a transport has 600 ms to connect on a near server, and the time of one that failed also ends the next.
  const socket = new SockJS(url, null, { transports, timeout: 4000 });
  Object.assign(socket, { received: [], heartbeats: 0, closed: null });
  socket.onmessage = ({ data }) => socket.received.push(data);
  socket.onheartbeat = () => (socket.heartbeats += 1);
  socket.onclose = ({ code, reason, wasClean }) => (socket.closed = { code, reason, wasClean });
  await until(`${transports ?? "any"}: open`, () => socket.readyState === SockJS.OPEN || socket.closed);
  assert.equal(socket.closed, null, `${transports}: ${JSON.stringify(socket.closed)}`);
  return socket;
};
const member = ({ port }, transports, name, room, more = "") =>
  open(`http://127.0.0.1:${port}/sockjs?name=${name}&room=${room}${more}`, transports);
const count = async ({ port }, name) => {
  const page = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  const lines = page.split("\n").filter((line) => line.startsWith(name) && /[{ ]/.test(line[name.length]));
  assert(lines.length, `there is no metric ${name}`);
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
};

// Each of these with each transport.
const tests = {
  async "two members of a room"(server, transport) {
    const room = `two-${transport}`;
    const [ann, bob] = [await member(server, transport, "ann", room), await member(server, transport, "bob", room)];
    assert.equal(ann.transport, transport);
    const texts = ["hi", 'Grüße 🙂 "\\/%41 100 %', "\u200d\u2060\ufff0", "x".repeat(30_000), "</script>"];
    for (const text of texts) ann.send(text);
    await until("ann's", () => bob.received.length === texts.length && ann.received.length === texts.length);
    for (const { received } of [ann, bob]) assert.deepEqual(received, texts.map((text) => `ann: ${text}`));
    for (const number of upTo(300)) (number % 2 ? ann : bob).send(`${number}`);
    await until("all", () => [ann, bob].every(({ received }) => received.length === texts.length + 300));
    assert.deepEqual(ann.received, bob.received, "one order for all");
    for (const name of ["ann", "bob"]) {
      const sent = upTo(300).filter((number) => (number % 2 ? "ann" : "bob") === name);
      const own = ann.received.slice(texts.length).filter((line) => line.startsWith(name));
      assert.deepEqual(own, sent.map((number) => `${name}: ${number}`));
    }
    const before = await count(server, "stentor_members");
    ann.close();
    await until("ann has left", async () => (await count(server, "stentor_members")) === before - 1);
    bob.close();
    await until("bob has left", async () => (await count(server, "stentor_members")) === before - 2);
  },

  async "a new session resumes where another one ended"(server, transport) {
    const room = `resume-${transport}`;
    const ann = await member(server, transport, "ann", room, "&history=10");
    await until("the position", () => ann.received.length === 1);
    const position = ann.received[0].match(/^: since=(\S+):0$/)[1];
    for (const number of upTo(5)) ann.send(`${number}`);
    await until("all", () => ann.received.length === 6);
    ann.close();
    const again = await member(server, transport, "ann", room, `&since=${position}:2`);
    await until("the rest", () => again.received.length === 4);
    assert.deepEqual(again.received, ["ann: 3", "ann: 4", "ann: 5", `: since=${position}:5`]);
    again.close();
  },

  async "every message of an echo, in order, over many responses"(server, transport) {
    // Responses of this service end after 4096 bytes.
    const echo = await open(`http://127.0.0.1:${server.port}/sockjs-test/echo`, transport);
    const texts = upTo(1000).map((number) => `${number} %${number} ${"x".repeat(number % 97)}`);
    for (const text of texts) {
      echo.send(text);
      if (text.length % 7 === 0) await new Promise(setImmediate);
    }
    await until("all", () => echo.received.length === texts.length || echo.closed);
    assert.deepEqual([echo.received, echo.closed], [texts, null]);
    // One that is larger than a response.
    echo.send("y".repeat(20_000));
    await until("the large one", () => echo.received.length === texts.length + 1);
    assert.equal(echo.received.at(-1).length, 20_000);
    echo.close();
  },

  async "the server's close has a code"(server, transport) {
    const socket = new SockJS(`http://127.0.0.1:${server.port}/sockjs-test/close`, null, { transports: transport });
    const [{ code, reason, wasClean }] = await new Promise((resolve) => (socket.onclose = (...event) => resolve(event)));
    assert.deepEqual([code, reason, wasClean], [3000, "Go away!", true]);
  },

  async "a connection that is cut ends the session"(server, transport) {
    // In Node, the client does not notice that a streaming response is cut. It does in browsers.
    if (transport === "xhr-streaming") return;
    const network = await Network.start(server.port);
    const ann = await open(`http://127.0.0.1:${network.port}/sockjs?name=ann&room=cut-${transport}`, transport);
    network.cut();
    await until("its end", () => ann.closed);
    assert(![1000].includes(ann.closed.code), JSON.stringify(ann.closed));
    network.stop();
  },

  async "heartbeats, and a shutdown"(_, transport) {
    const server = await Server.start(stentor, "--shards", "2", "--ping-interval", "300ms", "--pong-timeout", "200ms");
    const ann = await member(server, transport, "ann", "room");
    if (transport !== "websocket") await until("heartbeats", () => ann.heartbeats >= 3);
    ann.send("still there");
    await until("the message", () => ann.received.length);
    const exit = once(server.process, "exit");
    server.process.kill("SIGTERM");
    await until("its end", () => ann.closed);
    // Codes below 3000 are those of a transport: 1001 is sent as 3001.
    assert.deepEqual([ann.closed.code, ann.closed.wasClean], [3001, true]);
    await exit;
  },
};

const others = {
  async "four hundred sessions of all transports in one room"(server) {
    const all = await Promise.all(upTo(400).map((index) => member(server, TRANSPORTS[index % 4], `m${index}`, "large")));
    await until("no others", async () => (await count(server, "stentor_members")) === 400);
    const publishers = all.slice(0, 20);
    for (const number of upTo(5)) for (const publisher of publishers) publisher.send(`message ${number}`);
    await until("all", () => all.every(({ received }) => received.length >= 100));
    for (const { received, transport } of all) assert.deepEqual(received, all[0].received, `one order for all: ${transport}`);
    for (const index of upTo(20)) {
      const own = all[0].received.filter((line) => line.startsWith(`m${index}: `));
      assert.deepEqual(own, upTo(5).map((number) => `m${index}: message ${number}`));
    }
    for (const one of all) one.close();
    await until("all have left", async () => (await count(server, "stentor_members")) === 0);
  },

  async "where WebSocket is blocked, another transport is used"(server) {
    // In Node, the client does not notice that an event stream is refused.
    for (const [blocked, expected, transports] of [
      [/^Upgrade: websocket/im, "xhr-streaming"],
      [/^Upgrade: websocket|\/xhr_streaming/im, "eventsource"],
      [/^Upgrade: websocket|\/xhr_streaming/im, "xhr-polling", ["websocket", "xhr-streaming", "xhr-polling"]],
    ]) {
      const network = await Network.start(server.port, blocked);
      const ann = await open(`http://127.0.0.1:${network.port}/sockjs?name=ann&room=blocked`, transports);
      assert.equal(ann.transport, expected);
      ann.send("hi");
      await until("the message", () => ann.received.length);
      assert.deepEqual(ann.received, ["ann: hi"]);
      ann.close();
      network.stop();
    }
    const off = await open(`http://127.0.0.1:${server.port}/sockjs-test/disabled_websocket_echo`);
    assert.equal(off.transport, "xhr-streaming");
    off.close();
  },

  async "members of any protocol share the room"(server) {
    const plain = new WebSocket(`ws://127.0.0.1:${server.port}/ws/plain?room=mixed`);
    const lines = [];
    plain.on("message", (data) => lines.push(String(data)));
    await once(plain, "open");
    const all = await Promise.all(TRANSPORTS.map((transport) => member(server, transport, transport, "mixed")));
    const raw = new WebSocket(`ws://127.0.0.1:${server.port}/sockjs/websocket?name=raw&room=mixed`);
    const rawLines = [];
    raw.on("message", (data) => rawLines.push(String(data)));
    await once(raw, "open");
    await until("six members", async () => (await count(server, "stentor_members")) === 6);
    plain.send("hi");
    raw.send("hi");
    for (const one of all) one.send("hi");
    const expected = ["plain", "raw", ...TRANSPORTS].map((name) => `${name}: hi`).sort();
    for (const received of [lines, rawLines, ...all.map(({ received }) => received)]) {
      await until("all", () => received.length === 6);
      assert.deepEqual([...received].sort(), expected);
      assert.deepEqual(received, lines, "one order for all");
    }
    plain.close();
    raw.close();
    for (const one of all) one.close();
  },

  async "a session that may not join gets the reason"(server) {
    for (const transport of ["xhr-polling", "xhr-streaming", "eventsource"]) {
      for (const query of ["name=a%00b&room=tea", "room=tea", "name=ann&room=a%00b", "name=ann&since=x"]) {
        const socket = new SockJS(`http://127.0.0.1:${server.port}/sockjs?${query}`, null, { transports: transport, timeout: 4000 });
        const { code, reason } = await new Promise((resolve) => (socket.onclose = resolve));
        assert.equal(code, 4400, `${query}: ${reason}`);
      }
    }
  },
};

const server = await Server.start(stentor, "--shards", "2", "--echo");
process.on("exit", () => server.process.kill("SIGKILL"));
for (const transport of TRANSPORTS) await run(`sockjs-client over ${transport}`, tests, server, transport);
await run("sockjs-client", others, server);
await server.end();
