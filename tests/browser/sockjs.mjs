// npm's sockjs-client, as its authors publish it, in a real Chromium against the real server: each transport that a browser
// has, on a page of the server's origin and on one of another, and without WebSocket.
//
//   node sockjs.mjs STENTOR
//
// Exits with 1 after the first test that fails.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { Server, TcpProxy, launch } from "./support.mjs";

const [stentor] = process.argv.slice(2);
assert(stentor, "usage: node sockjs.mjs STENTOR");
const CLIENT = readFileSync(createRequire(import.meta.url).resolve("sockjs-client/dist/sockjs.min.js"), "utf8");
const HTML = `<!doctype html><meta charset="utf-8"><title>sockjs</title><body><script>${CLIENT}</script>`;
const WAIT_MS = 20_000;

// The page of another origin, and of another site as well: to a browser, `localhost` and the address are two.
const elsewhere = createServer(({ url }, response) => {
  const isScript = url === "/sockjs.min.js";
  response.setHeader("Content-Type", isScript ? "text/javascript" : "text/html").end(isScript ? CLIENT : HTML);
}).listen(0, "127.0.0.1");
await once(elsewhere, "listening");
const elsewhereOrigin = `http://127.0.0.1:${elsewhere.address().port}`;

// The page for iframes loads the client from elsewhere, as it does by default.
const script = `${elsewhereOrigin}/sockjs.min.js`;
const settings = { STENTOR_ECHO: "true", STENTOR_ORIGINS: `same-host,${elsewhereOrigin}`, STENTOR_SOCKJS_SCRIPT: script };
const server = new Server(stentor, settings);
await server.start();
const home = `http://localhost:${server.port}`;
const proxy = new TcpProxy(server);
await proxy.start();
// Chromium takes a page that a test provides for one of another network.
const browser = await launch(["--disable-features=LocalNetworkAccessChecks"]);

/** A page of that origin with the client in it. */
async function open(origin, prepare = async () => {}) {
  const context = await browser.newContext();
  await context.route(`${home}/page-of-a-test`, (route) => route.fulfill({ contentType: "text/html", body: HTML }));
  const page = await context.newPage();
  // A script that is being loaded cannot be aborted: it calls a function of a session that is closed.
  page.on("pageerror", (error) => /_jp\.\w+ is not a function/.test(error) || console.log(`  in the page: ${error}`));
  await prepare(page);
  await page.goto(`${origin}/page-of-a-test`);
  await page.evaluate(() => {
    const sessions = (window.sessions = {});
    window.join = (name, url, transports) =>
      new Promise((resolve) => {
        const session = new SockJS(url, null, { transports, timeout: 4000 });
        sessions[name] = { session, received: [], closed: null };
        session.onmessage = ({ data }) => sessions[name].received.push(data);
        session.onopen = () => resolve(session.transport);
        session.onclose = ({ code, reason, wasClean }) => {
          sessions[name].closed = [code, reason, wasClean];
          resolve(`closed: ${code} ${reason}`);
        };
      });
  });
  return page;
}
const join = (page, name, url, transports) => page.evaluate((all) => window.join(...all), [name, url, transports]);
const send = (page, name, texts) =>
  page.evaluate(([name, texts]) => texts.forEach((text) => window.sessions[name].session.send(text)), [name, texts]);
