// The chat page in a real Chromium, against the real server.
//
//   node chat.mjs STENTOR OUT
//
// Screenshots go to OUT. Exits with 1 at the first thing that is not as it should be.
import { mkdirSync } from "node:fs";
import assert from "node:assert/strict";
import { Browser, Server, Wire, accessible, connected, enter, fitsItsScreen, interceptable, join, line } from "./stage.mjs";
import { plainSays, say, tab, texts, token } from "./stage.mjs";

const [stentor, out] = process.argv.slice(2);
assert(stentor && out, "usage: node chat.mjs STENTOR OUT");
mkdirSync(out, { recursive: true });

const server = new Server(stentor);
const wire = new Wire(server);
const passed = [];
async function test(what, work) {
  try {
    await work();
  } catch (error) {
    console.log(`not ok  ${what}`, browser.complaints);
    throw error;
  }
  passed.push(what);
  console.log(`ok  ${what}`);
}

await server.start();
await wire.start();
const browser = new Browser(`http://localhost:${server.port}`);
await browser.start();
const open = (options) => browser.open(options);
const overTheWire = (options) => browser.open({ origin: `http://localhost:${wire.port}`, ...options });
const shot = (page, name) => page.screenshot({ path: `${out}/${name}.png` });
const person = (page, name) => page.locator("#people .person").filter({ hasText: name });

