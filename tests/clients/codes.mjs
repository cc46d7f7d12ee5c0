// docs/codes.md says what npm's centrifuge does about each number. Here each row is played: node codes.mjs STENTOR
//
// First against a server that lets the client in, answers everything, and sends that number where the row says so, once. Then what
// Stentor itself can be brought to within a minute.
import { Centrifuge } from "centrifuge";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket, { WebSocketServer } from "ws";
import { Server } from "./server.mjs";

const stentor = process.argv[2];
setTimeout(() => {
  console.error("no end after 150 s");
  process.exit(1);
}, 150_000).unref();

const QUICK = { minReconnectDelay: 1, maxReconnectDelay: 30 };
const QUICK_SUB = { minResubscribeDelay: 1, maxResubscribeDelay: 30 };
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The rows of every table whose header begins with `header`, as objects by column. */
const tables = (header) => {
  const lines = readFileSync(new URL("../../docs/codes.md", import.meta.url), "utf8").split("\n");
  const cells = (line) => line.split("|").slice(1, -1).map((cell) => cell.trim());
  const rows = [];
  lines.forEach((line, at) => {
    if (!line.startsWith(header)) return;
    const columns = cells(line);
    for (const row of lines.slice(at + 2)) {
      if (!row.startsWith("|")) break;
      rows.push(Object.fromEntries(cells(row).map((cell, index) => [columns[index], cell])));
    }
  });
  return rows;
};

/** A server of the protocol that says yes to everything, but for what `meddle(method, socket, command)` answers instead. */
class Fake {
  static async start(meddle) {
    const fake = new Fake();
    fake.commands = [];
    fake.connections = 0;
    fake.server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    await new Promise((resolve) => fake.server.once("listening", resolve));
    fake.server.on("connection", (socket) => {
      fake.connections += 1;
      socket.on("error", () => {});
      socket.on("message", (frame) => {
        for (const line of String(frame).split("\n")) fake.command(socket, JSON.parse(line), meddle);
      });
    });
    return fake;
  }

  command(socket, command, meddle) {
    const { id, ...methods } = command;
    const [method] = Object.keys(methods);
    if (!method) return;
    this.commands.push([method, command[method]]);
    if (meddle(method, socket, command)) return;
    const expiry = { expires: true, ttl: 1 };
    const results = {
      connect: { client: `c${this.connections}`, ...(this.expiring === "refresh" ? expiry : {}) },
      subscribe: this.expiring === "sub_refresh" ? expiry : {},
    };
    socket.send(JSON.stringify({ id, [method]: results[method] ?? {} }));
  }

  get url() {
    return `ws://127.0.0.1:${this.server.address().port}`;
  }

  end() {
    for (const socket of this.server.clients) socket.terminate();
    this.server.close();
  }
}

/** A client that writes down what happens to it, with one room; `token()` makes tokens. */
const watched = (url, { withTokens = true, options = {}, subOptions = {}, subscribed = true } = {}) => {
  let tokens = 0;
  const getToken = async () => `token ${++tokens}`;
  const seen = [];
  const tokenOptions = withTokens ? { getToken } : {};
  const client = new Centrifuge(url, { websocket: WebSocket, ...QUICK, ...tokenOptions, ...options });
  for (const name of ["connecting", "connected", "disconnected", "error"]) {
    client.on(name, (context) => seen.push([name, context.code ?? context.error?.code, context]));
  }
  const sub = client.newSubscription("room", { ...QUICK_SUB, ...tokenOptions, ...subOptions });
  for (const name of ["subscribing", "subscribed", "unsubscribed", "error"]) {
    sub.on(name, (context) => seen.push([`sub ${name}`, context.code ?? context.error?.code, context]));
  }
  if (subscribed) sub.subscribe();
  client.connect();
  const until = async (what, condition, ms = 40_000) => {
    const end = Date.now() + ms;
    while (!condition()) {
      assert(Date.now() < end, `never ${what}: ${JSON.stringify(seen.map(([name, code]) => [name, code]))}`);
      await pause(5);
    }
  };
  const count = (name) => seen.filter(([other]) => other === name).length;
  return { client, sub, seen, until, count, tokens: () => tokens };
};

