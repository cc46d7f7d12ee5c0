// npm's centrifuge, as its authors publish it, without WebSocket: HTTP streaming and SSE, each with POST /emulation for its
// commands; and the unidirectional endpoints with plain clients. Against a server of its own: node emulation.mjs STENTOR
//
// There are two shards and many connections: a command arrives on any of the two.
import { Centrifuge } from "centrifuge";
import { EventSource } from "eventsource";
import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";
import { Server } from "./server.mjs";
import { Network, event, limit, run, subscribe, until, upTo } from "./support.mjs";

const stentor = process.argv[2];
limit(240);

const PATHS = { websocket: "/connection/websocket", http_stream: "/connection/http_stream", sse: "/connection/sse" };

/** A client that tries these transports at that port, in this order. */
const client = (port, transports, name, options = {}) => {
  const endpoint = (it) => `${it === "websocket" ? "ws" : "http"}://127.0.0.1:${port}${PATHS[it]}`;
  const centrifuge = new Centrifuge(transports.map((it) => ({ transport: it, endpoint: endpoint(it) })), {
    emulationEndpoint: `http://127.0.0.1:${port}/emulation`,
    websocket: WebSocket,
    eventsource: EventSource,
    data: { name },
    minReconnectDelay: 1,
    maxReconnectDelay: 30,
    ...options,
  });
  centrifuge.used = [];
  centrifuge.on("connected", ({ transport }) => centrifuge.used.push(transport));
  centrifuge.connect();
  return centrifuge;
};
const numbers = (subscription) => subscription.received.map(({ data }) => data.number);
const metric = async ({ port }, name) => {
  const page = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  const lines = page.split("\n").filter((line) => line.startsWith(name) && /[{ ]/.test(line[name.length]));
  assert(lines.length, `there is no metric ${name}`);
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
};

// Each of these with each of the two transports.
const tests = {
  async "connect, subscribe, publish, presence, joins and leaves, history"(server, transport) {
    const [ann, bob] = [client(server.port, [transport], "ann"), client(server.port, [transport], "bob")];
    const annSub = await subscribe(ann, `chat ${transport}`, { joinLeave: true });
    const bobSub = await subscribe(bob, `chat ${transport}`);
    assert.deepEqual([ann.used, bob.used], [[transport], [transport]]);
    await until("bob's join", () => annSub.joins.some(({ user }) => user === "bob"));
    const data = { text: 'Grüße\n\r\n"🙂"\u2028% %41', nested: [1, 2.5, null, true, {}] };
    await annSub.publish(data);
    await bob.publish(`chat ${transport}`, "two");
    await until("both", () => bobSub.received.length === 2 && annSub.received.length === 2);
    assert.deepEqual(bobSub.received.map((it) => it.data), [data, "two"]);
    assert.deepEqual(annSub.received.map((it) => it.info.user), ["ann", "bob"]);
    assert.deepEqual(await annSub.presenceStats(), { numClients: 2, numUsers: 2 });
    const { publications, offset } = await bobSub.history({ limit: 10 });
    assert.deepEqual([publications.map((it) => it.offset), offset], [[1, 2], 2]);
    await assert.rejects(ann.publish("elsewhere", 1), { code: 103 });
    await assert.rejects(ann.rpc("nothing", {}), { code: 104 });
    for (let round = 0; round < 10; round++) {
      bobSub.unsubscribe();
      bobSub.subscribe();
    }
    await bobSub.ready(10_000);
    await annSub.publish("three");
    await until("the third", () => bobSub.received.at(-1).data === "three");
    assert.equal(bobSub.received.length, 3);
    bobSub.unsubscribe();
    await until("bob's leave", () => annSub.leaves.some(({ user }) => user === "bob"));
    assert.deepEqual(await annSub.presenceStats(), { numClients: 1, numUsers: 1 });
    const before = await metric(server, "stentor_members");
    ann.disconnect();
    await until("its member is gone", async () => (await metric(server, "stentor_members")) === before - 1);
    bob.disconnect();
  },

  async "commands in parallel"(server, transport) {
    const ann = client(server.port, [transport], "ann");
    const rooms = await Promise.all(upTo(20).map((room) => subscribe(ann, `parallel ${transport} ${room}`)));
    await Promise.all(upTo(200).map((number) => rooms[number % 20].publish({ number })));
    await until("all", () => rooms.every(({ received }) => received.length === 10));
    for (const [room, subscription] of rooms.entries()) {
      assert.deepEqual(numbers(subscription).sort((a, b) => a - b), upTo(200).filter((number) => number % 20 === room));
    }
    // Several commands in one request.
    ann.startBatching();
    const replies = upTo(50).map((number) => rooms[0].publish({ number: 1000 + number }));
    ann.stopBatching();
    await Promise.all(replies);
    await until("the batch", () => rooms[0].received.length === 60);
    assert.deepEqual(numbers(rooms[0]).slice(10), upTo(50).map((number) => 1000 + number));
    ann.disconnect();
  },

  async "large messages, and one that is too large"(server, transport) {
    const [ann, bob] = [client(server.port, [transport], "ann", { timeout: 1000 }), client(server.port, [transport], "bob")];
    const [annSub, bobSub] = [await subscribe(ann, `large ${transport}`), await subscribe(bob, `large ${transport}`)];
    const texts = ["x".repeat(60_000), "ü🙂\n\"".repeat(4000), "%".repeat(30_000)];
    for (const text of texts) await annSub.publish({ text });
    await until("all", () => bobSub.received.length === texts.length);
    assert.deepEqual(bobSub.received.map(({ data }) => data.text), texts);
    // Only that command is lost.
    await assert.rejects(annSub.publish({ text: "x".repeat(70_000) }), { code: 1 });
    await annSub.publish({ text: "goes on" });
    await until("the next", () => bobSub.received.at(-1).data.text === "goes on");
    assert.deepEqual([ann.used, bob.used], [[transport], [transport]]);
    ann.disconnect();
    bob.disconnect();
  },

  async "disconnect codes"(server, transport) {
    const ann = client(server.port, [transport], "ann");
    await ann.ready();
    ann.send({ message: "ignored" });
    assert.equal((await event(ann, "disconnected")).code, 3508);
    const bad = client(server.port, [transport], "a\u0000b");
    assert.equal((await event(bad, "disconnected")).code, 107);
  },

  async "cuts while a room is busy: no gap and no duplicate"(server, transport) {
    const log=[]; const publisher = client(server.port, [transport], "publisher", { fetch: (u,o) => fetch(u,o).then((r) => { if (r.status>204) log.push([Date.now(),r.status,u]); return r; }, (e) => { log.push([Date.now(), String(e), String(e.cause)]); throw e; }) }); publisher.on("connecting",(c)=>log.push([Date.now(),"connecting",c]));publisher.on("error",(c)=>log.push([Date.now(),"error",c]));log.push(Date.now());
    const publications = await subscribe(publisher, `busy ${transport}`);
    const listeners = [];
    for (const index of upTo(10)) {
      const network = await Network.start(server.port);
      const listener = client(network.port, [transport], `listener ${index}`);
      listeners.push({ network, listener, subscription: await subscribe(listener, `busy ${transport}`) });
    }
    let [published, over] = [0, false];
    const publishing = (async () => {
      while (!over) {
        await publications.publish({ number: ++published }).catch((e) => { console.log("publish", published, e, publisher.used, log); process.exit(1); });
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    })();
    await Promise.all(listeners.map(async ({ network, subscription }) => {
      for (const cut of upTo(20)) {
        const back = event(subscription, "subscribed");
        network.cut();
        await back;
        if (cut % 5 === 0) await event(subscription, "publication");
      }
    }));
    over = true;
    await publishing;
    assert(published > 10, `only ${published} messages`);
    for (const { network, listener, subscription } of listeners) {
      await until("the last message", () => subscription.received.at(-1)?.data.number === published);
      assert.deepEqual(subscription.recoveries, Array(20).fill(true));
      assert.deepEqual(numbers(subscription), upTo(published));
      assert.deepEqual(subscription.received.map((it) => it.offset), upTo(published));
      listener.disconnect();
      network.stop();
    }
    publisher.disconnect();
  },

  async "three hundred clients at once"(server, transport) {
    const clients = upTo(300).map((index) => client(server.port, [transport], `client ${index}`, { timeout: 30_000 }));
    const all = await Promise.all(clients.map((one) => subscribe(one, `full ${transport}`)));
    await Promise.all(upTo(20).map((number) => all[number].publish({ number })));
    await until("all", () => all.every(({ received }) => received.length === 20));
    for (const one of all) assert.deepEqual(numbers(one), numbers(all[0]), "one order for all");
    assert.deepEqual(await all[7].presenceStats(), { numClients: 300, numUsers: 300 });
    for (const one of clients) one.disconnect();
  },

  async "pings are answered by request, or the client is gone"(_, transport) {
    const server = await Server.start(stentor, "--shards", "2", "--ping-interval", "1s", "--pong-timeout", "800ms");
    const pongs = { ann: 0, bob: 0 };
    const counting = (name, answers) => (url, options) => {
      if (String(url).endsWith("/emulation") && JSON.parse(options.body).data === "{}") {
        pongs[name] += 1;
        if (!answers) return new Promise(() => {});
      }
      return fetch(url, options);
    };
    const ann = client(server.port, [transport], "ann", { fetch: counting("ann", true) });
    const bob = client(server.port, [transport], "bob", { fetch: counting("bob", false) });
    await Promise.all([ann.ready(), bob.ready()]);
    const { code } = await event(bob, "connecting");
    assert.equal(code, 3012);
    await until("pongs", () => pongs.ann >= 4);
    assert(pongs.bob >= 1);
    assert.equal(ann.used.length, 1, "ann stayed");
    ann.disconnect();
    bob.disconnect();
    await server.end();
  },

  async "a restarted server: the history is lost, and the client is notified"(_, transport) {
    const server = await Server.start(stentor, "--shards", "2");
    const ann = client(server.port, [transport], "ann");
    const room = await subscribe(ann, "room");
    await room.publish(1);
    const shutdown = event(ann, "connecting");
    await server.end();
    assert.equal((await shutdown).code, 3001);
    const back = event(room, "subscribed");
    await server.begin();
    const context = await back;
    assert.deepEqual([context.wasRecovering, context.recovered], [true, false]);
    await room.publish(2);
    await until("the new one", () => room.received.at(-1)?.data === 2);
    assert.equal(room.received.at(-1).offset, 1);
    ann.disconnect();
    await server.end();
  },
};

const fallbacks = {
  async "the next transport is used where one is blocked"(server) {
    const all = ["websocket", "http_stream", "sse"];
    for (const [blocked, expected] of [
      [/^Upgrade: websocket/im, "http_stream"],
      [/^Upgrade: websocket|\/connection\/http_stream/im, "sse"],
    ]) {
      const network = await Network.start(server.port, blocked);
      const ann = client(network.port, all, "ann");
      const room = await subscribe(ann, `blocked for ${expected}`);
      assert.deepEqual(ann.used, [expected]);
      assert(network.refused >= 1);
      await room.publish({ number: 1 });
      // It resumes with the same transport.
      const back = event(room, "subscribed");
      network.cut();
      assert.equal((await back).recovered, true);
      await room.publish({ number: 2 });
      await until("both", () => room.received.length === 2);
      assert.deepEqual([numbers(room), ann.used], [[1, 2], [expected, expected]]);
      ann.disconnect();
      network.stop();
    }
  },

  async "members on all transports share a room, and resume on another transport"(server) {
    const members = [];
    for (const transport of Object.keys(PATHS)) {
      const member = client(server.port, [transport], transport);
      members.push({ member, subscription: await subscribe(member, "shared") });
    }
    for (const { subscription } of members) await subscription.publish("hi");
    for (const { subscription } of members) {
      await until("all three", () => subscription.received.length === 3);
      assert.deepEqual(subscription.received.map((it) => it.info.user), Object.keys(PATHS));
    }
    for (const { member } of members) member.disconnect();
  },
};

/** Reads a stream of lines into `lines`, until it ends. */
const readLines = async (body, lines) => {
  let rest = "";
  for await (const piece of body.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + piece).split("\n");
    rest = parts.pop();
    lines.push(...parts.filter(Boolean).map((line) => JSON.parse(line)));
  }
};

// The unidirectional endpoints: connect, and then only read. Each gives the lines that it receives; a WebSocket's end is one more.
const unidirectional = {
  sse(port, request) {
    const url = new URL(`http://127.0.0.1:${port}/connection/uni_sse`);
    url.searchParams.set("cf_connect", JSON.stringify(request));
    const lines = [];
    const source = new EventSource(url);
    source.onmessage = ({ data }) => lines.push(JSON.parse(data));
    return { lines, close: () => source.close() };
  },
  http_stream(port, request) {
    const [lines, abort] = [[], new AbortController()];
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request), signal: abort.signal };
    fetch(`http://127.0.0.1:${port}/connection/uni_http_stream`, options).then(({ body }) => readLines(body, lines)).catch(() => {});
    return { lines, close: () => abort.abort() };
  },
  websocket(port, request) {
    const lines = [];
    const socket = new WebSocket(`ws://127.0.0.1:${port}/connection/uni_websocket`);
    socket.on("open", () => socket.send(JSON.stringify(request)));
    socket.on("message", (frame) => lines.push(...String(frame).split("\n").filter(Boolean).map((line) => JSON.parse(line))));
    socket.on("close", (code) => lines.push({ disconnect: { code } }));
    return { lines, close: () => socket.close() };
  },
};

