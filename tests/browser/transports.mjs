// The chat page where WebSockets or streams do not get through: it falls back to server-sent events and to long polling, says so,
// and goes on where it was. In a real Chromium against the real server, behind nginx and behind a proxy that refuses requests.
//
//   node transports.mjs STENTOR OUT
//
// Screenshots of each transport go to OUT. Exits with 1 after the first test that fails.
import { mkdirSync } from "node:fs";
import assert from "node:assert/strict";
import { Browser, Nginx, Server, TcpProxy, allMessageTexts, assertAccessible, assertFitsScreen, canPublish, connected } from "./support.mjs";
import { joinRoom, message, publish, roomButton, signIn, tests, token } from "./support.mjs";

const [stentor, out] = process.argv.slice(2);
assert(stentor && out, "usage: node transports.mjs STENTOR OUT");
mkdirSync(out, { recursive: true });

const SECRET = "a secret of this test, 32 bytes or more";
const PHONE = { viewport: { width: 360, height: 640 }, hasTouch: true, isMobile: true };
const WEBSOCKET = /^GET \/connection\/websocket HTTP.*^upgrade:/ims;
const STREAM = /^GET \/connection\/(websocket HTTP.*^upgrade:|sse)/ims;

const server = new Server(stentor, {}, '[[room]]\npattern = "live"\nhistory = 0\n');
const tokenServer = new Server(stentor, { STENTOR_AUTH: "token", STENTOR_TOKEN_HMAC_SECRET: SECRET });
const servers = [server, tokenServer];
for (const one of servers) await one.start();
const proxy = new TcpProxy(server);
await proxy.start();
const nginxes = [];
const browser = new Browser(`http://localhost:${proxy.port}`);
await browser.start();
const test = tests(browser);
const direct = () => browser.open({ origin: `http://localhost:${server.port}` });
const uses = (page, label) => page.locator("#state[data-state=connected] #transport", { hasText: label }).waitFor({ timeout: 40_000 });

async function behindNginx(options, to = server) {
  const nginx = new Nginx(to);
  nginxes.push(nginx);
  await nginx.start(options);
  return `http://localhost:${nginx.port}`;
}

/** A screenshot, and axe-core's check, in both themes. */
async function picture(page, name) {
  for (const theme of ["light", "dark"]) {
    await page.evaluate((theme) => (document.documentElement.dataset.theme = theme), theme);
    await assertAccessible(page, `${name}, ${theme}`);
    await page.screenshot({ path: `${out}/transport-${name}${theme === "dark" ? "-dark" : ""}.png` });
  }
  await page.evaluate(() => (document.documentElement.dataset.theme = "light"));
}

/** Two pages exchange messages: `page` over the transport under test, `other` over a WebSocket. */
async function exchange(page, name, other, otherName) {
  await publish(other, `${otherName} is here.`);
  await message(page, otherName, `${otherName} is here.`).waitFor();
  await publish(page, `${name} is here, too.\nWith "quotes" and 世界 🙂`);
  await message(other, name, "世界 🙂").waitFor();
  await page.locator("#log .message.own", { hasText: "世界 🙂" }).waitFor();
  await page.locator("#latency", { hasText: / ms$/ }).waitFor();
  assert.equal(await page.locator(".unsent").count(), 0);
}