/** Plays one row: `send(socket, command)` sends its number, once, where `where(method)` says; `final` is how long nothing may follow. */
const play = async (row, where, send, expiring) => {
  let sent = 0;
  let tokensThen = 0;
  const fake = await Fake.start((method, socket, command) => {
    if (sent || !where(method)) return false;
    sent += 1;
    tokensThen = one.tokens();
    send(socket, command);
    return true;
  });
  fake.expiring = expiring;
  const getState = row["reply to"]?.includes("getState");
  const subOptions = getState ? { getState: async () => ({ offset: 1, epoch: "e" }) } : {};
  const one = watched(fake.url, { subOptions });
  const { client, sub, until, count, tokens } = one;
  try {
    await until("a connection", () => fake.connections > 0);
    if (["publish", "history", "rpc"].some((method) => where(method))) {
      await until("connected", () => client.state === "connected");
      const calls = { publish: () => client.publish("room", 1), history: () => client.history("room"), rpc: () => client.rpc("x", 1) };
      const [, call] = Object.entries(calls).find(([method]) => where(method));
      const error = await call().then(() => assert.fail("it succeeded"), (error) => error);
      assert.equal(error.code, Number(row.code));
      assert.equal(error.temporary ?? false, row.temporary === "yes");
    }
    await until("sent", () => sent > 0);
    const connectionsThen = fake.connections;
    switch (row["the SDK"]) {
      case "reconnects":
        await until("back", () => fake.connections > connectionsThen && client.state === "connected" && sub.state === "subscribed");
        break;
      case "reconnects with a new token":
        await until("back", () => fake.connections > connectionsThen && client.state === "connected");
        assert(tokens() > tokensThen);
        break;
      case "disconnected for good":
        await until("disconnected", () => client.state === "disconnected");
        await pause(300);
        assert.deepEqual([client.state, fake.connections], ["disconnected", connectionsThen]);
        break;
      case "subscribes again":
        await until("subscribed", () => fake.commands.filter(([method]) => method === "subscribe").length > 1 && sub.state === "subscribed");
        assert.deepEqual([client.state, fake.connections], ["connected", connectionsThen]);
        break;
      case "subscribes again with a new token":
        await until("subscribed", () => sub.state === "subscribed");
        assert(tokens() > tokensThen);
        assert.equal(fake.connections, connectionsThen);
        break;
      case "refreshes again with a new token":
        await until("refreshed", () => fake.commands.filter(([method]) => method === row["reply to"]).length > 1);
        await pause(300);
        assert(tokens() > tokensThen);
        assert.deepEqual([client.state, sub.state, fake.connections], ["connected", "subscribed", connectionsThen]);
        break;
      case "unsubscribed for good":
        await until("unsubscribed", () => count("sub unsubscribed") === 1);
        await pause(300);
        assert.deepEqual([client.state, sub.state, fake.connections], ["connected", "unsubscribed", connectionsThen]);
        break;
      case "the call fails":
        await pause(300);
        assert.deepEqual([client.state, sub.state, fake.connections], ["connected", "subscribed", connectionsThen]);
        break;
      default:
        assert.fail(`the table says ${row["the SDK"]}`);
    }
  } finally {
    client.disconnect();
    fake.end();
  }
};

const errorRow = (row) => {
  const method = row["reply to"].split(",")[0];
  const error = { code: Number(row.code), message: row.message, ...(row.temporary === "yes" && { temporary: true }) };
  const send = (socket, { id }) => socket.send(JSON.stringify({ id, error }));
  return play(row, (it) => it === method, send, method);
};

const unsubscribeRow = (row) => {
  const push = { channel: "room", unsubscribe: { code: Number(row.code), reason: row.reason } };
  return play(row, (it) => it === "subscribe", (socket, { id }) => {
    socket.send(JSON.stringify({ id, subscribe: {} }) + "\n" + JSON.stringify({ push }));
  });
};

const disconnectRow = (row) => {
  const code = Number(row.code);
  return play(row, (it) => it === "subscribe", (socket) => (code === 1006 ? socket.terminate() : socket.close(code, row.reason)));
};

