// Support for the tests of the chat page: the server, a TCP proxy that can fail, and pages in a real Chromium.
import { chromium } from "playwright-core";
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { createRequire } from "node:module";
import { Transform } from "node:stream";
import { tmpdir } from "node:os";
import { join } from "node:path";
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

// How much of a stalled answer is passed on.
const BEGINNING_MS = 500;

/** The server under test. It keeps its port across restarts. */
export class Server {
  /** `settings`: additional settings, as environment variables. `rooms`: the `[[room]]` tables of its configuration file. */
  constructor(program, settings = {}, rooms = "") {
    this.program = program;
    this.env = { ...process.env, ...settings };
    this.rooms = rooms;
  }

  async start() {
    this.port ??= await freePort();
    const flags = ["--listen", `127.0.0.1:${this.port}`, "--shards", "2", "--log", "warn"];
    // The page, not the browser, answers pings: a pong may take as long as the machine keeps the page waiting.
    const pings = ["--ping-interval", "3s", "--pong-timeout", "2900ms"];
    // The tests publish faster than a user types.
    const limits = ["--max-session-messages-per-second", "0", "--max-session-commands-per-second", "0"];
    const config = this.rooms ? ["--config", this.writeConfig()] : [];
    const shutdown = ["--shutdown-delay", "0s"];
    const all = ["serve", ...config, ...flags, ...pings, ...limits, ...shutdown];
    this.child = spawn(this.program, all, { stdio: "inherit", env: this.env });
    for (;;) {
      if (this.child.exitCode !== null) throw new Error("the server ended");
      if (await fetch(`http://127.0.0.1:${this.port}/readyz`).then((response) => response.ok, () => false)) return;
    }
  }

  writeConfig() {
    this.folder ??= mkdtempSync(join(tmpdir(), "stentor-browser-"));
    const path = join(this.folder, "stentor.toml");
    writeFileSync(path, this.rooms);
    return path;
  }

  async stop() {
    const ended = once(this.child, "exit");
    this.child.kill("SIGTERM");
    assert.equal((await ended)[0], 0, "a drain exits with 0");
  }

  kill() {
    this.child?.kill("SIGKILL");
    if (this.folder) rmSync(this.folder, { recursive: true });
  }
}

/** A server with these flags on a port that the kernel chooses: its process, and the address that it logs. */
export async function serve(program, flags = []) {
  const server = spawn(program, ["--listen", "127.0.0.1:0", "--log-format", "json", ...flags], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const address = await new Promise((found) => {
    let log = "";
    server.stderr.on("data", (data) => {
      log += data;
      const line = log.split("\n").find((line) => line.includes('"listening"'));
      if (line?.endsWith("}")) found(JSON.parse(line).address);
    });
  });
  return { server, address };
}

/** A Chromium without a window. */
export function launch(flags = []) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", ...flags],
  });
}

