// The chat page in a real Chromium, against the real server.
//
//   node chat.mjs STENTOR OUT
//
// Screenshots go to OUT. Exits with 1 after the first test that fails.
import { mkdirSync } from "node:fs";
import assert from "node:assert/strict";
import { Browser, Server, TcpProxy, allMessageTexts, assertAccessible, assertFitsScreen, canPublish, connected, intercept, joinRoom } from "./support.mjs";
import { message, messageTexts, publish, publishPlain, roomButton, signIn, tests, token } from "./support.mjs";

const [stentor, out] = process.argv.slice(2);
assert(stentor && out, "usage: node chat.mjs STENTOR OUT");
mkdirSync(out, { recursive: true });

const server = new Server(stentor);
const proxy = new TcpProxy(server);

await server.start();
await proxy.start();
const browser = new Browser(`http://localhost:${server.port}`);
await browser.start();
const test = tests(browser);
const open = (options) => browser.open(options);
const openThroughProxy = (options) => browser.open({ origin: `http://localhost:${proxy.port}`, ...options });
const screenshot = (page, name) => page.screenshot({ path: `${out}/${name}.png` });
const member = (page, name) => page.locator("#members .member").filter({ hasText: name });

try {
  const ann = await open();
  const bob = await open();

  await test("the sign-in form", async () => {
    await screenshot(ann, "sign-in");
    await assertAccessible(ann, "the sign-in form");
    await ann.getByLabel("Your name").fill("ü".repeat(60));
    await ann.getByRole("button", { name: "Enter" }).click();
    assert.match(await ann.getByRole("alert").textContent(), /too long: at most 64 bytes/);
    assert(await ann.getByLabel("Your name").evaluate((box) => box === document.activeElement));
  });

  await test("two pages chat with each other", async () => {
    await signIn(ann, "Ann");
    await signIn(bob, "Bob");
    await publish(ann, "Is this the right room?");
    await message(bob, "Ann", "Is this the right room?").waitFor();
    await publish(bob, "Fifty voices, and I am one of them.");
    await message(ann, "Bob", "Fifty voices").waitFor();
    assert.equal(await ann.locator("#log .message.own").count(), 1);
    assert.equal(await ann.locator(".unsent").count(), 0);
  });

  await test("a new member gets the history, and the other members see the join and the leave", async () => {
    const cleo = await open();
    await signIn(cleo, "Cleo");
    await message(cleo, "Bob", "Fifty voices").waitFor();
    assert.deepEqual(await messageTexts(cleo), ["Is this the right room?", "Fifty voices, and I am one of them."]);
    await member(cleo, "Ann").waitFor();
    await member(ann, "Cleo").waitFor();
    await ann.locator("#log .note", { hasText: "Cleo joined" }).waitFor();
    await ann.locator("#members-heading", { hasText: "Members (3)" }).waitFor();
    await screenshot(ann, "members");
    await cleo.context().close();
    await member(ann, "Cleo").waitFor({ state: "detached" });
    await ann.locator("#log .note", { hasText: "Cleo" }).waitFor({ state: "detached" });
  });

  await test("several rooms, each with its unread count and its draft", async () => {
    await joinRoom(bob, "tea");
    await connected(bob);
    await ann.getByLabel("Message", { exact: true }).fill("a thought for the lobby");
    await joinRoom(ann, "tea");
    assert.equal(await ann.getByLabel("Message", { exact: true }).inputValue(), "");
    await publish(ann, "Only here");
    await message(bob, "Ann", "Only here").waitFor();
    await roomButton(bob, "lobby").click();
    assert.equal(await message(bob, "Ann", "Only here").count(), 0);
    await publish(bob, "Are you there?");
    await publish(bob, "Ann?");
    await roomButton(ann, "lobby").locator(".badge", { hasText: "2 unread" }).waitFor();
    assert.equal(await ann.title(), "(2) #tea – Stentor");
    await screenshot(ann, "unread");
    await roomButton(ann, "lobby").click();
    await message(ann, "Bob", "Ann?").waitFor();
    assert.equal(await ann.title(), "#lobby – Stentor");
    assert.equal(await ann.locator("#log .new + .message .text").textContent(), "Are you there?");
    assert.equal(await ann.getByLabel("Message", { exact: true }).inputValue(), "a thought for the lobby");
    await ann.getByLabel("Message", { exact: true }).fill("");
    await ann.getByRole("button", { name: "Leave the room tea" }).click();
    await roomButton(ann, "tea").waitFor({ state: "detached" });
  });

  await test("names and texts are never HTML, and cannot reorder a line", async () => {
    const mallory = await open();
    await signIn(mallory, '<script>alert("name")</script>');
    await publish(mallory, '<img src=x onerror="alert(1)"><b>bold</b> & "quotes"');
    await message(ann, "<script>", '<img src=x onerror="alert(1)"><b>bold</b> & "quotes"').waitFor();
    // The server rejects a name with a directional override; in a text, the page replaces it.
    await assert.rejects(publishPlain(mallory, "\u202ennA", "lobby", "Hi"));
    await publishPlain(mallory, "Anne", "lobby", "\u202egnp.exe \u001b[31mred\u0007");
    await message(ann, "Anne", "\ufffdgnp.exe \u241b[31mred\u2407").waitFor();
    await publish(mallory, "javascript:alert(1) https://example.org/a?b=\"c\" (see http://example.com/x_(y).)");
    await message(ann, "<script>", "javascript:").waitFor();
    const links = ann.locator("#log a");
    assert.deepEqual(await links.evaluateAll((all) => all.map(({ href, rel }) => [href, rel])), [
      ["https://example.org/a?b=", "noopener noreferrer nofollow"],
      ["http://example.com/x_(y)", "noopener noreferrer nofollow"],
    ]);
    for (const page of [ann, mallory]) assert.equal(await page.locator("body :is(script, #log img, #log b, #members img)").count(), 0);
    await joinRoom(mallory, "<i>room</i>");
    assert.equal(await mallory.locator(":is(#rooms, #room-name) i").count(), 0);
    await screenshot(ann, "unsafe-texts");
    await mallory.context().close();
  });

  await test("long texts, of any script", async () => {
    await publish(bob, "Grüße, 世界 🙂 " + "a".repeat(300));
    await message(ann, "Bob", "世界 🙂").waitFor();
    await publish(bob, "מה שלומך? שלום (hello) עולם");
    await assertFitsScreen(ann);
    const long = "0123456789abcde ".repeat(3840);
    await publish(bob, `${long.trimEnd()}!`);
    const longMessage = message(ann, "Bob", "0123456789abcde");
    await longMessage.getByRole("button", { name: "Show all of it (60 KiB)" }).waitFor();
    await screenshot(ann, "long");
    await longMessage.getByRole("button").click();
    assert.equal((await longMessage.locator(".text").textContent()).length, long.length);
    await bob.getByLabel("Message", { exact: true }).fill("ü".repeat(33_000));
    await bob.locator("#composer-hint", { hasText: "too long" }).waitFor();
    assert(await bob.getByRole("button", { name: "Send" }).isDisabled());
    await bob.getByLabel("Message", { exact: true }).fill("");
  });

  await test("new messages do not scroll a reader away, and are counted", async () => {
    await publish(ann, "I read on.");
    await message(bob, "Ann", "I read on.").waitFor();
    await ann.locator("#log").evaluate((log) => log.scrollTo(0, 0));
    await ann.getByRole("button", { name: "To the newest" }).waitFor();
    await publish(bob, "Something new");
    await ann.getByRole("button", { name: "1 new message" }).waitFor();
    assert.equal(await ann.locator("#log").evaluate((log) => log.scrollTop), 0);
    await screenshot(ann, "scrolled-up");
    await ann.getByRole("button", { name: "1 new message" }).click();
    await ann.locator("#jump").waitFor({ state: "hidden" });
  });

  await test("earlier messages are loaded page by page", async () => {
    const numbers = Array.from({ length: 90 }, (_, index) => `line ${index + 1}`);
    await joinRoom(bob, "long");
    for (const text of numbers) await publish(bob, text);
    await message(bob, "Bob", "line 90").waitFor();
    const late = await open({ path: "/?name=Lena&room=long" });
    await late.getByRole("button", { name: "Enter" }).click();
    await message(late, "Bob", "line 90").waitFor();
    assert.deepEqual(await allMessageTexts(late), numbers.slice(40));
    await late.locator("#log").evaluate((log) => log.scrollTo(0, 0));
    await late.getByRole("button", { name: "Show earlier messages" }).click();
    await late.getByRole("button", { name: "Show earlier messages" }).waitFor({ state: "hidden" });
    assert.equal(await late.evaluate(() => document.activeElement.id), "log");
    assert.deepEqual(await allMessageTexts(late), numbers);
    await late.context().close();
    await roomButton(bob, "lobby").click();
  });

  await test("a flood is shown in order, bounded, and scrolled to its end", async () => {
    const quiet = await open();
    await signIn(quiet, "Quinn", "flooded");
    await bob.evaluate(async () => {
      const socket = new WebSocket(`ws://${location.host}/ws/Flo?room=flooded`);
      await new Promise((resolve) => socket.addEventListener("open", resolve));
      for (let number = 1; number <= 3000; number += 1) socket.send(`drop ${number}`);
    });
    await message(quiet, "Flo", "drop 3000").waitFor();
    await quiet.waitForFunction(() => {
      const log = document.getElementById("log");
      return log.scrollHeight - log.scrollTop - log.clientHeight < 2;
    });
    assert(await quiet.locator("#jump").isHidden());
    const shown = await allMessageTexts(quiet);
    assert(shown.length >= 2000 && shown.length <= 2500, `${shown.length} messages are kept`);
    assert.deepEqual(shown, Array.from(shown, (_, index) => `drop ${3001 - shown.length + index}`));
    await quiet.context().close();
  });

  await test("cut connections: no message is missing or duplicated afterwards", async () => {
    const eve = await openThroughProxy();
    await signIn(eve, "Eve", "relay");
    await joinRoom(bob, "relay");
    const numbers = Array.from({ length: 120 }, (_, index) => `number ${index + 1}`);
    for (const [index, text] of numbers.entries()) {
      await publish(bob, text);
      if (index % 30 === 10) proxy.cut();
      if (index % 30 === 20) proxy.restore();
      if (index === 15) {
        await eve.locator("#state[data-state=waiting]").waitFor();
        await eve.getByLabel("Message", { exact: true }).fill("kept");
        await screenshot(eve, "cut");
      }
      if (index % 30 === 25) await connected(eve);
    }
    await message(eve, "Bob", /number 120$/).waitFor({ timeout: 40_000 });
    assert.deepEqual(await allMessageTexts(eve), numbers);
    await eve.locator("#log .note", { hasText: /Reconnected after \d+ s: \d+ messages? recovered/ }).first().waitFor();
    assert.equal(await eve.locator("#log .gap").count(), 0);
    assert.equal(await eve.getByLabel("Message", { exact: true }).inputValue(), "kept");
    await eve.context().close();
  });

  await test("a reply keeps its place before the pushes behind it in one frame", async () => {
    const offsets = await bob.evaluate(async () => {
      const { Client } = await import("/centrifuge.js");
      const client = new Client({ current: { isStream: true } }, {}, {});
      Object.assign(client, { transport: { send() {} }, isOpen: true, isConnected: true });
      const seen = [];
      client.subscribe("r", {
        subscribed: (_result, publications) => seen.push(...publications.map(({ offset }) => offset)),
        publication: ({ offset }) => seen.push(offset),
      });
      const recovered = { recoverable: true, recovered: true, epoch: "e", offset: 2, publications: [{ offset: 1 }, { offset: 2 }] };
      const lines = [{ id: client.lastId, subscribe: recovered }, { push: { channel: "r", pub: { offset: 3 } } }];
      client.receive(lines.map((line) => JSON.stringify(line)).join("\n"));
      await new Promise(requestAnimationFrame);
      return seen;
    });
    assert.deepEqual(offsets, [1, 2, 3]);
  });

  await test("a gap shows the number of messages that the server no longer has", async () => {
    const eve = await openThroughProxy();
    await signIn(eve, "Eve", "flood");
    await joinRoom(bob, "flood");
    await publish(bob, "before");
    await message(eve, "Bob", "before").waitFor();
    proxy.cut();
    for (let number = 1; number <= 130; number += 1) await publish(bob, `flood ${number}`);
    await message(bob, "Bob", "flood 130").waitFor();
    proxy.restore();
    await message(eve, "Bob", "flood 130").waitFor({ timeout: 40_000 });
    const expected = ["before", ...Array.from({ length: 100 }, (_, index) => `flood ${index + 31}`)];
    assert.deepEqual(await allMessageTexts(eve), expected);
    await eve.locator("#log").evaluate((log) => log.scrollTo(0, 0));
    assert.match(await eve.locator("#log .gap").textContent(), /^30 messages may be missing here\./);
    await eve.locator("#log .gap").scrollIntoViewIfNeeded();
    await screenshot(eve, "gap");
    await assertAccessible(eve, "a gap");
    await eve.context().close();
  });

  await test("a connection that drops all bytes: missing pings end it, and an unconfirmed message stays visible", async () => {
    const eve = await openThroughProxy();
    await signIn(eve, "Eve", "silent");
    await eve.getByLabel("Message", { exact: true }).fill("unconfirmed");
    await canPublish(eve);
    proxy.blackHole();
    await publish(eve, "unconfirmed");
    const unsent = eve.locator(".unsent.failed");
    await unsent.filter({ hasText: "not known whether this message was published" }).waitFor({ timeout: 40_000 });
    await eve.locator("#announcer", { hasText: "Reconnected." }).waitFor({ timeout: 40_000 });
    await screenshot(eve, "unsent");
    await unsent.getByRole("button", { name: "Retry" }).click();
    await message(eve, "Eve", "unconfirmed").waitFor();
    await unsent.waitFor({ state: "detached" });
    await eve.context().close();
  });

  await test("after a restart all pages reconnect, and mark what may be missing", async () => {
    await roomButton(bob, "lobby").click();
    await ann.getByLabel("Message", { exact: true }).fill("half a sen");
    const announced = ann.locator("#announcer", { hasText: "Not connected: the server is going away." }).waitFor();
    await Promise.all([announced, server.stop()]);
    await ann.locator("#state[data-state=waiting]", { hasText: "the server cannot be reached" }).waitFor();
    await screenshot(ann, "reconnecting");
    await assertAccessible(ann, "while the page waits");
    await server.start();
    for (const page of [ann, bob]) await connected(page);
    await ann.locator("#log .gap", { hasText: "Messages may be missing here" }).waitFor();
    assert.equal(await ann.getByLabel("Message", { exact: true }).inputValue(), "half a sen");
    await publish(ann, "after the restart");
    await message(bob, "Ann", "after the restart").waitFor();
    await member(ann, "Bob").waitFor();
    await screenshot(ann, "restarted");
  });

  await test("a member that lags is unsubscribed, and recovers", async () => {
    const eve = await open({ prepare: intercept });
    await signIn(eve, "Eve", "lag");
    await joinRoom(bob, "lag");
    await publish(bob, "received");
    await message(eve, "Bob", "received").waitFor();
    eve.interceptor.dropsPublications = true;
    for (const text of ["missed one", "missed two"]) await publish(bob, text);
    await message(bob, "Bob", "missed two").waitFor();
    eve.interceptor.dropsPublications = false;
    // The server does the same with a slow consumer.
    eve.interceptor.toServer({ id: 1_000_000, unsubscribe: { channel: "lag" } });
    eve.interceptor.toPage({ push: { channel: "lag", unsubscribe: { code: 2500, reason: "insufficient state" } } });
    await message(eve, "Bob", "missed two").waitFor();
    assert.deepEqual(await messageTexts(eve), ["received", "missed one", "missed two"]);
    assert.equal(await eve.locator("#log .gap").count(), 0);

    eve.interceptor.toPage({ push: { channel: "lag", unsubscribe: { code: 2000, reason: "not for you" } } });
    await eve.locator("#composer-hint", { hasText: "You are not in this room." }).waitFor();
    await eve.locator("#log .note", { hasText: "not for you" }).waitFor();
    await eve.context().close();
  });

  await test("the close code decides whether the page reconnects", async () => {
    const eve = await open({ prepare: intercept });
    await signIn(eve, "Eve", "codes");
    for (const code of [1001, 3001, 3499, 4000]) {
      await eve.interceptor.page.close({ code, reason: "go" });
      await eve.locator("#announcer", { hasText: "Reconnected." }).waitFor();
      await connected(eve);
      await eve.locator("#announcer").evaluate((region) => region.replaceChildren());
    }
    for (const code of [1009, 3500, 3999, 4500]) {
      await eve.interceptor.page.close({ code, reason: "stay away" });
      await eve.locator("#state[data-state=disconnected]").waitFor();
      await eve.getByRole("button", { name: "Connect" }).click();
      await connected(eve);
    }
    await eve.context().close();
  });

  await test("a server that requires tokens", async () => {
    const secret = "a secret of this test, 32 bytes or more";
    const tokenServer = new Server(stentor, { STENTOR_AUTH: "token", STENTOR_TOKEN_HMAC_SECRET: secret });
    await tokenServer.start();
    try {
      const origin = `http://localhost:${tokenServer.port}`;
      const secondsFromNow = (seconds) => Math.floor(Date.now() / 1000) + seconds;
      const claims = { sub: "u1", info: { name: "Ann the First" }, channels: ["news"] };
      const eve = await open({ origin, path: "/?name=Eve" });
      const alert = eve.getByRole("alert");
      await eve.getByRole("button", { name: "Enter" }).click();
      await alert.filter({ hasText: "requires a token" }).waitFor();
      await screenshot(eve, "token");
      for (const [invalid, reason] of [
        [token("not that secret, but of 32 bytes too", claims), "the token is not valid"],
        [token(secret, { ...claims, exp: secondsFromNow(-100) }), "the token has expired"],
      ]) {
        await eve.getByLabel("Token, if this server requires one").fill(invalid);
        await eve.getByRole("button", { name: "Enter" }).click();
        await alert.filter({ hasText: reason }).waitFor();
      }
      await eve.goto(`${origin}/?name=Eve&token=${token(secret, { ...claims, exp: secondsFromNow(100) })}`);
      assert.equal(new URL(eve.url()).search, "?name=Eve");
      await eve.getByRole("button", { name: "Enter" }).click();
      await connected(eve);
      await eve.locator("#me", { hasText: "Ann the First" }).waitFor();
      await roomButton(eve, "news").click();
      await publish(eve, "in the room that came with the token");
      await message(eve, "Ann the First", "came with the token").waitFor();
      await eve.context().close();
    } finally {
      tokenServer.kill();
    }
  });

  await test("messages that arrive while the page is hidden are counted in the title", async () => {
    const setHidden = (hidden) => ann.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
    await roomButton(bob, "lobby").click();
    await setHidden(true);
    await publish(bob, "psst");
    await message(ann, "Bob", "psst").waitFor();
    assert.equal(await ann.title(), "(1) #lobby – Stentor");
    await setHidden(false);
    assert.equal(await ann.title(), "#lobby – Stentor");
    assert.equal(await ann.locator("#log .new + .message .text").textContent(), "psst");
  });

  await test("a reload opens the same rooms", async () => {
    await joinRoom(ann, "tea");
    await ann.reload();
    await connected(ann);
    assert.equal(await ann.locator("#room-name").textContent(), "tea");
    await roomButton(ann, "lobby").click();
    await message(ann, "Ann", "after the restart").waitFor();
    assert.equal(await ann.locator("#log .message.own").count(), 1);
  });

  await test("more members than the list names", async () => {
    const drawn = await ann.evaluate(async () => {
      const { Members } = await import("/members.js");
      const { Identity } = await import("/identity.js");
      const identity = new Identity("B", false);
      identity.connected("b");
      const members = new Members(identity);
      const list = document.createElement("ul");
      members.set({ presence: { a: { user: "A", client: "a" }, b: { user: "B", client: "b" } }, truncated: true, num_clients: 1234 });
      members.draw(list);
      const items = [...list.children].map((item) => item.textContent);
      const reload = members.setTotal(2000);
      members.draw(list);
      return { items, reload, counted: list.textContent, fewer: members.setTotal(2) };
    });
    assert.deepEqual(drawn, { items: ["BByou", "AA", "and 1,232 others"], reload: false, counted: "2,000 members", fewer: true });
  });

  await test("the page can be used with the keyboard alone", async () => {
    const page = await open();
    await page.keyboard.type("Kim");
    await page.keyboard.press("Tab");
    await page.keyboard.type("keys");
    await page.keyboard.press("Enter");
    await connected(page);
    await page.locator("#composer textarea:focus").waitFor();
    await page.keyboard.type("one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    await page.locator("#state[data-state=connected]").waitFor();
    await page.keyboard.press("Enter");
    await message(page, "Kim", "one\ntwo").waitFor();
    await page.keyboard.press("Shift+Tab");
    await page.locator("#log:focus").waitFor();
    const focused = () => page.evaluate(() => document.activeElement.id);
    for (let steps = 0; (await focused()) !== "join-room"; steps += 1) {
      assert(steps < 20, "the box for another room is not reachable");
      await page.keyboard.press("Shift+Tab");
    }
    await screenshot(page, "focus");
    await page.keyboard.type("more");
    await page.keyboard.press("Enter");
    await page.locator("#room-name", { hasText: "more" }).waitFor();
    await page.keyboard.press("Alt+ArrowUp");
    await page.locator("#room-name", { hasText: "keys" }).waitFor();
    await message(page, "Kim", "one").waitFor();
    await publishPlain(page, "Pat", "keys", "is this announced?");
    await page.locator("#announcer", { hasText: "Pat: is this announced?" }).waitFor();
    await page.context().close();
  });

  await test("light and dark, a wide and a medium screen", async () => {
    await assertAccessible(ann, "light");
    await ann.getByLabel("Colours").selectOption("dark");
    await screenshot(ann, "dark");
    await assertAccessible(ann, "dark");
    await ann.getByLabel("Colours").selectOption("");
    await ann.setViewportSize({ width: 800, height: 600 });
    await ann.getByRole("button", { name: "Members" }).click();
    await member(ann, "Bob").waitFor();
    await assertAccessible(ann, "members, as a drawer");
    await screenshot(ann, "medium");
    await ann.keyboard.press("Escape");
    await member(ann, "Bob").waitFor({ state: "hidden" });
    assert.equal(await ann.evaluate(() => document.activeElement.id), "open-members");
    await ann.setViewportSize({ width: 1200, height: 760 });
  });

  await test("a phone, with the dark theme", async () => {
    const phone = await open({ viewport: { width: 360, height: 640 }, colorScheme: "dark", hasTouch: true, isMobile: true });
    await screenshot(phone, "phone-sign-in");
    await signIn(phone, "Dora");
    await publish(ann, "A long line that has to be broken on a small screen, because it does not fit in any other way: " + "x".repeat(80));
    await message(phone, "Ann", "small screen").waitFor();
    await assertFitsScreen(phone);
    await screenshot(phone, "phone-dark");
    await assertAccessible(phone, "a phone");
    await phone.getByRole("button", { name: "Rooms" }).tap();
    await joinRoom(phone, "tea");
    await publish(ann, "Dora?");
    await phone.locator("#other-unread", { hasText: "1 unread" }).waitFor();
    await phone.getByRole("button", { name: "Rooms" }).tap();
    await roomButton(phone, "lobby").waitFor();
    await assertAccessible(phone, "rooms on a phone");
    await phone.locator("#rooms-panel").evaluate((panel) => Promise.all(panel.getAnimations().map((one) => one.finished)));
    await screenshot(phone, "phone-rooms");
    await phone.getByRole("button", { name: "Sign out" }).tap();
    await phone.getByLabel("Your name").waitFor();
    await phone.context().close();
  });

  await test("the browser reports no errors", async () => assert.deepEqual(browser.errors, []));
  console.log(`${test.passed} passed, 0 failed`);
} finally {
  await browser.stop();
  proxy.stop();
  server.kill();
}
