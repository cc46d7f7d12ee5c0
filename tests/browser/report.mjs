// swarm's HTML report in a real Chromium, from a real run against the real server.
//
//   node report.mjs STENTOR SWARM OUT
//
// The report and its screenshots go to OUT. Exits with 1 at the first failed assertion.
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import assert from "node:assert/strict";
import { launch, serve } from "./support.mjs";

const [stentor, swarm, folder] = process.argv.slice(2);
assert(stentor && swarm && folder, "usage: node report.mjs STENTOR SWARM OUT");
const out = resolve(folder);
mkdirSync(out, { recursive: true });

const { server, address } = await serve(stentor);
const run = spawnSync(swarm, [
  "churn", `ws://${address}`, "--clients", "300", "--duration", "4s", "--server-pid", server.pid,
  "--threshold", "lost == 0", "--threshold", "p99 < 1ns", "--room", "<b>room</b>",
  "--html", `${out}/report.html`, "--json", `${out}/report.json`,
], { encoding: "utf8" });
server.kill();
assert.equal(run.status, 1, `one threshold must fail: ${run.stderr}`);
const report = JSON.parse(readFileSync(`${out}/report.json`, "utf8"));

const browser = await launch();
for (const [name, options] of [
  ["light", { viewport: { width: 1000, height: 800 }, colorScheme: "light" }],
  ["dark", { viewport: { width: 1000, height: 800 }, colorScheme: "dark" }],
  ["phone", { viewport: { width: 390, height: 800 }, colorScheme: "light" }],
]) {
  const page = await browser.newPage(options);
  const errors = [];
  page.on("console", (message) => errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => request.url().startsWith("file:") || errors.push(`requests ${request.url()}`));
  await page.goto(`file://${out}/report.html`);
  const figures = await page.locator("figure figcaption b").allTextContents();
  assert.deepEqual(figures, [
    "Latency by percentile", "Latency over time", "Deliveries over time", "Connections over time", "Server CPU",
    "Server memory",
  ]);
  for (const curve of await page.locator("path.curve.s0:not(.partial)").all()) {
    const box = await curve.boundingBox();
    assert(box.width > 100, "a curve spans its chart");
  }
  assert.equal(await page.locator(".status").textContent(), "failed");
  assert.deepEqual(await page.locator("h2 + table >> nth=0").locator("td").allTextContents(), ["passed", "FAILED"]);
  const lost = page.locator(".headlines li", { hasText: "lost" }).locator("b");
  assert.equal(await lost.textContent(), String(report.metrics.lost));
  assert.equal(await page.locator("main b", { hasText: /^room$/ }).count(), 0, "the name of a room is text, not HTML");
  const [scrollWidth, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert(scrollWidth <= width, `the page is ${scrollWidth} px wide on a screen of ${width} px`);
  assert.deepEqual(errors, []);
  await page.screenshot({ path: `${out}/report-${name}.png`, fullPage: true });
  console.log(`ok  the report, ${name}`);
}
await browser.close();
