// The pictures in swarm's README: the display on a terminal, taken from tmux, and the report of the same run.
//
//   node swarm_pictures.mjs STENTOR SWARM OUT
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import assert from "node:assert/strict";
import { launch, serve } from "./support.mjs";

const [stentor, swarm, out] = process.argv.slice(2);
assert(stentor && swarm && out, "usage: node swarm_pictures.mjs STENTOR SWARM OUT");

/** The run, and the second of it that the first picture shows. */
const RUN = ["--clients", "2000", "--rate", "50", "--duration", "15s", "--html", "report.html"];
const PICTURE_SECOND = 12;

const COLUMNS = 112;
const STYLE = `
  body { margin: 0; background: #16191d; color: #e8e6e1; font: 14px/19px "DejaVu Sans Mono", monospace }
  pre { margin: 0; padding: 18px 22px; font: inherit; width: max-content }
  .c1 { font-weight: bold } .c2 { opacity: .65 } .c31 { color: #ff6b60 } .c32 { color: #3fd35f } .c36 { color: #35c6d6 }`;

const folder = mkdtempSync(join(tmpdir(), "swarm-"));
const session = `swarm-${process.pid}`;

function tmux(...words) {
  const { status, stdout, stderr } = spawnSync("tmux", ["-u", "-L", session, "-f", "/dev/null", ...words], { encoding: "utf8" });
  assert.equal(status, 0, `tmux: ${stderr}`);
  return stdout;
}

/** Text with the terminal's sequences for colours as HTML. */
function html(text) {
  const escaped = text.replace(/[&<>]/g, (sign) => `&#${sign.codePointAt(0)};`);
  let styles = [];
  const [plain, ...styled] = escaped.split("\x1b[");
  return plain + styled.map((part) => {
    const [, codes, rest] = part.match(/^([\d;]*)m([^]*)$/);
    for (const code of codes.split(";").map(Number)) {
      if (code === 0) styles = [];
      else if (code === 22) styles = styles.filter((style) => style > 2);
      else if (code === 39) styles = styles.filter((style) => style <= 2);
      else styles.push(code);
    }
    return `<span class="${styles.map((style) => `c${style}`).join(" ")}">${rest}</span>`;
  }).join("");
}

/** Waits for a condition, which holds within a minute or never. */
async function until(holds) {
  for (let turn = 0; !holds(); turn += 1) {
    assert(turn < 600, "a minute has passed");
    await sleep(100);
  }
}

const limits = ["--max-session-messages-per-second", "0", "--max-session-commands-per-second", "0"];
const { server, address } = await serve(stentor, limits);
let browser;
try {
  const run = ["churn", `ws://${address}`, ...RUN, "--server-pid", server.pid].map(String);
  tmux("new-session", "-d", "-x", COLUMNS, "-y", "8", "-c", folder, resolve(swarm), ...run);
  let display = "";
  await until(() => (display = tmux("capture-pane", "-p", "-e")).includes(` ${PICTURE_SECOND} s / `));
  const report = join(folder, "report.html");
  await until(() => existsSync(report) && readFileSync(report, "utf8").trimEnd().endsWith("</html>"));

  browser = await launch();
  const page = await browser.newPage({ viewport: { width: 1000, height: 1180 }, colorScheme: "light" });
  await page.goto(`file://${report}`);
  await page.screenshot({ path: join(out, "report.png") });
  await page.setContent(`<style>${STYLE}</style><pre>${html(display.trimEnd())}</pre>`);
  await page.locator("pre").screenshot({ path: join(out, "live.png") });
} finally {
  await browser?.close();
  server.kill();
  rmSync(folder, { recursive: true });
}