const rows = [
  ...tables("| code | message |").map((row) => [`error ${row.code} to ${row["reply to"]}`, () => errorRow(row)]),
  ...tables("| code | reason |").map((row) =>
    Number(row.code) >= 2000 && Number(row.code) < 3000
      ? [`unsubscribe ${row.code}`, () => unsubscribeRow(row)]
      : [`disconnect ${row.code}`, () => disconnectRow(row)]),
];
// Beside the table: what decides about numbers that an auth backend chooses.
for (const [code, outcome] of [[4001, "reconnects"], [4501, "disconnected for good"]]) {
  rows.push([`disconnect ${code}`, () => disconnectRow({ code, reason: "x", "the SDK": outcome })]);
}
assert(rows.length > 40, `only ${rows.length} rows`);

// --- Stentor itself. Each test has users of its own; tokens are made when they are asked for.

const folder = mkdtempSync(join(tmpdir(), "stentor-codes-"));
const config = join(folder, "stentor.toml");
writeFileSync(join(folder, "secret"), "a secret of more than thirty-two bytes");
writeFileSync(config, `auth = "token"\ntoken_hmac_secret_files = [${JSON.stringify(join(folder, "secret"))}]\n` +
  `max_connections_per_user = 2\nmax_rooms_per_client = 3\n[[room]]\npattern = "private"\nsubscribe = "token"\n` +
  `[[room]]\npattern = "slow"\nmax_messages_per_second = 1\n`);
const token = (...options) => execFileSync(stentor, ["token", "make", "--config", config, ...options], { encoding: "utf8" }).trim();
const user = (name, expires = "1h") => () => token("--user", name, "--expires", expires);

/** A client of the running server whose tokens are `tokens`, one after the other; the last one for ever. */
const real = (server, tokens, rest = {}) => {
  let at = 0;
  const getToken = async () => tokens[Math.min(at++, tokens.length - 1)]();
  const one = watched(server.url, { ...rest, withTokens: false, options: { getToken, ...rest.options }, subscribed: false });
  return { ...one, tokens: () => at };
};

