// What the tests of the chat page stand on: the server, a wire that can be cut, and pages in a real Chromium.
import { chromium } from "playwright-core";
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { createRequire } from "node:module";
import assert from "node:assert/strict";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

/** The server under test, on one port for all its lives. */
export class Server {
  /** `settings`: more of them, as environment variables. */
  constructor(program, settings = {}) {
    this.program = program;
    this.env = { ...process.env, ...settings };
  }

  async start() {
    this.port ??= await freePort();
    const flags = ["--listen", `127.0.0.1:${this.port}`, "--shards", "2", "--log", "warn"];
    const pings = ["--ping-interval", "1s", "--pong-timeout", "900ms"];
    // The tests publish faster than people type.
    const limits = ["--max-session-messages-per-second", "0", "--max-session-commands-per-second", "0"];
    this.child = spawn(this.program, ["serve", ...flags, ...pings, ...limits], { stdio: "inherit", env: this.env });
    for (;;) {
      if (this.child.exitCode !== null) throw new Error("the server ended");
      if (await fetch(`http://127.0.0.1:${this.port}/readyz`).then((answer) => answer.ok, () => false)) return;
    }
  }

  async stop() {
    const ended = once(this.child, "exit");
    this.child.kill("SIGTERM");
    assert.equal((await ended)[0], 0, "a drain ends with 0");
  }

  kill() {
    this.child?.kill("SIGKILL");
  }
}

/** A signed token with these claims. */
export function token(secret, claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

/** A wire to the server that can be cut and mended, or made to swallow everything. */
export class Wire {
  constructor(server) {
    this.server = server;
    this.whole = true;
    this.pairs = new Set();
  }

  async start() {
    this.listener = createServer((near) => this.accept(near)).listen(0, "127.0.0.1");
    await once(this.listener, "listening");
    this.port = this.listener.address().port;
  }

  accept(near) {
    near.on("error", () => {});
    if (!this.whole) return near.destroy();
    const far = connect(this.server.port, "127.0.0.1");
    const pair = { near, far, swallows: false };
    this.pairs.add(pair);
    const end = () => {
      if (pair.swallows && this.whole) return;
      near.destroy();
      far.destroy();
      this.pairs.delete(pair);
    };
    for (const socket of [near, far]) socket.on("error", end).on("close", end);
    near.pipe(far).pipe(near);
  }

  cut() {
    this.whole = false;
    for (const { near } of this.pairs) near.destroy();
  }

  mend() {
    this.whole = true;
  }

  /** From now on nothing gets through on the connections there are, and nothing is said of it. */
  swallow() {
    for (const pair of this.pairs) {
      pair.swallows = true;
      pair.near.unpipe(pair.far).resume();
      pair.far.unpipe(pair.near).resume();
    }
  }

  stop() {
    this.cut();
    this.listener.close();
  }
}

/** With PAGE_FILES=src/page, a change of a script or a style can be tried without a build. */
async function fromFolder(route) {
  const { pathname } = new URL(route.request().url());
  await route.fulfill({ path: process.env.PAGE_FILES + pathname });
}

/** Pages, and everything that the browser had to complain about in them. */
export class Browser {
  constructor(origin) {
    this.origin = origin;
    this.complaints = [];
  }

  async start() {
    this.browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
    });
  }

  /** `ready(page)`: what is done before the page is loaded. */
  async open({ origin = this.origin, path = "/", ready = async () => {}, ...options } = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1200, height: 760 }, colorScheme: "light", ...options });
    const page = await context.newPage();
    page.on("pageerror", (error) => this.complaints.push(String(error.stack)));
    page.on("console", (message) => {
      // A server that is away is logged by the browser itself; everything else is ours.
      if (message.type() === "error" && !/ERR_CONNECTION|ERR_EMPTY_RESPONSE|WebSocket connection to/.test(message.text())) {
        this.complaints.push(message.text());
      }
    });
    page.on("dialog", (dialog) => {
      this.complaints.push(`a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    if (process.env.PAGE_FILES) await context.route("**/*.{js,css}", fromFolder);
    await ready(page);
    await page.goto(origin + path);
    return page;
  }

  stop() {
    return this.browser?.close();
  }
}

/** Puts `page.wireTap` between the page and the server: it can listen, be deaf, and speak for either side. */
export async function interceptable(page) {
  const tap = { deaf: false, page: null };
  page.wireTap = tap;
  await page.routeWebSocket(/connection\/websocket/, (near) => {
    const far = near.connectToServer();
    tap.page = near;
    tap.toPage = (reply) => near.send(JSON.stringify(reply));
    tap.toServer = (command) => far.send(JSON.stringify(command));
    near.onMessage((frame) => far.send(frame));
    far.onMessage((frame) => {
      if (!tap.deaf || !frame.includes('"pub"')) near.send(frame);
    });
  });
}

export async function enter(page, name, room = "") {
  await page.getByLabel("Your name").fill(name);
  await page.getByLabel("Room", { exact: true }).fill(room);
  await page.keyboard.press("Enter");
  await connected(page);
}

export const connected = (page) => page.locator("#state[data-state=open]").waitFor({ timeout: 40_000 });

/** Waits until what we say would be heard, says it, and does not wait for the answer. */
export async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.locator("#say button:enabled").waitFor({ timeout: 40_000 });
  await page.getByLabel("Message", { exact: true }).press("Enter");
}

export const line = (page, who, text) =>
  page.locator("#log .message").filter({ has: page.locator(".who", { hasText: who }) }).filter({ hasText: text });

export const texts = (page) => page.locator("#log .message .text").allTextContents();

/** Joins a room, or goes to it, by the list of rooms. */
export async function join(page, room) {
  await page.getByLabel("Join a room").fill(room);
  await page.getByLabel("Join a room").press("Enter");
  await page.locator("#room-name", { hasText: room }).waitFor();
}

export const tab = (page, room) => page.locator("#rooms .room").filter({ hasText: room });

/** Somebody who speaks plain text over a WebSocket of his own, from within `page`. */
export const plainSays = (page, name, room, text) =>
  page.evaluate(async ([name, room, text]) => {
    const query = `?room=${encodeURIComponent(room)}`;
    const socket = new WebSocket(`ws://${location.host}/ws/${encodeURIComponent(name)}${query}`);
    await new Promise((resolve, reject) => Object.assign(socket, { onopen: resolve, onerror: reject }));
    const heard = new Promise((resolve) => socket.addEventListener("message", resolve));
    socket.send(text);
    await heard;
    socket.close();
  }, [name, room, text]);

/** axe-core finds nothing wrong. */
export async function accessible(page, what) {
  // The page's policy lets no script in but its own; the debugger may.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.map(({ id, help, nodes }) => `${id}: ${help}\n  ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n  ")}`);
  assert.equal(violations.length, 0, `${what}: ${told.join("\n")}`);
}

export async function fitsItsScreen(page) {
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert(overflow <= 0, `the page is ${overflow} px too wide`);
}