const uniTests = {
  async "connect, then pushes only; a position resumes"(server, name) {
    const publisher = client(server.port, ["websocket"], "publisher");
    const room = await subscribe(publisher, `for ${name}`);
    const request = { data: { name: "reader" }, name: "test", version: "1.0", subs: { [`for ${name}`]: {} } };
    const reader = unidirectional[name](server.port, request);
    await until("connect", () => reader.lines.length);
    const { connect, ...others } = reader.lines[0];
    assert.deepEqual(others, {}, "a push without id and without its wrapper");
    const { epoch } = connect.subs[`for ${name}`];
    assert(connect.client && epoch && connect.ping > 0, JSON.stringify(connect));
    assert.equal(connect.pong, undefined, "nobody answers");
    for (const number of upTo(5)) await room.publish({ number });
    const publications = ({ lines }) => lines.filter(({ pub }) => pub).map(({ channel, pub }) => [channel, pub.offset, pub.data.number]);
    await until("all", () => publications(reader).length === 5);
    assert.deepEqual(publications(reader), upTo(5).map((number) => [`for ${name}`, number, number]));
    reader.close();
    await until("it has left", async () => (await room.presenceStats()).numClients === 1);
    await room.publish({ number: 6 });
    request.subs[`for ${name}`] = { recover: true, epoch, offset: 3 };
    const again = unidirectional[name](server.port, request);
    await until("connect", () => again.lines.length);
    const { recovered, publications: missed = [] } = again.lines[0].connect.subs[`for ${name}`];
    assert.deepEqual([recovered, missed.map(({ data }) => data.number)], [true, [4, 5, 6]]);
    await room.publish({ number: 7 });
    await until("the next", () => publications(again).length === 1);
    assert.deepEqual(publications(again)[0], [`for ${name}`, 7, 7]);
    again.close();
    publisher.disconnect();
  },

  async "pings, and the server's end"(_, name) {
    const server = await Server.start(stentor, "--shards", "2", "--ping-interval", "300ms", "--pong-timeout", "200ms");
    const reader = unidirectional[name](server.port, { data: { name: "reader" }, subs: { room: {} } });
    const pings = () => reader.lines.filter((line) => Object.keys(line).length === 0).length;
    await until("pings", () => pings() >= 3);
    const exit = once(server.process, "exit");
    server.process.kill("SIGTERM");
    await until("the end", () => reader.lines.some(({ disconnect }) => disconnect));
    assert.equal(reader.lines.find(({ disconnect }) => disconnect).disconnect.code, 3001);
    reader.close();
    await exit;
  },
};

const server = await Server.start(stentor, "--shards", "2");
process.on("exit", () => server.process.kill("SIGKILL"));
const T=tests["commands in parallel"], U=tests["cuts while a room is busy: no gap and no duplicate"];
for (let i=0;i<15;i++) for (const transport of ["http_stream", "sse"]) { const s = await Server.start(stentor, "--shards", "2"); await T(s,transport); await U(s, transport); await s.end(); } process.exit(0);
await run("centrifuge", fallbacks, server);
for (const name of Object.keys(unidirectional)) await run(`unidirectional ${name}`, uniTests, server, name);
await server.end();
