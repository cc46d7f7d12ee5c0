// Each state of the chat page, in a real Chromium against the real server: who is oneself, an empty and a read-only room,
// a server that refuses, mentions, typing.
//
//   node states.mjs STENTOR OUT
//
// Screenshots of each state go to OUT, and each is checked by axe-core. Exits with 1 after the first test that fails.
import { mkdirSync } from "node:fs";
import assert from "node:assert/strict";
import { Browser, Server, TcpProxy, assertAccessible, assertFitsScreen, connected, joinRoom } from "./support.mjs";
import { message, publish, publishPlain, roomButton, signIn, tests, token, withoutWorker } from "./support.mjs";

const [stentor, out] = process.argv.slice(2);
assert(stentor && out, "usage: node states.mjs STENTOR OUT");
mkdirSync(out, { recursive: true });

const ROOMS = `
[[room]]
pattern = "news"
publish = "nobody"

[[room]]
pattern = "typing:*"
history = 0
presence = false
join_leave = false
slow_member = "conflate"
`;
const SECRET = "a secret of this test, 32 bytes or more";
const PHONE = { viewport: { width: 360, height: 640 }, hasTouch: true, isMobile: true };

const server = new Server(stentor, {}, ROOMS);
const plainServer = new Server(stentor);
const tokenServer = new Server(stentor, { STENTOR_AUTH: "token", STENTOR_TOKEN_HMAC_SECRET: SECRET });
const proxy = new TcpProxy(server);
const servers = [server, plainServer, tokenServer];

/** A screenshot of a state, and axe-core's check of it, in both themes. */
async function state(page, name) {
  for (const theme of ["light", "dark"]) {
    await page.evaluate((theme) => (document.documentElement.dataset.theme = theme), theme);
    await assertAccessible(page, `${name}, ${theme}`);
    await page.screenshot({ path: `${out}/state-${name}${theme === "dark" ? "-dark" : ""}.png` });
  }
  await page.evaluate(() => (document.documentElement.dataset.theme = "light"));
}

for (const one of servers) await one.start();
await proxy.start();
const browser = new Browser(`http://localhost:${server.port}`);
await browser.start();
const test = tests(browser);
const open = (options) => browser.open(options);
const textBox = (page) => page.getByLabel("Message", { exact: true });
const announcement = (page, text) => page.locator("#announcer", { hasText: text }).waitFor();