const REAL = {
  async "109 to connect: it fetches a new token"(server) {
    const one = real(server, [user("a", "0s"), user("a")]);
    await one.until("connected", () => one.client.state === "connected");
    assert.equal(one.tokens(), 2);
    assert.deepEqual(one.seen.filter(([name]) => name === "error").map(([, code]) => code), [109]);
    return one;
  },

  async "3500, 3501: final"(server) {
    for (const [make, code] of [[() => "a.b.c", 3500], [() => token("--user", "x", "--room", "r"), 3500]]) {
      const one = real(server, [make]);
      await one.until("disconnected", () => one.client.state === "disconnected");
      assert.equal(one.seen.at(-1)[1], code);
    }
    const one = watched(server.url, { withTokens: false, subscribed: false });
    await one.until("disconnected", () => one.client.state === "disconnected");
    assert.equal(one.seen.at(-1)[1], 3501);
    return one;
  },

  async "109 to subscribe and to sub_refresh: it fetches a new token each time, and stays"(server) {
    const one = real(server, [user("b")]);
    const tokens = ["0s", "2s", "0s", "1h"].map((expires) => () => token("--user", "b", "--room", "private", "--expires", expires));
    let at = 0;
    const received = [];
    const sub = one.client.newSubscription("private", { ...QUICK_SUB, getToken: async () => tokens[Math.min(at++, 3)]() });
    for (const name of ["error", "subscribed", "unsubscribed", "subscribing"]) sub.on(name, (context) => received.push([name, context.error?.code ?? context.code]));
    sub.subscribe();
    await one.until("the fourth token", () => at >= 4);
    await pause(500);
    assert.equal(sub.state, "subscribed");
    const codes = received.map(([name, code]) => `${name} ${code ?? ""}`.trim());
    assert.deepEqual(codes, ["subscribing 0", "error 109", "subscribed", "error 109"]);
    return one;
  },

  async "3005 for a refresh that comes too late: it is back with a new token"(server) {
    const one = real(server, [user("c", "2s"), user("c", "0s"), user("c")]);
    await one.until("connected again", () => one.count("connected") === 2);
    assert(one.seen.some(([name, code]) => name === "connecting" && code === 3005), JSON.stringify(one.seen));
    assert(one.seen.some(([name, code]) => name === "error" && code === 109));
    return one;
  },

  async "4004: one too many comes in when another leaves"(server) {
    const inside = [real(server, [user("d")]), real(server, [user("d")])];
    for (const one of inside) await one.until("connected", () => one.client.state === "connected");
    // While it connects the SDK does not tell the code, only that it tries again.
    const codes = [];
    class Noted extends WebSocket {
      constructor(...more) {
        super(...more);
        this.on("close", (code) => codes.push(code));
      }
    }
    const third = real(server, [user("d")], { options: { websocket: Noted } });
    await third.until("refused", () => codes.length >= 3);
    assert.deepEqual(codes.slice(0, 3), [4004, 4004, 4004]);
    assert.equal(third.client.state, "connecting");
    inside[0].client.disconnect();
    await third.until("connected", () => third.client.state === "connected");
    inside[1].client.disconnect();
    return third;
  },

  async "103, 104, 106, 107, 112: what a call or a subscription fails with"(server) {
    const one = real(server, [user("e")]);
    await one.until("connected", () => one.client.state === "connected");
    await assert.rejects(one.client.publish("elsewhere", 1), { code: 103 });
    await assert.rejects(one.client.rpc("nothing", {}), { code: 104 });
    await assert.rejects(one.client.rpc("delivery", {}), { code: 107 });
    const ended = async (channel, options = {}) => {
      const sub = one.client.newSubscription(channel, { ...QUICK_SUB, ...options });
      const outcome = new Promise((resolve) => {
        sub.once("unsubscribed", ({ code }) => resolve(code));
        sub.once("subscribed", () => resolve(0));
      });
      sub.subscribe();
      return [await outcome, sub];
    };
    assert.equal((await ended("private"))[0], 103);
    assert.equal((await ended("private ", { token: "x" }))[0], 107);
    assert.equal((await ended("room\u200B"))[0], 107);
    assert.equal((await ended("x".repeat(256)))[0], 107);
    const [, first] = await ended("r1");
    await assert.rejects(first.history({ limit: 1, since: { offset: 1, epoch: "other" } }), { code: 112 });
    assert.equal((await ended("r2"))[0], 0);
    assert.equal((await ended("r3"))[0], 0);
    assert.equal((await ended("r4"))[0], 106);
    return one;
  },

  async "111 to a call; 3013 to clients that keep sending, and they reconnect"(server) {
    const one = real(server, [user("f")]);
    await one.until("connected", () => one.client.state === "connected");
    const sub = one.client.newSubscription("slow", QUICK_SUB);
    sub.subscribe();
    await sub.ready(5_000);
    const publish = async (count) => {
      const outcomes = await Promise.allSettled(Array.from({ length: count }, (_, number) => sub.publish(number)));
      return outcomes.map(({ reason }) => reason?.code ?? 0);
    };
    assert.deepEqual(await publish(5), [0, 0, 111, 111, 111]);
    await publish(40);
    await one.until("connected again", () => one.count("connected") === 2);
    assert(one.seen.some(([name, code]) => name === "connecting" && code === 3013));
    return one;
  },

  async "3508 for send, 1009 for what is too big: final"(server) {
    const one = real(server, [user("g")]);
    await one.until("connected", () => one.client.state === "connected");
    one.client.send({ message: "ignored" });
    await one.until("disconnected", () => one.client.state === "disconnected");
    assert.equal(one.seen.at(-1)[1], 3508);
    const other = real(server, [user("h")]);
    await other.until("connected", () => other.client.state === "connected");
    other.client.publish("room", "x".repeat(70_000)).catch(() => {});
    await other.until("disconnected", () => other.client.state === "disconnected");
    assert.equal(other.seen.at(-1)[1], 3, "the SDK's own number for 1009");
    return one;
  },
};

const begun = Date.now();
const server = await Server.start(stentor, "--config", config, "--shards", "2");
process.on("exit", () => server.process.kill("SIGKILL"));
const failures = [];
const check = async (name, test) => {
  try {
    await test();
  } catch (error) {
    failures.push(name);
    console.error(`codes: ${name}: ${error.stack}`);
  }
};
// Refreshes are tried again after 5 to 20 s: so all at once.
await Promise.all([
  ...rows.map(([name, test]) => check(name, test)),
  ...Object.entries(REAL).map(([name, test]) => check(`stentor: ${name}`, async () => (await test(server)).client.disconnect())),
]);
await server.end();
assert.deepEqual(failures, []);
console.log(`codes: ${rows.length} rows of the table and ${Object.keys(REAL).length} with the running server: ok (${Date.now() - begun} ms)`);