try {
  const ann = await open();
  const bob = await open();

  await test("the entrance", async () => {
    await shot(ann, "enter");
    await accessible(ann, "the entrance");
    await ann.getByLabel("Your name").fill("ü".repeat(60));
    await ann.getByRole("button", { name: "Enter" }).click();
    assert.match(await ann.getByRole("alert").textContent(), /too long: at most 64 bytes/);
    assert(await ann.getByLabel("Your name").evaluate((box) => box === document.activeElement));
  });

  await test("two pages chat with each other", async () => {
    await enter(ann, "Ann");
    await enter(bob, "Bob");
    await say(ann, "Is anybody here?");
    await line(bob, "Ann", "Is anybody here?").waitFor();
    await say(bob, "Fifty voices, and I am one of them.");
    await line(ann, "Bob", "Fifty voices").waitFor();
    assert.equal(await ann.locator("#log .message.own").count(), 1);
    assert.equal(await ann.locator(".unsent").count(), 0);
  });

  await test("who enters sees what was said, and everybody sees him come and go", async () => {
    const cleo = await open();
    await enter(cleo, "Cleo");
    await line(cleo, "Bob", "Fifty voices").waitFor();
    assert.deepEqual(await texts(cleo), ["Is anybody here?", "Fifty voices, and I am one of them."]);
    await person(cleo, "Ann").waitFor();
    await person(ann, "Cleo").waitFor();
    await ann.locator("#log .note", { hasText: "Cleo joined" }).waitFor();
    await ann.locator("#people-heading", { hasText: "People (3)" }).waitFor();
    await shot(ann, "people");
    await cleo.context().close();
    await person(ann, "Cleo").waitFor({ state: "detached" });
    await ann.locator("#log .note", { hasText: "Cleo" }).waitFor({ state: "detached" });
  });

  await test("several rooms, each with its unread marks and its draft", async () => {
    await join(bob, "tea");
    await connected(bob);
    await ann.getByLabel("Message", { exact: true }).fill("a thought for the lobby");
    await join(ann, "tea");
    assert.equal(await ann.getByLabel("Message", { exact: true }).inputValue(), "");
    await say(ann, "Only here");
    await line(bob, "Ann", "Only here").waitFor();
    await tab(bob, "lobby").click();
    assert.equal(await line(bob, "Ann", "Only here").count(), 0);
    await say(bob, "Are you there?");
    await say(bob, "Ann?");
    await tab(ann, "lobby").locator(".badge", { hasText: "2 unread" }).waitFor();
    assert.equal(await ann.title(), "(2) #tea – Stentor");
    await shot(ann, "unread");
    await tab(ann, "lobby").click();
    await line(ann, "Bob", "Ann?").waitFor();
    assert.equal(await ann.title(), "#lobby – Stentor");
    assert.equal(await ann.locator("#log .new + .message .text").textContent(), "Are you there?");
    assert.equal(await ann.getByLabel("Message", { exact: true }).inputValue(), "a thought for the lobby");
    await ann.getByLabel("Message", { exact: true }).fill("");
    await ann.getByRole("button", { name: "Leave the room tea" }).click();
    await tab(ann, "tea").waitFor({ state: "detached" });
  });

  await test("names and texts are never HTML, nor tricks", async () => {
    const mallory = await open();
    await enter(mallory, '<script>alert("name")</script>');
    await say(mallory, '<img src=x onerror="alert(1)"><b>bold</b> & "quotes"');
    await line(ann, "<script>", '<img src=x onerror="alert(1)"><b>bold</b> & "quotes"').waitFor();
    // A name that turns the direction of text is refused; a text that does is shown as what it is.
    await assert.rejects(plainSays(mallory, "\u202ennA", "lobby", "Hi"));
    await plainSays(mallory, "Anne", "lobby", "\u202egnp.exe \u001b[31mred\u0007");
    await line(ann, "Anne", "\ufffdgnp.exe \u241b[31mred\u2407").waitFor();
    await say(mallory, "javascript:alert(1) https://example.org/a?b=\"c\" (see http://example.com/x_(y).)");
    await line(ann, "<script>", "javascript:").waitFor();
    const links = ann.locator("#log a");
    assert.deepEqual(await links.evaluateAll((all) => all.map(({ href, rel }) => [href, rel])), [
      ["https://example.org/a?b=", "noopener noreferrer nofollow"],
      ["http://example.com/x_(y", "noopener noreferrer nofollow"],
    ]);
    for (const page of [ann, mallory]) assert.equal(await page.locator("body :is(script, #log img, #log b, #people img)").count(), 0);
    await join(mallory, "<i>room</i>");
    assert.equal(await mallory.locator(":is(#rooms, #room-name) i").count(), 0);
    await shot(ann, "tricks");
    await mallory.context().close();
  });

  await test("long texts, of any script", async () => {
    await say(bob, "Grüße, 世界 🙂 " + "a".repeat(300));
    await line(ann, "Bob", "世界 🙂").waitFor();
    await say(bob, "מה שלומך? שלום (hello) עולם");
    await fitsItsScreen(ann);
    const long = "0123456789abcde ".repeat(3840);
    await say(bob, `${long.trimEnd()}!`);
    const message = line(ann, "Bob", "0123456789abcde");
    await message.getByRole("button", { name: "Show all of it (60 KiB)" }).waitFor();
    await shot(ann, "long");
    await message.getByRole("button").click();
    assert.equal((await message.locator(".text").textContent()).length, long.length);
    await bob.getByLabel("Message", { exact: true }).fill("ü".repeat(33_000));
    await bob.locator("#say-hint", { hasText: "too long" }).waitFor();
    assert(await bob.getByRole("button", { name: "Send" }).isDisabled());
    await bob.getByLabel("Message", { exact: true }).fill("");
  });

  await test("who reads further up stays there, and is told what is new", async () => {
    await say(ann, "I read on.");
    await line(bob, "Ann", "I read on.").waitFor();
    await ann.locator("#log").evaluate((log) => log.scrollTo(0, 0));
    await ann.getByRole("button", { name: "To the newest" }).waitFor();
    await say(bob, "Something new");
    await ann.getByRole("button", { name: "1 new message" }).waitFor();
    assert.equal(await ann.locator("#log").evaluate((log) => log.scrollTop), 0);
    await shot(ann, "scrolled-up");
    await ann.getByRole("button", { name: "1 new message" }).click();
    await ann.locator("#jump").waitFor({ state: "hidden" });
  });

  await test("earlier messages can be had, page by page", async () => {
    const numbers = Array.from({ length: 90 }, (_, index) => `line ${index + 1}`);
    await join(bob, "long");
    for (const text of numbers) await say(bob, text);
    await line(bob, "Bob", "line 90").waitFor();
    const late = await open({ path: "/?name=Lena&room=long" });
    await late.getByRole("button", { name: "Enter" }).click();
    await line(late, "Bob", "line 90").waitFor();
    assert.deepEqual(await texts(late), numbers.slice(40));
    await late.getByRole("button", { name: "Show earlier messages" }).click();
    await line(late, "Bob", /line 1$/).waitFor();
    assert.deepEqual(await texts(late), numbers);
    assert(await late.getByRole("button", { name: "Show earlier messages" }).isHidden());
    await late.context().close();
    await tab(bob, "lobby").click();
  });

  await test("a flood is shown in order, bounded, and with its end in sight", async () => {
    const quiet = await open();
    await enter(quiet, "Quinn", "flooded");
    await bob.evaluate(async () => {
      const socket = new WebSocket(`ws://${location.host}/ws/Flo?room=flooded`);
      await new Promise((resolve) => socket.addEventListener("open", resolve));
      for (let number = 1; number <= 3000; number += 1) socket.send(`drop ${number}`);
    });
    await line(quiet, "Flo", "drop 3000").waitFor();
    const shown = await texts(quiet);
    assert(shown.length >= 1000 && shown.length <= 1250, `${shown.length} messages are kept`);
    assert.deepEqual(shown, Array.from(shown, (_, index) => `drop ${3001 - shown.length + index}`));
    await quiet.waitForFunction(() => {
      const log = document.getElementById("log");
      return log.scrollHeight - log.scrollTop - log.clientHeight < 2;
    });
    assert(await quiet.locator("#jump").isHidden());
    await quiet.context().close();
  });

  await test("a cut wire: nothing is missing afterwards, nothing is there twice", async () => {
    const eve = await overTheWire();
    await enter(eve, "Eve", "relay");
    await join(bob, "relay");
    const numbers = Array.from({ length: 120 }, (_, index) => `number ${index + 1}`);
    for (const [index, text] of numbers.entries()) {
      await say(bob, text);
      if (index % 30 === 10) wire.cut();
      if (index % 30 === 20) wire.mend();
      if (index === 15) {
        await eve.locator("#state[data-state=waiting]").waitFor();
        await eve.getByLabel("Message", { exact: true }).fill("kept");
        await shot(eve, "cut");
      }
      if (index % 30 === 25) await connected(eve);
    }
    await line(eve, "Bob", /number 120$/).waitFor({ timeout: 40_000 });
    assert.deepEqual(await texts(eve), numbers);
    await eve.locator("#log .note", { hasText: /Back after \d+ s: \d+ messages? caught up/ }).first().waitFor();
    assert.equal(await eve.locator("#log .gap").count(), 0);
    assert.equal(await eve.getByLabel("Message", { exact: true }).inputValue(), "kept");
    await eve.context().close();
  });

  await test("what the server does not keep is marked with its number", async () => {
    const eve = await overTheWire();
    await enter(eve, "Eve", "flood");
    await join(bob, "flood");
    await say(bob, "before");
    await line(eve, "Bob", "before").waitFor();
    wire.cut();
    for (let number = 1; number <= 130; number += 1) await say(bob, `flood ${number}`);
    await line(bob, "Bob", "flood 130").waitFor();
    wire.mend();
    await line(eve, "Bob", "flood 130").waitFor({ timeout: 40_000 });
    assert.match(await eve.locator("#log .gap").textContent(), /^30 messages may be missing here\./);
    const expected = ["before", ...Array.from({ length: 100 }, (_, index) => `flood ${index + 31}`)];
    assert.deepEqual(await texts(eve), expected);
    await eve.locator("#log .gap").scrollIntoViewIfNeeded();
    await shot(eve, "gap");
    await accessible(eve, "a gap");
    await eve.context().close();
  });

  await test("a wire that swallows everything: noticed by the missing pings, and no word is lost silently", async () => {
    const eve = await overTheWire();
    await enter(eve, "Eve", "silent");
    wire.swallow();
    await say(eve, "into the void");
    const unsent = eve.locator(".unsent.failed");
    await unsent.filter({ hasText: "not known whether this has arrived" }).waitFor({ timeout: 40_000 });
    await eve.locator("#announcer", { hasText: "Connected again." }).waitFor({ timeout: 40_000 });
    await shot(eve, "unsent");
    await unsent.getByRole("button", { name: "Say it again" }).click();
    await line(eve, "Eve", "into the void").waitFor();
    await unsent.waitFor({ state: "detached" });
    await eve.context().close();
  });

  await test("after a restart all pages come back by themselves, and say what may be missing", async () => {
    await tab(bob, "lobby").click();
    await ann.getByLabel("Message", { exact: true }).fill("half a sen");
    const told = ann.locator("#announcer", { hasText: "Not connected: the server is going away." }).waitFor();
    await Promise.all([told, server.stop()]);
    await ann.locator("#state[data-state=waiting]", { hasText: "the server cannot be reached" }).waitFor();
    await shot(ann, "reconnecting");
    await accessible(ann, "while it waits");
    await server.start();
    for (const page of [ann, bob]) await connected(page);
    await ann.locator("#log .gap", { hasText: "Messages may be missing here" }).waitFor();
    assert.equal(await ann.getByLabel("Message", { exact: true }).inputValue(), "half a sen");
    await say(ann, "back again");
    await line(bob, "Ann", "back again").waitFor();
    await person(ann, "Bob").waitFor();
    await shot(ann, "restarted");
  });

  await test("a member that lagged is put out, and recovers by itself", async () => {
    const eve = await open({ ready: interceptable });
    await enter(eve, "Eve", "lag");
    await join(bob, "lag");
    await say(bob, "heard");
    await line(eve, "Bob", "heard").waitFor();
    eve.wireTap.deaf = true;
    for (const text of ["missed one", "missed two"]) await say(bob, text);
    await line(bob, "Bob", "missed two").waitFor();
    eve.wireTap.deaf = false;
    // The server does the same on its own when a member is too far behind.
    eve.wireTap.toServer({ id: 1_000_000, unsubscribe: { channel: "lag" } });
    eve.wireTap.toPage({ push: { channel: "lag", unsubscribe: { code: 2500, reason: "insufficient state" } } });
    await line(eve, "Bob", "missed two").waitFor();
    assert.deepEqual(await texts(eve), ["heard", "missed one", "missed two"]);
    assert.equal(await eve.locator("#log .gap").count(), 0);

    eve.wireTap.toPage({ push: { channel: "lag", unsubscribe: { code: 2000, reason: "not for you" } } });
    await eve.locator("#say-hint", { hasText: "You are not in this room." }).waitFor();
    await eve.locator("#log .note", { hasText: "not for you" }).waitFor();
    await eve.context().close();
  });

  await test("the code of a close decides whether the page comes back", async () => {
    const eve = await open({ ready: interceptable });
    await enter(eve, "Eve", "codes");
    for (const code of [1001, 3001, 3499, 4000]) {
      await eve.wireTap.page.close({ code, reason: "go" });
      await eve.locator("#announcer", { hasText: "Connected again." }).waitFor();
      await connected(eve);
      await eve.locator("#announcer").evaluate((region) => region.replaceChildren());
    }
    for (const code of [1009, 3500, 3999, 4500]) {
      await eve.wireTap.page.close({ code, reason: "stay away" });
      await eve.locator("#state[data-state=lost]").waitFor();
      await eve.getByRole("button", { name: "Connect" }).click();
      await connected(eve);
    }
    await eve.context().close();
  });

  await test("a server that wants tokens", async () => {
    const secret = "a secret of this test, 32 bytes or more";
    const guarded = new Server(stentor, { STENTOR_AUTH: "token", STENTOR_TOKEN_HMAC_SECRET: secret });
    await guarded.start();
    try {
      const origin = `http://localhost:${guarded.port}`;
      const in_ = (seconds) => Math.floor(Date.now() / 1000) + seconds;
      const claims = { sub: "u1", info: { name: "Ann the First" }, channels: ["news"] };
      const eve = await open({ origin, path: "/?name=Eve" });
      const alert = eve.getByRole("alert");
      await eve.getByRole("button", { name: "Enter" }).click();
      await alert.filter({ hasText: "lets in only those who have a token" }).waitFor();
      await shot(eve, "token");
      for (const [wrong, told] of [
        [token("not that secret, but of 32 bytes too", claims), "does not accept this token"],
        [token(secret, { ...claims, exp: in_(-100) }), "the token has expired"],
      ]) {
        await eve.getByLabel("Token, if this server wants one").fill(wrong);
        await eve.getByRole("button", { name: "Enter" }).click();
        await alert.filter({ hasText: told }).waitFor();
      }
      await eve.goto(`${origin}/?name=Eve&token=${token(secret, { ...claims, exp: in_(100) })}`);
      assert.equal(new URL(eve.url()).search, "?name=Eve");
      await eve.getByRole("button", { name: "Enter" }).click();
      await connected(eve);
      await eve.locator("#me", { hasText: "Ann the First" }).waitFor();
      await tab(eve, "news").click();
      await say(eve, "in the room that came with the token");
      await line(eve, "Ann the First", "came with the token").waitFor();
      await eve.context().close();
    } finally {
      guarded.kill();
    }
  });

  await test("what is said while one looks elsewhere is counted in the title", async () => {
    const look = (away) => ann.evaluate((away) => {
      Object.defineProperty(document, "hidden", { value: away, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, away);
    await tab(bob, "lobby").click();
    await look(true);
    await say(bob, "psst");
    await line(ann, "Bob", "psst").waitFor();
    assert.equal(await ann.title(), "(1) #lobby – Stentor");
    await look(false);
    assert.equal(await ann.title(), "#lobby – Stentor");
    assert.equal(await ann.locator("#log .new + .message .text").textContent(), "psst");
  });

  await test("a reload comes back to the same rooms", async () => {
    await join(ann, "tea");
    await ann.reload();
    await connected(ann);
    assert.equal(await ann.locator("#room-name").textContent(), "tea");
    await tab(ann, "lobby").click();
    await line(ann, "Ann", "back again").waitFor();
    assert.equal(await ann.locator("#log .message.own").count(), 1);
  });

  await test("too many people to name them all", async () => {
    const drawn = await ann.evaluate(async () => {
      const { People } = await import("/people.js");
      const people = new People();
      const list = document.createElement("ul");
      people.set({ presence: { a: { user: "A", client: "a" }, b: { user: "B", client: "b" } }, truncated: true, num_clients: 1234 });
      people.draw(list, new Set(["b"]));
      const told = [...list.children].map((item) => item.textContent);
      const again = people.counted(2000);
      people.draw(list, new Set(["b"]));
      return { told, again, counted: list.textContent, fewer: people.counted(2) };
    });
    assert.deepEqual(drawn, { told: ["BByou", "AA", "and 1,232 others"], again: false, counted: "2,000 people", fewer: true });
  });

  await test("the keyboard is enough", async () => {
    const page = await open();
    await page.keyboard.type("Kim");
    await page.keyboard.press("Tab");
    await page.keyboard.type("keys");
    await page.keyboard.press("Enter");
    await connected(page);
    await page.locator("#say textarea:focus").waitFor();
    await page.keyboard.type("one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    await page.locator("#state[data-state=open]").waitFor();
    await page.keyboard.press("Enter");
    await line(page, "Kim", "one\ntwo").waitFor();
    await page.keyboard.press("Shift+Tab");
    await page.locator("#log:focus").waitFor();
    const focused = () => page.evaluate(() => document.activeElement.id);
    for (let steps = 0; (await focused()) !== "join-room"; steps += 1) {
      assert(steps < 20, "the box for another room cannot be reached");
      await page.keyboard.press("Shift+Tab");
    }
    await shot(page, "focus");
    await page.keyboard.type("more");
    await page.keyboard.press("Enter");
    await page.locator("#room-name", { hasText: "more" }).waitFor();
    await page.keyboard.press("Alt+ArrowUp");
    await page.locator("#room-name", { hasText: "keys" }).waitFor();
    await line(page, "Kim", "one").waitFor();
    await plainSays(page, "Pat", "keys", "can you hear me?");
    await page.locator("#announcer", { hasText: "Pat: can you hear me?" }).waitFor();
    await page.context().close();
  });

  await test("light and dark, wide and in between", async () => {
    await accessible(ann, "light");
    await ann.getByLabel("Colours").selectOption("dark");
    await shot(ann, "dark");
    await accessible(ann, "dark");
    await ann.getByLabel("Colours").selectOption("");
    await ann.setViewportSize({ width: 800, height: 600 });
    await ann.getByRole("button", { name: "People" }).click();
    await person(ann, "Bob").waitFor();
    await accessible(ann, "people, as a drawer");
    await shot(ann, "between");
    await ann.keyboard.press("Escape");
    await person(ann, "Bob").waitFor({ state: "hidden" });
    assert.equal(await ann.evaluate(() => document.activeElement.id), "open-people");
    await ann.setViewportSize({ width: 1200, height: 760 });
  });

  await test("a phone, in the dark", async () => {
    const phone = await open({ viewport: { width: 360, height: 640 }, colorScheme: "dark", hasTouch: true, isMobile: true });
    await shot(phone, "phone-enter");
    await enter(phone, "Dora");
    await say(ann, "A long line that has to be broken on a small screen, because it does not fit in any other way: " + "x".repeat(80));
    await line(phone, "Ann", "small screen").waitFor();
    await fitsItsScreen(phone);
    await shot(phone, "phone-dark");
    await accessible(phone, "a phone");
    await phone.getByRole("button", { name: "Rooms" }).tap();
    await join(phone, "tea");
    await say(ann, "Dora?");
    await phone.locator("#other-unread", { hasText: "1 unread" }).waitFor();
    await phone.getByRole("button", { name: "Rooms" }).tap();
    await tab(phone, "lobby").waitFor();
    await accessible(phone, "rooms on a phone");
    await phone.locator("#rooms-panel").evaluate((panel) => Promise.all(panel.getAnimations().map((one) => one.finished)));
    await shot(phone, "phone-rooms");
    await phone.getByRole("button", { name: "Leave", exact: true }).tap();
    await phone.getByLabel("Your name").waitFor();
    await phone.context().close();
  });

  await test("the browser has nothing to complain about", async () => assert.deepEqual(browser.complaints, []));
  console.log(`${passed.length} passed, 0 failed`);
} finally {
  await browser.stop();
  wire.stop();
  server.kill();
}
