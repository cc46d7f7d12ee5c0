// The pictures in the README: a small scene, played in real pages.
//
//   node pictures.mjs STENTOR OUT
import { mkdirSync } from "node:fs";
import assert from "node:assert/strict";
import { Browser, Server, Wire, connected, enter, join, line, say, tab } from "./stage.mjs";

const [stentor, out] = process.argv.slice(2);
assert(stentor && out, "usage: node pictures.mjs STENTOR OUT");
mkdirSync(out, { recursive: true });

const server = new Server(stentor);
const wire = new Wire(server);
const browser = new Browser(`http://localhost:${server.port}`);
const cast = {};

async function speak(name, text) {
  await say(cast[name], text);
  await line(cast.Ann, name, text.split("\n")[0]).waitFor();
}

try {
  await server.start();
  await wire.start();
  await browser.start();
  const origin = `http://localhost:${server.port}`;
  const viewport = { width: 1180, height: 700 };
  for (const name of ["Bob", "Cleo", "Ann", "Dmitri", "José", "Emre", "Grace"]) {
    cast[name] = await browser.open({ origin: name === "Cleo" ? `http://localhost:${wire.port}` : origin, viewport });
    await enter(cast[name], name, "lobby");
    if (name === "Bob") await say(cast.Bob, "Good morning! Is anybody awake?");
    if (name === "Cleo") await say(cast.Cleo, "Since six. The deploy went through, see https://example.org/releases");
  }
  await speak("Ann", "Morning! I have just come in, and the history was there already.");
  await speak("Bob", "Your phone lost the network in the tunnel, didn't it?");
  await speak("Ann", "It did. Everything that I missed came by itself, in order, and nothing twice.");
  await speak("Emre", "Mine lost it on the mountain. An hour, and then all of you at once 🙂");
  await join(cast.Ann, "releases");
  await join(cast.Grace, "releases");
  await join(cast.Ann, "tea");
  await tab(cast.Ann, "lobby").click();
  for (const text of ["0.2 is out", "Notes are in the repository", "Have a look, please"]) await say(cast.Grace, text);
  await tab(cast.Ann, "releases").locator(".badge", { hasText: "3 unread" }).waitFor();
  await speak("José", "¡Buenos días a todos! Καλημέρα ☕");
  await cast.Ann.screenshot({ path: `${out}/chat.png` });

  await cast.Cleo.getByLabel("Colours").selectOption("dark");
  wire.cut();
  await cast.Cleo.locator("#state[data-state=waiting]").waitFor();
  for (let number = 1; number <= 112; number += 1) await say(cast.Dmitri, `measurement ${number}`);
  await speak("Dmitri", "That was all of it.");
  wire.mend();
  await connected(cast.Cleo);
  await line(cast.Cleo, "Dmitri", "That was all of it.").waitFor();
  await cast.Cleo.locator("#log .gap").evaluate((gap) => gap.scrollIntoView({ block: "center" }));
  await cast.Cleo.locator("#jump").waitFor();
  await cast.Cleo.screenshot({ path: `${out}/chat-dark.png` });

  const phone = await browser.open({ origin, viewport: { width: 360, height: 700 }, hasTouch: true, isMobile: true });
  await enter(phone, "Pat", "tea");
  await join(cast.Bob, "tea");
  await say(cast.Bob, "The kettle is on.");
  await line(phone, "Bob", "The kettle is on.").waitFor();
  await say(phone, "I am on the bus, ten minutes.\nTwo sugars, please!");
  await tab(cast.Ann, "tea").click();
  await say(cast.Ann, "There is cake too: a very long word for it is Schwarzwälderkirschtortenstückchen.");
  await line(phone, "Ann", "There is cake").waitFor();
  await say(phone, "Then I shall run 🏃");
  await line(phone, "Pat", "Then I shall run").waitFor();
  await phone.screenshot({ path: `${out}/chat-phone.png` });
  assert.deepEqual(browser.complaints, []);
} finally {
  await browser.stop();
  wire.stop();
  server.kill();
}