/** A signed token with these claims. */
export function token(secret, claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

/** A plain client that only publishes. It ignores what it receives, pings included, and is idle only for a short time. */
export class Publisher {
  async connect(port, name, room) {
    this.socket = connect(port, "127.0.0.1");
    this.socket.on("error", () => {});
    const key = "dGhlIHNhbXBsZSBub25jZQ==";
    const fields = `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n`;
    this.socket.write(`GET /ws/${name}?room=${room} HTTP/1.1\r\nHost: localhost\r\n${fields}\r\n`);
    const [answer] = await once(this.socket, "data");
    assert.match(String(answer), /^HTTP\/1.1 101/);
    this.socket.resume();
  }

  /** Publishes `rate` messages a second for `ms`, whether or not earlier ones have been delivered. Returns their number. */
  async flood(rate, ms, text) {
    const start = performance.now();
    let sent = 0;
    while (performance.now() - start < ms) {
      const due = Math.floor(((performance.now() - start) * rate) / 1000);
      const frames = [];
      for (; sent < due; sent += 1) frames.push(textFrame(text(sent + 1)));
      if (frames.length) this.socket.write(Buffer.concat(frames));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return sent;
  }

  close() {
    this.socket.destroy();
  }
}

/** A text frame of a client, masked with zeros. */
function textFrame(text) {
  const payload = Buffer.from(text);
  assert(payload.length < 126, "a short text");
  return Buffer.concat([Buffer.from([0x81, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
}

/** A TCP proxy in front of the server: it can cut its connections, refuse new ones or some requests, drop all bytes, or replace the Host. */
export class TcpProxy {
  constructor(server) {
    this.server = server;
    this.isUp = true;
    this.refuses = null; // an expression for requests that end their connection
    this.stalls = null; // an expression for requests of whose answers only the beginning is passed on
    this.host = ""; // what the Host header of each connection's first request is replaced by, unless it is empty
    this.pairs = new Set();
  }

  async start() {
    this.listener = createServer((client) => this.accept(client)).listen(0, "127.0.0.1");
    await once(this.listener, "listening");
    this.port = this.listener.address().port;
  }

  accept(client) {
    client.on("error", () => {});
    if (!this.isUp) return client.destroy();
    const upstream = connect(this.server.port, "127.0.0.1");
    const pair = { client, upstream, isBlackHole: false };
    this.pairs.add(pair);
    const end = () => {
      if (pair.isBlackHole && this.isUp) return;
      client.destroy();
      upstream.destroy();
      this.pairs.delete(pair);
    };
    for (const socket of [client, upstream]) socket.on("error", end).on("close", end);
    const stall = () => setTimeout(() => upstream.unpipe().resume(), BEGINNING_MS);
    client.pipe(new RequestFilter(this, end, stall)).pipe(upstream).pipe(client);
  }

  /** Closes all connections and refuses new ones until `restore`. */
  cut() {
    this.isUp = false;
    for (const { client } of this.pairs) client.destroy();
  }

  restore() {
    this.isUp = true;
  }

  /** Drops all bytes of the existing connections from now on, without closing them. */
  blackHole() {
    for (const pair of this.pairs) {
      pair.isBlackHole = true;
      pair.client.unpipe().resume();
      pair.upstream.unpipe().resume();
    }
  }

  stop() {
    this.cut();
    this.listener.close();
  }
}

/** What a proxy does to the bytes of a client. A request's head is taken to be at the beginning of what is read at once. */
class RequestFilter extends Transform {
  constructor(proxy, end, stall) {
    super();
    Object.assign(this, { proxy, end, stall });
  }

  _transform(data, encoding, done) {
    const { refuses, stalls, host } = this.proxy;
    if (refuses?.test(String(data))) return this.end();
    if (stalls?.test(String(data))) this.stall();
    done(null, host ? String(data).replace(/^Host: .*$/im, `Host: ${host}`) : data);
  }
}

/**
 * An nginx in front of the server, as one that knows nothing of it: HTTP/1.0 to the server. `passesUpgrades`: WebSockets are
 * let through; `buffers`: what comes is collected, whatever the server says.
 */
export class Nginx {
  constructor(server) {
    this.server = server;
    this.folder = mkdtempSync(join(tmpdir(), "stentor-nginx-"));
  }

  async start({ passesUpgrades = false, buffers = false } = {}) {
    this.port = await freePort();
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((path) => `${path}_temp_path ${this.folder}/${path};`);
    const upgrades = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;";
    const location = `proxy_pass http://127.0.0.1:${this.server.port}; proxy_set_header Host $http_host;
      ${passesUpgrades ? upgrades : "proxy_http_version 1.0;"} ${buffers ? "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;" : ""}`;
    const http = `access_log off; ${temporary.join(" ")} server { listen 127.0.0.1:${this.port}; location / { ${location} } }`;
    writeFileSync(join(this.folder, "nginx.conf"), `daemon off; pid ${this.folder}/pid; error_log stderr crit; events {} http { ${http} }`);
    const path = `${process.env.PATH}:/usr/sbin`;
    const flags = ["-p", this.folder, "-e", "stderr", "-c", join(this.folder, "nginx.conf")];
    this.child = spawn("nginx", flags, { stdio: "inherit", env: { ...process.env, PATH: path } });
    for (;;) {
      if (this.child.exitCode !== null) throw new Error("nginx ended");
      if (await fetch(`http://127.0.0.1:${this.port}/`).then((response) => response.ok, () => false)) return;
    }
  }

  async stop() {
    const ended = once(this.child, "exit");
    this.child.kill("SIGTERM");
    await ended;
    rmSync(this.folder, { recursive: true });
  }
}

/** With PAGE_FILES=src/page, the page comes from that folder instead of the server's binary. */
async function serveFromFolder(route) {
  const { pathname } = new URL(route.request().url());
  if (pathname !== "/") return route.fulfill({ path: process.env.PAGE_FILES + pathname });
  // The headers, with the Content-Security-Policy, are the server's.
  await route.fulfill({ response: await route.fetch(), path: `${process.env.PAGE_FILES}/index.html` });
}

/** Pages, and all errors that the browser reports in them. */
export class Browser {
  constructor(origin) {
    this.origin = origin;
    this.errors = [];
  }

  async start() {
    // Chromium takes a page that a test provides for one of another network, and would block its WebSocket.
    this.browser = await launch(process.env.PAGE_FILES ? ["--disable-features=LocalNetworkAccessChecks"] : []);
  }

  /** `prepare(page)` runs before the page is loaded. */
  async open({ origin = this.origin, path = "/", prepare = async () => {}, ...options } = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1200, height: 760 }, colorScheme: "light", ...options });
    const page = await context.newPage();
    page.on("pageerror", (error) => this.errors.push(String(error.stack)));
    page.on("console", (message) => {
      // The browser itself logs an unreachable server, and statuses of a probe or of a transport that does not work.
      // Commands that meet the end of their stream are for a session that is gone. All other errors are the page's.
      const isProbe = /\/(readyz|send\/-|poll\/.*|connection\/websocket|connection\/sse\?.*)$/.test(message.location().url);
      const isUnreachable = /ERR_CONNECTION|ERR_SOCKET_NOT_CONNECTED|ERR_EMPTY_RESPONSE|ERR_INTERNET_DISCONNECTED|WebSocket connection to/.test(message.text());
      const isGone = /\/emulation$/.test(message.location().url) && message.text().includes("a status of 404 ");
      if (message.type() === "error" && !isProbe && !isUnreachable && !isGone) this.errors.push(`${message.text()} ${message.location().url}`);
    });
    page.on("dialog", (dialog) => {
      this.errors.push(`a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    if (process.env.PAGE_FILES) await context.route(({ pathname }) => /^\/$|\.(js|css)$/.test(pathname), serveFromFolder);
    await prepare(page);
    await page.goto(origin + path);
    return page;
  }

  stop() {
    return this.browser?.close();
  }
}

/** Makes the page use WebSockets of its own: those of a worker cannot be observed or intercepted. */
export const withoutWorker = (page) => page.addInitScript(() => delete window.Worker);

/** Puts `page.interceptor` between the page and the server: it can drop publications, and send messages to either side. */
export async function intercept(page) {
  const interceptor = { dropsPublications: false, page: null };
  page.interceptor = interceptor;
  await withoutWorker(page);
  await page.routeWebSocket(/connection\/websocket/, (pageSocket) => {
    const serverSocket = pageSocket.connectToServer();
    interceptor.page = pageSocket;
    interceptor.toPage = (reply) => pageSocket.send(JSON.stringify(reply));
    interceptor.toServer = (command) => serverSocket.send(JSON.stringify(command));
    pageSocket.onMessage((frame) => serverSocket.send(frame));
    serverSocket.onMessage((frame) => {
      if (!interceptor.dropsPublications || !frame.includes('"pub"')) pageSocket.send(frame);
    });
  });
}

/** Fills in the sign-in form, and waits for the connection. */
export async function signIn(page, name, room = "") {
  await page.getByLabel("Your name").fill(name);
  await page.getByLabel("Room", { exact: true }).fill(room);
  await page.keyboard.press("Enter");
  await connected(page);
}

export const connected = (page) => page.locator("#state[data-state=connected]").waitFor({ timeout: 40_000 });

/** Waits until the page is subscribed to the room that it shows: before, it publishes nothing. */
export const canPublish = (page) => page.locator("#composer button:enabled").waitFor({ timeout: 40_000 });

/** Waits until the page can publish, publishes, and does not wait for the reply. */
export async function publish(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await canPublish(page);
  await page.getByLabel("Message", { exact: true }).press("Enter");
}

export const message = (page, author, text) =>
  page.locator("#log .message").filter({ has: page.locator(".name", { hasText: author }) }).filter({ hasText: text });

/** The texts of the messages in the document: those near the visible part of the log. */
export const messageTexts = (page) => page.locator("#log .message .text").allTextContents();

/** The texts of all messages of the open room, by scrolling through the log from its beginning to its end. */
export async function allMessageTexts(page) {
  const texts = await page.evaluate(async () => {
    const log = document.getElementById("log");
    const frames = async () => {
      for (let frame = 0; frame < 2; frame += 1) await new Promise(requestAnimationFrame);
    };
    const texts = new Map();
    log.scrollTo(0, 0);
    for (;;) {
      await frames();
      for (const entry of log.querySelectorAll(".entry")) {
        texts.set(Number(entry.ariaPosInSet), entry.querySelector(".message .text")?.textContent ?? null);
      }
      const { scrollTop } = log;
      log.scrollBy(0, log.clientHeight);
      if (log.scrollTop === scrollTop) return [...texts].sort(([a], [b]) => a - b);
    }
  });
  assert.deepEqual(texts.map(([position]) => position), texts.map((_, index) => index + 1), "no entry is missing");
  return texts.map(([, text]) => text).filter((text) => text !== null);
}

/** A function that runs one named test after the other, and counts them; a failure ends the program, with the browser's errors. */
export function tests(browser) {
  const test = async (name, run) => {
    try {
      await run();
    } catch (error) {
      console.log(`not ok  ${name}`, browser.errors);
      throw error;
    }
    test.passed += 1;
    console.log(`ok  ${name}`);
  };
  test.passed = 0;
  return test;
}

/** Joins a room or selects an open one by its name. */
export async function joinRoom(page, room) {
  await page.getByLabel("Join a room").fill(room);
  await page.getByLabel("Join a room").press("Enter");
  await page.locator("#room-name", { hasText: room }).waitFor();
}

export const roomButton = (page, room) => page.locator("#rooms .room").filter({ hasText: room });

/** Publishes as a plain client, over a new WebSocket from within `page`, and waits for its own message. */
export const publishPlain = (page, name, room, text) =>
  page.evaluate(async ([name, room, text]) => {
    const query = `?room=${encodeURIComponent(room)}`;
    const socket = new WebSocket(`ws://${location.host}/ws/${encodeURIComponent(name)}${query}`);
    await new Promise((resolve, reject) => Object.assign(socket, { onopen: resolve, onerror: reject }));
    const received = new Promise((resolve) => socket.addEventListener("message", resolve));
    socket.send(text);
    await received;
    socket.close();
  }, [name, room, text]);

/** Fails if axe-core finds a violation. */
export async function assertAccessible(page, what) {
  // The page's Content-Security-Policy permits only its own scripts. Playwright's evaluation is exempt from it.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map(({ id, help, nodes }) => `${id}: ${help}\n  ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n  ")}`);
  assert.equal(violations.length, 0, `${what}: ${found.join("\n")}`);
}

/** Fails if the page scrolls horizontally. */
export async function assertFitsScreen(page) {
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert(overflow <= 0, `the page is ${overflow} px too wide`);
}
