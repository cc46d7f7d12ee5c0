// Makes the pictures of the chat page for the documents: a short conversation in real pages.
//
//   node pictures.mjs STENTOR OUT
import { mkdirSync } from "node:fs";
import assert from "node:assert/strict";
import { Browser, Server, TcpProxy, connected, joinRoom, message, publish, roomButton, signIn } from "./support.mjs";

const [stentor, out] = process.argv.slice(2);
assert(stentor && out, "usage: node pictures.mjs STENTOR OUT");
mkdirSync(out, { recursive: true });

// As the README configures it: with rooms for who is typing.
const TYPING = '[[room]]\npattern = "typing:*"\nhistory = 0\npresence = false\njoin_leave = false\nslow_member = "conflate"\n';
const server = new Server(stentor, {}, TYPING);
const proxy = new TcpProxy(server);
const browser = new Browser(`http://localhost:${server.port}`);
const pages = {};

/** Publishes on the page of `name`, and waits until Ann's page shows the message. */
async function publishAs(name, text) {
  await publish(pages[name], text);
  await message(pages.Ann, name, text.split(/[\n`]/)[0]).waitFor();
}

try {
  await server.start();
  await proxy.start();
  await browser.start();
  const origin = `http://localhost:${server.port}`;
  const viewport = { width: 1180, height: 700 };
  for (const name of ["Bob", "Cleo", "Ann", "Dmitri", "José", "Emre", "Grace"]) {
    pages[name] = await browser.open({ origin: name === "Cleo" ? `http://localhost:${proxy.port}` : origin, viewport });
    await signIn(pages[name], name, "lobby");
    if (name === "Bob") await publish(pages.Bob, "Good morning! Who is awake?");
    if (name === "Cleo") await publish(pages.Cleo, "Since six. The deploy went through, see https://example.org/releases");
  }
  await publishAs("Ann", "Morning! I have just come in, and the history was there already.");
  await publishAs("Bob", "Your phone lost the network in the tunnel, didn't it?");
  await publishAs("Ann", "It did. Everything that I missed came by itself, in order, and nothing twice.");
  await publishAs("Emre", "Mine lost it on the mountain. An hour, and then all of you at once ☺");
  await publishAs("Emre", "@Ann, `stentor check` found the typo in the room table. Thank you!");
  await joinRoom(pages.Ann, "releases");
  await joinRoom(pages.Grace, "releases");
  await joinRoom(pages.Ann, "tea");
  await roomButton(pages.Ann, "lobby").click();
  for (const text of ["0.2 is out", "Notes are in the repository", "Have a look, please"]) await publish(pages.Grace, text);
  await roomButton(pages.Ann, "releases").locator(".badge", { hasText: "3 unread" }).waitFor();
  await publishAs("José", "¡Buenos días a todos! Καλημέρα ☕");
  await roomButton(pages.Grace, "lobby").click();
  await pages.Grace.getByLabel("Message", { exact: true }).pressSequentially("And to you");
  await pages.Ann.locator("#typing", { hasText: "Grace is typing" }).waitFor();
  await pages.Ann.screenshot({ path: `${out}/chat.png` });

  await pages.Cleo.getByLabel("Colours").selectOption("dark");
  proxy.cut();
  await pages.Cleo.locator("#state[data-state=waiting]").waitFor();
  for (let number = 1; number <= 112; number += 1) await publish(pages.Dmitri, `measurement ${number}`);
  await publishAs("Dmitri", "That was all of it.");
  proxy.restore();
  await connected(pages.Cleo);
  await message(pages.Cleo, "Dmitri", "That was all of it.").waitFor();
  // Entries far from the visible part are not in the document.
  await pages.Cleo.locator("#log").evaluate((log) => log.scrollTo(0, 0));
  await pages.Cleo.locator("#log .gap").evaluate((gap) => gap.scrollIntoView({ block: "center" }));
  await pages.Cleo.locator("#jump").waitFor();
  await pages.Cleo.screenshot({ path: `${out}/chat-dark.png` });

  const phone = await browser.open({ origin, viewport: { width: 360, height: 700 }, hasTouch: true, isMobile: true });
  await signIn(phone, "Pat", "tea");
  await joinRoom(pages.Bob, "tea");
  await publish(pages.Bob, "The kettle is on.");
  await message(phone, "Bob", "The kettle is on.").waitFor();
  await publish(phone, "I am on the bus, ten minutes.\nTwo sugars, please!");
  await roomButton(pages.Ann, "tea").click();
  await publish(pages.Ann, "There is cake too: a very long word for it is Schwarzwälderkirschtortenstückchen.");
  await message(phone, "Ann", "There is cake").waitFor();
  await publish(phone, "Then I shall run!");
  await message(phone, "Pat", "Then I shall run").waitFor();
  await phone.screenshot({ path: `${out}/chat-phone.png` });
  assert.deepEqual(browser.errors, []);
} finally {
  await browser.stop();
  proxy.stop();
  server.kill();
}
