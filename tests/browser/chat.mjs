// The chat page in a real Chromium, against the real server.
//
//   node chat.mjs STENTOR OUT
//
// Screenshots go to OUT. Exits with 1 at the first thing that is not as it should be.
import { chromium } from "playwright-core";
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createServer } from "node:net";
import assert from "node:assert/strict";

const [stentor, out] = process.argv.slice(2);
assert(stentor && out, "usage: node chat.mjs STENTOR OUT");
mkdirSync(out, { recursive: true });

const freePort = () =>
  new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });

const port = await freePort();
const origin = `http://localhost:${port}`;
let server;

async function startServer() {
  server = spawn(stentor, ["serve", "--listen", `127.0.0.1:${port}`, "--shards", "2", "--log", "warn"], {
    stdio: "inherit",
  });
  for (;;) {
    if (server.exitCode !== null) throw new Error("the server ended");
    if (await fetch(`http://127.0.0.1:${port}/readyz`).then((answer) => answer.ok, () => false)) return;
  }
}

async function stopServer() {
  const ended = new Promise((resolve) => server.once("exit", resolve));
  server.kill("SIGTERM");
  assert.equal(await ended, 0, "a drain ends with 0");
}

const passed = [];
async function test(what, work) {
  await work();
  passed.push(what);
  console.log(`ok  ${what}`);
}

await startServer();
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});

const complaints = [];
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 900, height: 620 }, ...options });
  const page = await context.newPage();
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    // A server that is away is logged by the browser itself; everything else is ours.
    if (message.type() === "error" && !/ERR_CONNECTION_REFUSED|WebSocket connection to/.test(message.text())) {
      complaints.push(message.text());
    }
  });
  page.on("dialog", (dialog) => {
    complaints.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.goto(origin);
  return page;
}

async function enter(page, name, room = "") {
  await page.getByLabel("Your name").fill(name);
  await page.getByLabel("Room").fill(room);
  await page.keyboard.press("Enter");
  await page.locator("#state[data-state=open]").waitFor();
}

async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

const line = (page, who, text) =>
  page.locator("#messages li").filter({ has: page.locator(".who", { hasText: who }) }).filter({ hasText: text });

try {
  const ann = await open();
  const bob = await open();

  await test("two pages chat with each other", async () => {
    await ann.screenshot({ path: `${out}/enter.png` });
    await enter(ann, "Ann");
    await enter(bob, "Bob");
    await say(ann, "Is anybody here?");
    await line(bob, "Ann", "Is anybody here?").waitFor();
    await say(bob, "Fifty voices, and I am one of them.");
    await line(ann, "Bob", "Fifty voices").waitFor();
    assert.equal(await ann.locator("#messages li.own").count(), 1);
    await ann.screenshot({ path: `${out}/two.png` });
  });

  await test("rooms do not hear each other", async () => {
    const other = await open();
    await enter(other, "Cleo", "elsewhere");
    await say(other, "only here");
    await line(other, "Cleo", "only here").waitFor();
    await say(ann, "and only there");
    await line(bob, "Ann", "and only there").waitFor();
    assert.equal(await line(ann, "Cleo", "only here").count(), 0);
    await other.context().close();
  });

  await test("names and texts are never HTML", async () => {
    const mallory = await open();
    await enter(mallory, '<script>alert("name")</script>');
    await say(mallory, '<img src=x onerror="alert(1)"><b>bold</b> & "quotes"');
    const item = line(ann, "<script>", '<img src=x onerror="alert(1)"><b>bold</b> & "quotes"');
    await item.waitFor();
    assert.equal(await ann.locator("#messages :is(script, img, b)").count(), 0);
    assert.equal(await mallory.locator(":is(#messages, header #place) :is(script, img, b)").count(), 0);
    await mallory.context().close();
  });

  await test("long texts and any script", async () => {
    await say(bob, "Grüße, 世界 🙂 " + "a".repeat(300));
    await line(ann, "Bob", "世界 🙂").waitFor();
    const overflow = await ann.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert(overflow <= 0, `the page is ${overflow} px too wide`);
    await ann.screenshot({ path: `${out}/chat.png` });
  });

  await test("a bad name gets a sentence", async () => {
    const page = await open();
    await page.getByLabel("Your name").fill("ü".repeat(60));
    await page.getByRole("button", { name: "Enter" }).click();
    assert.match(await page.getByRole("alert").textContent(), /too long: at most 64 bytes/);
    await page.context().close();
  });

  await test("after a restart both pages come back by themselves", async () => {
    await stopServer();
    await ann.locator("#state[data-state=waiting], #state[data-state=connecting]").first().waitFor();
    await ann.locator("#messages li.note", { hasText: "the server is going away" }).waitFor();
    await ann.screenshot({ path: `${out}/reconnecting.png` });
    await startServer();
    for (const page of [ann, bob]) await page.locator("#state[data-state=open]").waitFor({ timeout: 30_000 });
    await say(ann, "back again");
    await line(bob, "Ann", "back again").waitFor();
  });

  await test("a phone, in the dark", async () => {
    const phone = await open({ viewport: { width: 360, height: 640 }, colorScheme: "dark" });
    await enter(phone, "Dora");
    await say(ann, "A long line that has to be broken on a small screen, because it does not fit in any other way.");
    await line(phone, "Ann", "small screen").waitFor();
    const overflow = await phone.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert(overflow <= 0, `the page is ${overflow} px too wide`);
    await phone.screenshot({ path: `${out}/phone-dark.png` });
    await phone.getByRole("button", { name: "Leave" }).click();
    await phone.getByLabel("Your name").waitFor();
    await phone.context().close();
  });

  await test("the browser has nothing to complain about", async () => assert.deepEqual(complaints, []));
  console.log(`${passed.length} passed, 0 failed`);
} finally {
  await browser.close();
  server.kill("SIGKILL");
}