try {
  await test("where WebSockets get through, nothing else is tried", async () => {
    const page = await browser.open();
    await signIn(page, "Ann", "first");
    await uses(page, "WebSocket");
    assert.equal(await page.evaluate(() => localStorage.getItem("stentor.transport")), null);
    await picture(page, "websocket");
    await page.context().close();
  });

  await test("a proxy that lets no WebSocket through: server-sent events, over HTTP/1.0", async () => {
    const other = await direct();
    await signIn(other, "Bob", "sse");
    const page = await browser.open({ origin: await behindNginx() });
    await signIn(page, "Ann", "sse");
    await uses(page, "SSE");
    await exchange(page, "Ann", other, "Bob");
    await page.locator("#members .member", { hasText: "Bob" }).waitFor();
    await page.locator("#members-heading", { hasText: "Members (2)" }).waitFor();
    await picture(page, "sse");
    for (const one of [page, other]) await one.context().close();
  });

  await test("a proxy that collects streams, but lets WebSockets through: a WebSocket", async () => {
    const page = await browser.open({ origin: await behindNginx({ passesUpgrades: true, buffers: true }) });
    await signIn(page, "Ann", "collected");
    await uses(page, "WebSocket");
    await page.context().close();
  });

  await test("a proxy that does both: long polling, which the next page begins with", async () => {
    const other = await direct();
    await signIn(other, "Bob", "polled");
    await publish(other, "before");
    const page = await browser.open({ origin: await behindNginx({ buffers: true }) });
    await signIn(page, "Ann", "polled");
    await uses(page, "Long polling");
    await message(page, "Bob", "before").waitFor();
    await other.locator("#members-heading", { hasText: "Members (2)" }).waitFor();
    await exchange(page, "Ann", other, "Bob");
    await page.locator("#members", { hasText: "Long polling does not say who is here." }).waitFor();
    await picture(page, "poll");
    const requested = [];
    page.on("request", (request) => requested.push(new URL(request.url()).pathname));
    await page.reload();
    await uses(page, "Long polling");
    await message(page, "Ann", "世界 🙂").waitFor();
    assert(!requested.some((path) => path.startsWith("/connection/")), requested.join());
    for (const one of [page, other]) await one.context().close();
  });

  await test("from one transport to the next one and back: nothing is missing, and nothing twice", async () => {
    const page = await browser.open();
    const other = await direct();
    const expected = [];
    const say = async (from, text) => {
      expected.push(text);
      await publish(from, text);
    };
    await signIn(page, "Ann", "changes");
    await signIn(other, "Bob", "changes");
    await uses(page, "WebSocket");
    await say(page, "over a WebSocket");
    for (const [refused, label] of [[WEBSOCKET, "SSE"], [STREAM, "Long polling"]]) {
      await message(page, /./, expected.at(-1)).waitFor();
      proxy.refuses = refused;
      proxy.cut();
      for (const number of [1, 2, 3]) await say(other, `before ${label} ${number}`);
      await message(other, "Bob", `before ${label} 3`).waitFor();
      proxy.restore();
      await uses(page, label);
      await message(page, "Bob", `before ${label} 3`).waitFor();
      await say(page, `over ${label}`);
      await message(other, "Ann", `over ${label}`).waitFor();
      await say(other, `answered over ${label}`);
    }
    await message(page, "Bob", "answered over Long polling").waitFor();
    proxy.refuses = null;
    await page.evaluate(() => dispatchEvent(new Event("online")));
    for (const number of [1, 2, 3]) await say(other, `during the change back ${number}`);
    await uses(page, "WebSocket");
    await say(page, "over a WebSocket again");
    await message(page, "Ann", "over a WebSocket again").waitFor();
    for (const one of [page, other]) assert.deepEqual(await allMessageTexts(one), expected);
    assert.equal(await page.locator("#log .gap, .unsent").count(), 0);
    assert.equal(await page.locator("#log .own").count(), 4);
    await page.locator("#members .member", { hasText: "Bob" }).waitFor();
    assert.equal(await page.evaluate(() => localStorage.getItem("stentor.transport")), null);
    for (const one of [page, other]) await one.context().close();
  });

  await test("a server that cannot be reached does not change the transport", async () => {
    const page = await browser.open();
    await signIn(page, "Ann", "down");
    proxy.cut();
    await page.locator("#state[data-state=waiting]", { hasText: "the server cannot be reached" }).waitFor();
    proxy.restore();
    await uses(page, "WebSocket");
    await page.context().close();
  });

  await test("a proxy that passes on the beginning of a stream only: long polling after the second one", async () => {
    proxy.refuses = WEBSOCKET;
    proxy.stalls = /^GET \/connection\/sse/;
    const page = await browser.open();
    await signIn(page, "Ann", "stalled");
    await uses(page, "Long polling");
    proxy.stalls = null;
    await page.context().close();
  });

  proxy.refuses = STREAM;

  await test("polling: more rooms than polls, each with its messages", async () => {
    const page = await browser.open();
    const other = await direct();
    await signIn(page, "Ann", "room 1");
    await signIn(other, "Bob", "room 1");
    await uses(page, "Long polling");
    for (const room of ["room 2", "room 3", "room 4", "room 5"]) {
      await joinRoom(page, room);
      await canPublish(page).catch(() => {});
      await joinRoom(other, room);
      await publish(other, `hello, ${room}`);
      await message(page, "Bob", `hello, ${room}`).waitFor();
    }
    for (const room of ["room 1", "room 2", "room 3"]) {
      await roomButton(other, room).click();
      await publish(other, `again, ${room}`);
      await roomButton(page, room).locator(".badge", { hasText: "1 unread" }).waitFor();
    }
    await page.getByRole("button", { name: "Leave the room room 5" }).click();
    await roomButton(page, "room 5").waitFor({ state: "detached" });
    await roomButton(page, "room 1").click();
    await message(page, "Bob", "again, room 1").waitFor();
    for (const one of [page, other]) await one.context().close();
  });

  await test("polling: a room without a history", async () => {
    const page = await browser.open();
    await signIn(page, "Ann", "live");
    await uses(page, "Long polling");
    for (const number of [1, 2, 3]) {
      await publish(page, `live ${number}`);
      await page.locator("#log .message.own", { hasText: `live ${number}` }).waitFor();
    }
    assert.equal(await page.locator("#log .gap, .unsent").count(), 0);
    await page.context().close();
  });

  await test("polling: a message whose answer is lost is published once", async () => {
    const page = await browser.open();
    await signIn(page, "Ann", "once");
    await uses(page, "Long polling");
    let lost = 0;
    await page.route("**/send/**", async (route) => {
      const response = await route.fetch();
      lost += 1;
      if (lost === 1) await route.abort("connectionreset");
      else await route.fulfill({ response });
    });
    await publish(page, "only once");
    await page.locator("#log .message.own", { hasText: "only once" }).waitFor();
    await publish(page, "and another one");
    await page.locator("#log .message.own", { hasText: "and another one" }).waitFor();
    assert.equal(lost, 3);
    assert.deepEqual(await allMessageTexts(page), ["only once", "and another one"]);
    assert.equal(await page.locator(".unsent").count(), 0);
    await page.context().close();
  });

  await test("polling: what is not kept any more is marked, and earlier pages are loaded", async () => {
    const other = await direct();
    await signIn(other, "Bob", "long");
    for (let number = 1; number <= 120; number += 1) await publish(other, `message ${number}`);
    const page = await browser.open();
    await signIn(page, "Ann", "long");
    await uses(page, "Long polling");
    await message(page, "Bob", "message 120").waitFor();
    assert.equal((await allMessageTexts(page)).length, 50);
    const earlier = page.getByRole("button", { name: "Show earlier messages" });
    for (const number of [21, 21]) {
      await page.locator("#log").evaluate((log) => log.scrollTo(0, 0));
      await earlier.click();
      await page.waitForFunction(() => !document.querySelector("#log .earlier:disabled"));
      await page.locator("#log").evaluate((log) => log.scrollTo(0, 0));
      await message(page, "Bob", `message ${number}`).first().waitFor();
    }
    await earlier.waitFor({ state: "hidden" });
    const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => `message ${from + index}`);
    assert.deepEqual(await allMessageTexts(page), numbers(21, 120));
    proxy.cut();
    await page.locator("#state[data-state=waiting]").waitFor();
    for (let number = 121; number <= 330; number += 1) await publish(other, `message ${number}`);
    proxy.restore();
    await uses(page, "Long polling");
    await message(page, "Bob", "message 330").waitFor();
    // The server keeps 100.
    assert.deepEqual(await allMessageTexts(page), [...numbers(21, 120), ...numbers(231, 330)]);
    await page.locator("#log").evaluate((log) => log.scrollTo(0, log.scrollHeight / 2));
    await page.locator("#log .gap", { hasText: "110 messages may be missing here" }).waitFor();
    for (const one of [page, other]) await one.context().close();
  });

  await test("polling: with a token, as the user of it; without a valid one, not at all", async () => {
    const origin = await behindNginx({ buffers: true }, tokenServer);
    const of = (token) => `/?name=Guest&room=signed&token=${token}`;
    const page = await browser.open({ origin, path: of(token(SECRET, { sub: "u1", info: { name: "Änn" } })) });
    await page.getByRole("button", { name: "Enter" }).click();
    await uses(page, "Long polling");
    await publish(page, "signed");
    await page.locator("#log .message.own", { hasText: "signed" }).locator(".name", { hasText: "Änn" }).waitFor();
    await page.context().close();
    const prepare = (page) =>
      page.addInitScript(() => localStorage.setItem("stentor.transport", JSON.stringify({ index: 2, at: Date.now() })));
    const forged = await browser.open({ origin, path: of(token("another secret of 32 bytes or more", { sub: "u1" })), prepare });
    await forged.getByRole("button", { name: "Enter" }).click();
    await forged.locator("#sign-in-error", { hasText: "the token is not valid" }).waitFor();
    await forged.context().close();
  });

  await test("polling: on a phone of 360 px", async () => {
    const phone = await browser.open(PHONE);
    await signIn(phone, "Ann", "pocket");
    await uses(phone, "Long polling");
    await publish(phone, "On the train, with its WLAN.");
    await message(phone, "Ann", "On the train").waitFor();
    await assertFitsScreen(phone);
    await picture(phone, "poll-phone");
    await phone.context().close();
  });

  await test("the browser reports no errors", async () => assert.deepEqual(browser.errors, []));
  console.log(`${test.passed} passed, 0 failed`);
} finally {
  await browser.stop();
  proxy.stop();
  for (const nginx of nginxes) await nginx.stop();
  for (const one of servers) one.kill();
}