const received = async (page, name, count) => {
  const isThere = ([name, count]) => window.sessions[name].received.length >= count || window.sessions[name].closed;
  await page.waitForFunction(isThere, [name, count], { timeout: WAIT_MS });
  return page.evaluate((name) => window.sessions[name].received, name);
};
const closed = async (page, name) => {
  await page.waitForFunction((name) => window.sessions[name].closed, name, { timeout: WAIT_MS });
  return page.evaluate((name) => window.sessions[name].closed, name);
};
const members = async () => {
  const page = await (await fetch(`http://127.0.0.1:${server.port}/metrics`)).text();
  return page.split("\n").filter((line) => /^stentor_members[{ ]/.test(line)).reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
};
async function untilMembers(count) {
  const end = Date.now() + WAIT_MS;
  while ((await members()) !== count) assert(Date.now() < end, `not ${count} members, but ${await members()}`);
}
async function test(name, run) {
  const begun = Date.now();
  try {
    await run();
  } catch (error) {
    console.log(`not ok  ${name}`);
    throw error;
  }
  console.log(`ok  ${name} (${Date.now() - begun} ms)`);
}

const TEXTS = ["hi", 'Grüße 🙂 "\\/%41 100 % +&=', "\u200d\u2060\ufff0\u2028", "x".repeat(20_000), "</script><!--", "  "];

/** What each transport must do, on a page of that origin. */
async function chat(origin, transport) {
  const page = await open(origin);
  const room = `${transport}-${origin === home ? "home" : "elsewhere"}`;
  for (const name of ["ann", "bob"]) {
    assert.equal(await join(page, name, `${home}/sockjs?name=${name}&room=${room}`, transport), transport);
  }
  await untilMembers(2);
  await send(page, "ann", TEXTS);
  const lines = TEXTS.map((text) => `ann: ${text.replace("\u2028", "␤")}`);
  for (const name of ["ann", "bob"]) assert.deepEqual(await received(page, name, TEXTS.length), lines);
  const numbers = Array.from({ length: 60 }, (_, number) => `${number}`);
  for (const number of numbers) await send(page, number % 2 ? "ann" : "bob", [number]);
  const all = (await received(page, "ann", TEXTS.length + 60)).slice(TEXTS.length);
  assert.deepEqual((await received(page, "bob", TEXTS.length + 60)).slice(TEXTS.length), all, "one order for all");
  for (const name of ["ann", "bob"]) {
    const own = numbers.filter((number) => (number % 2 ? "ann" : "bob") === name).map((number) => `${name}: ${number}`);
    assert.deepEqual(all.filter((line) => line.startsWith(name)), own);
  }
  await page.evaluate(() => window.sessions.ann.session.close());
  await untilMembers(1);
  // The page goes away without a word.
  await page.context().close();
  await untilMembers(0);
}

/** A stream of this service ends after 4096 bytes, and the next one continues it. */
async function echo(origin, transport) {
  const page = await open(origin);
  assert.equal(await join(page, "echo", `${home}/sockjs-test/echo`, transport), transport);
  const texts = Array.from({ length: 300 }, (_, number) => `${number} %${number} ${"y".repeat(number % 89)}`);
  for (let at = 0; at < texts.length; at += 20) await send(page, "echo", texts.slice(at, at + 20));
  assert.deepEqual(await received(page, "echo", texts.length), texts);
  await join(page, "close", `${home}/sockjs-test/close`, transport);
  assert.deepEqual(await closed(page, "close"), [3000, "Go away!", true]);
  await page.context().close();
}

const EVERYWHERE = ["websocket", "xhr-streaming", "eventsource", "iframe-eventsource", "iframe-htmlfile", "xhr-polling", "iframe-xhr-polling", "jsonp-polling"];

try {
  for (const [origin, which] of [[home, "its own origin"], [elsewhereOrigin, "another origin"]]) {
    // The htmlfile transport is for the server's own pages; for others it is in an iframe.
    for (const transport of origin === home ? [...EVERYWHERE, "htmlfile"] : EVERYWHERE) {
      await test(`${transport}, on a page of ${which}`, () => chat(origin, transport));
      await test(`${transport}, on a page of ${which}: an echo over many responses`, () => echo(origin, transport));
    }
  }

  await test("without WebSocket, the client takes another transport", async () => {
    const page = await open(home, (page) => page.addInitScript(() => delete window.WebSocket));
    assert.equal(await join(page, "ann", `${home}/sockjs?name=ann&room=without`), "xhr-streaming");
    await send(page, "ann", ["hi"]);
    assert.deepEqual(await received(page, "ann", 1), ["ann: hi"]);
    await page.context().close();
  });

  await test("a cut connection ends the session, and another one resumes", async () => {
    const origin = `http://localhost:${proxy.port}`;
    for (const transport of ["websocket", "xhr-streaming", "xhr-polling", "iframe-eventsource"]) {
      const page = await open(elsewhereOrigin);
      const url = `${origin}/sockjs?name=ann&room=cut-${transport}`;
      assert.equal(await join(page, "ann", `${url}&history=1`, transport), transport);
      const [line] = await received(page, "ann", 1);
      await send(page, "ann", ["one"]);
      await received(page, "ann", 2);
      proxy.cut();
      proxy.restore();
      // The library's own code, or what the server answers the next request.
      const [code] = await closed(page, "ann");
      assert([1002, 1006].includes(code), `${transport}: ${code}`);
      const since = line.split("since=")[1];
      assert.equal(await join(page, "again", `${url}&since=${since}`, transport), transport);
      assert.deepEqual((await received(page, "again", 2))[0], "ann: one");
      await page.context().close();
    }
  });

  await test("a page of an origin that is not listed gets nothing", async () => {
    const page = await open(`http://localhost:${elsewhere.address().port}`);
    for (const transport of ["websocket", "xhr-streaming", "eventsource", "xhr-polling", "jsonp-polling"]) {
      assert.match(await join(page, transport, `${home}/sockjs?name=eve&room=without`, transport), /^closed: /, transport);
    }
    await page.context().close();
    await untilMembers(0);
  });

  await test("the page for iframes works for listed pages only", async () => {
    for (const [origin, expected] of [[elsewhereOrigin, 1], [`http://localhost:${elsewhere.address().port}`, 0]]) {
      const page = await open(origin);
      const messages = await page.evaluate(async (home) => {
        const messages = [];
        addEventListener("message", ({ data }) => messages.push(data));
        const frame = Object.assign(document.createElement("iframe"), { src: `${home}/sockjs/iframe.html#abcdefgh` });
        // Its script sends first, and a page that may not be shown is loaded as well: empty.
        const loaded = new Promise((resolve) => (frame.onload = resolve));
        document.body.append(frame);
        await loaded;
        await new Promise(requestAnimationFrame);
        return messages;
      }, home);
      assert.equal(messages.length, expected, `${origin}: ${messages}`);
      await page.context().close();
    }
  });

  await test("a shutdown has its code on every transport", async () => {
    const page = await open(home);
    const streams = ["websocket", "xhr-streaming", "eventsource", "iframe-eventsource"];
    for (const transport of streams) await join(page, transport, `${home}/sockjs?name=${transport}&room=end`, transport);
    await server.stop();
    for (const name of streams) {
      assert.deepEqual((await closed(page, name)).slice(0, 1), [3001], name);
    }
  });
} finally {
  await browser.close();
  proxy.stop();
  server.kill();
  elsewhere.close();
}