try {
  await test("two users of one name are distinguished", async () => {
    const one = await open();
    const two = await open();
    await signIn(one, "Ann", "twins");
    await joinRoom(one, "other");
    await signIn(two, "Ann", "twins");
    await publish(two, "I am another Ann.");
    await message(two, "Ann", "another Ann").waitFor();
    // An unread mark, an announcement and the title: as for any other user.
    await roomButton(one, "twins").locator(".badge", { hasText: "1 unread" }).waitFor();
    await announcement(one, "New messages in twins.");
    assert.equal(await one.title(), "(1) #other – Stentor");
    await roomButton(one, "twins").click();
    const other = message(one, "Ann", "another Ann");
    await other.waitFor();
    assert.equal(await one.locator("#log .own").count(), 0);
    const mark = await other.locator(".mark").textContent();
    assert.match(mark, /^[0-9a-f]{4}$/);
    await publish(one, "And I am the first.");
    await one.locator("#log .message.own.first", { hasText: "the first" }).waitFor();
    await two.locator("#log .message.first:not(.own)", { hasText: "the first" }).locator(".mark").waitFor();
    await announcement(two, "Ann: And I am the first.");
    await one.locator("#members .member .mark").waitFor();
    assert.deepEqual(await one.locator("#members .member").allTextContents(), ["AAnnyou", `AAnn${mark}`]);
    await state(one, "two-of-one-name");
    // A reload is another client of the same user.
    await one.reload();
    await connected(one);
    await roomButton(one, "twins").click();
    await one.locator("#log .message.own", { hasText: "the first" }).waitFor();
    assert.equal(await one.locator("#log .message.own").count(), 1);
    for (const page of [one, two]) await page.context().close();
  });

  await test("a user with a token is the same on all devices", async () => {
    const origin = `http://localhost:${tokenServer.port}`;
    const of = (sub) => `/?name=Guest&room=devices&token=${token(SECRET, { sub, info: { name: "Ann" } })}`;
    const pages = [];
    for (const sub of ["u1", "u1", "u2"]) {
      pages.push(await open({ origin, path: of(sub) }));
      await pages.at(-1).getByRole("button", { name: "Enter" }).click();
      await connected(pages.at(-1));
    }
    const [laptop, phone, other] = pages;
    await laptop.locator("#members .member", { hasText: "× 2" }).waitFor();
    await publish(laptop, "from the laptop");
    await phone.locator("#log .message.own", { hasText: "from the laptop" }).waitFor();
    await other.locator("#log .message:not(.own)", { hasText: "from the laptop" }).locator(".mark").waitFor();
    // One item for each user, of whom one has two clients.
    await other.waitForFunction(() => document.querySelectorAll("#members .member").length === 2);
    await other.locator("#members .member", { hasText: "× 2" }).waitFor();
    for (const page of pages) await page.context().close();
  });

  await test("an empty room says so, and what to do", async () => {
    const page = await open();
    await signIn(page, "Ann", "a new room");
    await page.locator(".empty .title", { hasText: "No messages yet" }).waitFor();
    assert.equal(await page.getByLabel("Link to this room").inputValue(), `${browser.origin}/?room=a%20new%20room`);
    await state(page, "empty");
    await publish(page, "Now it is not empty.");
    await page.locator(".empty").waitFor({ state: "hidden" });
    await page.context().close();
  });

  await test("a room in which the user may not publish does not invite to", async () => {
    const page = await open();
    await signIn(page, "Ann", "news");
    await page.locator("#composer-hint", { hasText: "You may read this room, but not publish in it." }).waitFor();
    await textBox(page).waitFor({ state: "hidden" });
    assert(await page.getByRole("button", { name: "Send" }).isHidden());
    await page.locator(".empty", { hasText: "What is published here appears at once." }).waitFor();
    await state(page, "read-only");
    await joinRoom(page, "lobby");
    await textBox(page).waitFor();
    await page.context().close();
  });

  await test("joins and leaves scroll into view", async () => {
    const page = await open({ viewport: { width: 900, height: 500 } });
    await signIn(page, "Ann", "busy");
    for (let number = 1; number <= 30; number += 1) await publish(page, `line ${number}`);
    await message(page, "Ann", "line 30").waitFor();
    const guest = await open();
    await signIn(guest, "Bob", "busy");
    const note = page.locator("#log .note", { hasText: "Bob joined" });
    await note.waitFor();
    await page.waitForFunction(() => {
      const note = [...document.querySelectorAll("#log .note")].at(-1).getBoundingClientRect();
      return note.bottom <= document.getElementById("log").getBoundingClientRect().bottom;
    });
    assert.equal(await page.locator("#log .message:not(.first) :is(.aside, .mark)").count(), 0, "an author is named once");
    await state(page, "joined");
    await guest.context().close();
    await note.waitFor({ state: "detached" });
    await page.context().close();
  });

  await test("own messages are as wide as their text", async () => {
    const page = await open();
    await signIn(page, "Ann", "widths");
    await publish(page, "short");
    const own = page.locator("#log .message.own .text");
    await own.waitFor();
    const [text, log] = [await own.boundingBox(), await page.locator("#log").boundingBox()];
    assert(text.width < log.width / 4, `${text.width} of ${log.width} px`);
    await page.context().close();
  });

  await test("shortened names have a full form", async () => {
    const room = `a room with ${"a very long ".repeat(12)}name`;
    const page = await open();
    await signIn(page, "N".repeat(64), room);
    assert.equal(await roomButton(page, room).getAttribute("title"), room);
    assert.equal(await page.locator("#room-name").getAttribute("title"), room);
    assert.equal(await page.locator("#me bdi").getAttribute("title"), "N".repeat(64));
    const name = page.locator("#members .member .name");
    await name.waitFor();
    assert(await name.evaluate((name) => name.scrollWidth <= name.clientWidth), "a member's name is shown in full");
    await state(page, "long-names");
    await page.context().close();
  });

  await test("Enter says why it does nothing while offline, and the text stays", async () => {
    const page = await open({ origin: `http://localhost:${proxy.port}` });
    await signIn(page, "Ann", "offline");
    await page.locator("#latency", { hasText: /^(< 1|\d+) ms$/ }).waitFor();
    await publish(page, "before");
    await message(page, "Ann", "before").waitFor();
    proxy.cut();
    await page.locator("#state[data-state=waiting]", { hasText: "the server cannot be reached" }).waitFor();
    await textBox(page).fill("not yet");
    await page.locator("#composer-hint", { hasText: "Not connected: your text stays here" }).waitFor();
    await page.locator("#announcer").evaluate((region) => region.replaceChildren());
    await textBox(page).press("Enter");
    await announcement(page, "Not connected: your text stays here");
    assert.equal(await textBox(page).inputValue(), "not yet");
    await state(page, "offline");
    proxy.restore();
    await page.getByRole("button", { name: "Try now" }).click();
    await connected(page);
    await page.locator("#composer-hint").waitFor({ state: "hidden" });
    await textBox(page).press("Enter");
    await message(page, "Ann", "not yet").waitFor();
    await page.context().close();
  });

  await test("a proxy that does not pass on the Host: the page names the refusal", async () => {
    proxy.host = "backend.example";
    const page = await open({ origin: `http://localhost:${proxy.port}`, path: "/?name=Ann" });
    await page.getByRole("button", { name: "Enter" }).click();
    await page.locator("#state[data-state=waiting]", { hasText: "the server answers, but the WebSocket is refused" }).waitFor();
    await page.locator("#advice", { hasText: "must pass on the headers Upgrade, Connection and Host" }).waitFor();
    await announcement(page, "Not connected: the server answers, but the WebSocket is refused.");
    await state(page, "refused");
    proxy.host = "";
    await page.getByRole("button", { name: "Try now" }).click();
    await connected(page);
    await page.context().close();
  });

  await test("what a probe finds", async () => {
    const page = await open();
    const found = async (ready, endpoint, sending = 415) => {
      for (const [path, status] of [["readyz", ready], ["connection/websocket", endpoint], ["send/-", sending]]) {
        await page.route(`**/${path}`, (route) => (status ? route.fulfill({ status }) : route.abort()));
      }
      const { reason, isServing = false } = await page.evaluate(async () => (await import("/probe.js")).probe("/connection/websocket"));
      await page.unrouteAll();
      return [reason, isServing];
    };
    assert.deepEqual(await found(0, 0), ["the server cannot be reached", false]);
    assert.deepEqual(await found(503, 426), ["the server takes no new connections at the moment (status 503)", false]);
    assert.deepEqual(await found(429, 426), ["there are too many connections from this address (status 429)", false]);
    assert.deepEqual(await found(502, 502), ["the proxy in front of the server cannot reach it (status 502)", false]);
    assert.deepEqual(await found(404, 426), ["the server answers, but the WebSocket is refused", true]);
    assert.deepEqual(await found(404, 426, 403), ["the server answers, but the WebSocket is refused", false]);
    assert.deepEqual(await found(404, 426, 503), ["the server answers, but the WebSocket is refused", false]);
    assert.deepEqual(await found(200, 404, 404), ["the WebSocket is refused (status 404)", true]);
    await page.context().setOffline(true);
    assert.deepEqual(await found(200, 426), ["this device is offline", false]);
    await page.context().close();
  });

  await test("mentions, inline code and links", async () => {
    const ann = await open();
    const bob = await open();
    await signIn(ann, "Ann Lee", "markup");
    await signIn(bob, "Bob", "markup");
    await joinRoom(ann, "elsewhere");
    await publish(bob, "@ann lee: `cargo test` fails, see https://example.org/log_(1)!");
    await roomButton(ann, "markup").locator(".badge", { hasText: "@ 1 unread, you are mentioned" }).waitFor();
    await announcement(ann, "Bob mentions you in markup.");
    await state(ann, "mentioned");
    await roomButton(ann, "markup").click();
    await ann.locator("#log .message.mentioned .own-mention", { hasText: "@ann lee" }).waitFor();
    assert.equal(await ann.locator("#log .text code").textContent(), "cargo test");
    await publish(ann, "@Bob, @nobody and ann@bob.example: javascript:alert(1) https://bank.example@evil.example/ `<b>`");
    const own = message(ann, "Ann Lee", "javascript:");
    await own.waitFor();
    assert.deepEqual(await own.locator(".mention").allTextContents(), ["@Bob"]);
    assert.equal(await own.locator("a").count(), 0);
    assert.equal(await own.locator("code").textContent(), "<b>");
    const link = ann.locator("#log a");
    assert.deepEqual(await link.evaluate(({ href, rel, target }) => [href, rel, target]), [
      "https://example.org/log_(1)", "noopener noreferrer nofollow", "_blank",
    ]);
    await state(ann, "markup");
    for (const page of [ann, bob]) await page.context().close();
  });

  await test("who is typing, where a room for it is configured", async () => {
    const ann = await open();
    const bob = await open();
    await signIn(ann, "Ann", "talk");
    await signIn(bob, "Bob", "talk");
    await publish(bob, "I have a plan.");
    await message(ann, "Bob", "I have a plan.").waitFor();
    // The first key may come before the page has joined the room for it.
    await textBox(bob).pressSequentially("It is this: we ", { delay: 40 });
    const line = ann.locator("#typing");
    await line.filter({ hasText: "Bob is typing …" }).waitFor();
    assert.equal(await bob.locator("#typing").textContent(), "", "one's own typing is not shown");
    await state(ann, "typing");
    await textBox(bob).fill("It is this:");
    await textBox(bob).press("Enter");
    await message(ann, "Bob", "It is this:").waitFor();
    assert.equal(await line.textContent(), "");
    await textBox(bob).fill("and");
    await line.filter({ hasText: "Bob is typing …" }).waitFor();
    await textBox(bob).fill("");
    await ann.waitForFunction(() => document.getElementById("typing").textContent === "");
    for (const page of [ann, bob]) await page.context().close();
  });

  await test("without such a room, there is no trace of it", async () => {
    const sent = [];
    const prepare = (page) => {
      page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => sent.push(...String(payload).split("\n"))));
      return withoutWorker(page);
    };
    const page = await open({ origin: `http://localhost:${plainServer.port}`, prepare });
    await signIn(page, "Ann", "talk");
    await publish(page, "one");
    await message(page, "Ann", "one").waitFor();
    await publish(page, "two");
    await message(page, "Ann", "two").waitFor();
    const about = sent.filter((line) => line.includes("typing:")).map((line) => Object.keys(JSON.parse(line))[1]);
    assert.deepEqual(about, ["subscribe", "unsubscribe"]);
    assert.equal(await page.locator("#log .note, #log .gap").count(), 0);
    await page.context().close();
  });

  await test("many rooms", async () => {
    const page = await open();
    await signIn(page, "Ann", "room 1");
    for (let number = 2; number <= 30; number += 1) await joinRoom(page, `room ${number}`);
    await publishPlain(page, "Bob", "room 3", "hello");
    await publishPlain(page, "Bob", "room 30", "hello");
    await roomButton(page, "room 3").first().locator(".badge").waitFor();
    await page.locator("#rooms [aria-current]").evaluate((button) => button.scrollIntoView());
    await state(page, "many-rooms");
    await page.context().close();
  });

  await test("on a phone of 360 px", async () => {
    const phone = await open(PHONE);
    await signIn(phone, "Ann", "news");
    await phone.locator("#composer.read-only").waitFor();
    await state(phone, "phone-read-only");
    const other = await open();
    await signIn(other, "Bob", "pocket");
    await phone.getByRole("button", { name: "Rooms" }).tap();
    await joinRoom(phone, "pocket");
    await phone.locator(".empty").waitFor();
    await assertFitsScreen(phone);
    await state(phone, "phone-empty");
    await publish(other, "@Ann, are you on the bus? The timetable is at https://example.org/a/very/long/path/that/has/to/be/broken");
    await message(phone, "Bob", "on the bus").waitFor();
    await publish(phone, "Yes, `line 7`.\nTen minutes!");
    await textBox(other).fill("Then");
    await phone.locator("#typing", { hasText: "Bob is typing …" }).waitFor();
    await assertFitsScreen(phone);
    await state(phone, "phone");
    for (const page of [phone, other]) await page.context().close();
  });

  await test("the browser reports no errors", async () => assert.deepEqual(browser.errors, []));
  console.log(`${test.passed} passed, 0 failed`);
} finally {
  await browser.stop();
  proxy.stop();
  for (const one of servers) one.kill();
}
