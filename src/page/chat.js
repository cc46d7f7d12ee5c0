// The chat page: the entrance, the rooms that are open, and the one that is shown.
"use strict";

import { Announcer } from "./announce.js";
import { Client } from "./centrifuge.js";
import { Drawer } from "./drawer.js";
import { Log } from "./log.js";
import { Room } from "./room.js";
import { RoomList } from "./rooms.js";
import { bytes, count, make, problemWith, shownName } from "./text.js";
import { face } from "./timeline.js";

const NAME_BYTES_MAX = 64;
const ROOM_BYTES_MAX = 255;
// The server takes messages of 64 KiB; the command around the text needs some of that.
const COMMAND_BYTES_MAX = 64 * 1024 - 64;
const DEFAULT_ROOM = "lobby";
// How often it is counted who is here, on the average.
const COUNT_MS = 30_000;

const REASONS = {
  109: "the token has expired",
  1001: "the server is going away",
  1009: "a message was too big for this server",
  1012: "the server is restarting",
  3001: "the server is going away",
  3005: "the token has expired",
  3008: "this page read too slowly",
  3500: "the server does not accept this token",
  4004: "there are too many connections already",
  3507: "this server wants a token",
};

const element = (id) => document.getElementById(id);
const touch = matchMedia("(pointer: coarse)");

const announcer = new Announcer(element("announcer"));
const me = { name: "", user: "", client: "", clients: new Set() };
const rooms = new Map();
let client = null;
let current = null;
let everConnected = false;
let dueAt = 0;
let countdown = null;

// ---- the entrance

function enter(event) {
  event?.preventDefault();
  const name = element("name").value.trim();
  const room = element("first-room").value.trim() || DEFAULT_ROOM;
  const problem = problemWith("name", name, NAME_BYTES_MAX) || problemWith("room", room, ROOM_BYTES_MAX);
  element("enter-error").textContent = problem;
  if (problem) return element(problem.includes("room") ? "first-room" : "name").focus();
  localStorage.setItem("stentor.name", name);
  localStorage.setItem("stentor.room", room);
  keepToken(element("token").value.trim());
  begin(name, [room], room);
}

function keepToken(token) {
  if (token) localStorage.setItem("stentor.token", token);
  else localStorage.removeItem("stentor.token");
}

function begin(name, names, shown) {
  Object.assign(me, { name, user: name, client: "", clients: new Set() });
  everConnected = false;
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const token = localStorage.getItem("stentor.token") ?? "";
  client = new Client(`${scheme}//${location.host}/connection/websocket`, { data: { name }, token }, connectionHooks);
  showMe();
  showChat(true);
  for (const room of names) open(room);
  show(rooms.get(shown) ?? rooms.values().next().value ?? null);
  client.connect();
  focusRoom();
}

function showMe() {
  element("me").replaceChildren(face(me.name), make("bdi", shownName(me.name)));
}

function leave() {
  client.disconnect();
  client = null;
  for (const room of rooms.values()) list.remove(room);
  rooms.clear();
  current = null;
  log.show(null);
  sessionStorage.removeItem("stentor.inside");
  document.title = "Stentor";
  clearInterval(countdown);
  drawers.forEach((drawer) => drawer.close(false));
  showChat(false);
  element("name").focus();
}

function showChat(inside) {
  element("entrance").hidden = inside;
  element("chat").hidden = !inside;
}

/** A reload comes back to the same rooms. */
function remember() {
  const inside = { name: me.name, rooms: [...rooms.keys()], current: current?.name ?? "" };
  sessionStorage.setItem("stentor.inside", JSON.stringify(inside));
}

// ---- the connection

const connectionHooks = {
  connecting: () => showState(everConnected ? "again" : "connecting", "Connecting …"),

  connected({ client: id, transport }) {
    if (everConnected) announcer.say("Connected again.");
    everConnected = true;
    me.client = id;
    me.clients.add(id);
    showState("open", "Connected", { transport });
  },

  waiting(ms, { code, reached }) {
    dueAt = performance.now() + ms;
    const why = REASONS[code] ?? (reached ? "the connection was lost" : "the server cannot be reached");
    // Later tries that fail are seen, but not read out one by one.
    if (reached) announcer.say(`Not connected: ${why}. It is tried again.`);
    showState("waiting", `Not connected: ${why}.`, { button: "Try now" });
    countdown = setInterval(countDown, 250);
    countDown();
  },

  disconnected({ code, message }) {
    const why = REASONS[code] ?? (message || `code ${code}`);
    if (everConnected) {
      announcer.say(`Disconnected: ${why}.`);
      return showState("lost", `Disconnected: ${why}.`, { button: "Connect" });
    }
    leave();
    // Who has not got in yet is told at the door.
    const token = localStorage.getItem("stentor.token");
    const wantsToken = [109, 3500, 3501, 3507].includes(code);
    element("token-details").open ||= wantsToken;
    element("enter-error").textContent = wantsToken && !token ? "This server lets in only those who have a token." :
      code === 107 ? "The server does not take this name." : `The server did not let you in: ${why}.`;
  },

  joined: (name) => open(name, false).hooks(),
};

function showState(state, text, { transport = "", button = "" } = {}) {
  clearInterval(countdown);
  element("state").dataset.state = state;
  element("state-text").textContent = text;
  element("transport").textContent = transport;
  element("countdown").textContent = "";
  element("connect-now").textContent = button;
  element("connect-now").hidden = !button;
  refreshSay();
}

function countDown() {
  const seconds = Math.max(0, Math.ceil((dueAt - performance.now()) / 1000));
  element("countdown").textContent = `Next try in ${seconds} s.`;
}

function connectNow() {
  client?.connect();
  element("text").focus();
}

/** Who comes back to the page, or to the network, does not want to wait. */
function hurry() {
  if (client?.wanted && !client.socket && navigator.onLine) client.connect();
}

// ---- rooms

const page = {
  changed(room) {
    list.refresh(room, room === current);
    if (room === current) refreshSay();
  },

  heard(room, entries) {
    const seen = room === current && !document.hidden;
    const others = entries.filter((entry) => !entry.author.own);
    if (!seen && others.length) {
      if (room.unread === 0) room.timeline.markNew(others[0]);
      room.unread += others.length;
      if (room !== current && room.unread === others.length) announcer.say(`New messages in ${shownName(room.name)}.`);
      list.refresh(room, room === current);
      refreshUnread();
    }
    if (room !== current) return;
    log.grown(others.length, entries.length > others.length);
    for (const { author, text } of others) announcer.message(author.name, text);
  },

  failed(room, why) {
    announcer.say(why);
    if (room === current) log.grown(0, false);
  },

  peopleChanged(room) {
    if (room === current) drawPeopleSoon();
  },

  /** The server knows better than we do who we are: a token may say so. */
  identified({ user, name }) {
    me.user = user;
    // Who is nobody in particular for the server is called what he says himself.
    if (user === "" || name === me.name) return;
    me.name = name;
    showMe();
  },

  keepingPlace: (room, change) => log.keepingPlace(room, change),
  focusLog: () => element("log").focus(),
  focusText: () => element("text").focus(),
};

/** Opens a room, without showing it. `ask`: it is for us to ask the server for it. */
function open(name, ask = true) {
  let room = rooms.get(name);
  if (room) return room;
  room = new Room(name, client, me, page);
  rooms.set(name, room);
  list.add(room);
  if (ask) room.enter();
  if (!current) show(room);
  remember();
  return room;
}

function show(room) {
  if (current && current !== room) {
    current.draft = element("text").value;
    current.timeline.markNew(null);
  }
  const before = current;
  current = room;
  log.show(room);
  element("room-name").replaceChildren(room ? make("bdi", shownName(room.name)) : "No room is open");
  element("room-name").classList.toggle("is-room", room !== null);
  element("text").value = room?.draft ?? "";
  element("text").placeholder = room ? `Say something in ${shownName(room.name)}` : "Join a room first";
  if (room) read(room);
  for (const one of [before, room]) if (one && rooms.has(one.name)) list.refresh(one, one === current);
  refreshSay();
  drawPeople();
  refreshUnread();
  if (client) remember();
}

/** Shows a room that somebody has chosen, and lets him write there. */
function choose(room) {
  drawers.forEach((drawer) => drawer.close(false));
  show(room);
  focusRoom();
}

/** Where one can write at once; but on a touch screen that would call up the keyboard, and hide half of what there is to read. */
function focusRoom() {
  element(!current ? "join-room" : touch.matches ? "room-name" : "text").focus();
}

function read(room) {
  if (document.hidden) return;
  room.unread = 0;
}

function join(event) {
  event.preventDefault();
  const box = element("join-room");
  const name = box.value.trim().replace(/^#(?=.)/, "");
  const problem = problemWith("room", name, ROOM_BYTES_MAX);
  element("join-error").textContent = problem;
  if (problem) return;
  box.value = "";
  choose(open(name));
}

function close(room) {
  const names = [...rooms.keys()];
  const at = names.indexOf(room.name);
  client.unsubscribe(room.name);
  rooms.delete(room.name);
  list.remove(room);
  if (room === current) {
    current = null;
    show(rooms.get(names[at + 1] ?? names[at - 1]) ?? null);
  }
  remember();
  refreshUnread();
  announcer.say(`You have left ${shownName(room.name)}.`);
  if (!list.focus(current)) element("join-room").focus();
}

function step(by) {
  const all = [...rooms.values()];
  if (all.length > 1) choose(all[(all.indexOf(current) + by + all.length) % all.length]);
}

function refreshUnread() {
  let all = 0;
  let elsewhere = 0;
  for (const room of rooms.values()) {
    all += room.unread;
    if (room !== current) elsewhere += room.unread;
  }
  const mark = all ? `(${all}) ` : "";
  document.title = current ? `${mark}#${shownName(current.name)} – Stentor` : `${mark}Stentor`;
  const badge = element("other-unread");
  badge.hidden = elsewhere === 0;
  badge.replaceChildren(elsewhere > 99 ? "99+" : String(elsewhere), make("span.visually-hidden", " unread"));
}

// ---- people

let peopleTimer = null;

/** A room into which many come at once is drawn now and then, not for each of them. */
function drawPeopleSoon() {
  peopleTimer ??= setTimeout(drawPeople, 200);
}

function drawPeople() {
  clearTimeout(peopleTimer);
  peopleTimer = null;
  const known = current?.people.known ?? false;
  element("people-count").textContent = known ? current.people.total.toLocaleString("en") : "–";
  element("people-heading").textContent = known ? `People (${current.people.total.toLocaleString("en")})` : "People";
  if (known) current.people.draw(element("people"), me.clients);
  else element("people").replaceChildren();
}

function countSoon() {
  setTimeout(() => {
    if (current && !document.hidden) current.countPeople();
    countSoon();
  }, COUNT_MS * (0.5 + Math.random()));
}

// ---- saying something

const fits = (text) => bytes(JSON.stringify({ channel: current?.name, data: { name: me.name, text } })) < COMMAND_BYTES_MAX;

function refreshSay() {
  const text = element("text").value;
  const tooLong = !fits(text);
  const ready = current?.active === true && client?.open === true;
  element("text").rows = Math.min(8, text.split("\n", 8).length);
  element("text").disabled = current === null;
  element("say").querySelector("button").disabled = !ready || text.trim() === "" || tooLong;
  hint(tooLong ? "This is too long to be sent." : current?.refusal ? "You are not in this room." : "");
}

function hint(text) {
  const line = element("say-hint");
  if (line.dataset.text === text) return;
  line.dataset.text = text;
  line.replaceChildren(text);
  if (text) announcer.say(text);
  if (current?.refusal) {
    const again = make("button.quiet", "Try again");
    again.type = "button";
    again.addEventListener("click", () => current.enter());
    line.append(" ", again);
  }
}

function say(event) {
  event.preventDefault();
  const box = element("text");
  if (element("say").querySelector("button").disabled) return;
  // A surrogate without its other half cannot travel.
  current.say(box.value.toWellFormed());
  current.draft = box.value = "";
  refreshSay();
  log.toEnd();
  box.focus();
}

// ---- putting it together

const log = new Log(element("log"), element("jump"), { count, readToEnd: () => element("text").focus() });
const list = new RoomList(element("rooms"), { choose, close });
const drawers = [
  new Drawer(element("open-rooms"), element("rooms-panel"), "(max-width: 45rem)"),
  new Drawer(element("open-people"), element("people-panel"), "(max-width: 64rem)"),
];

element("enter").addEventListener("submit", enter);
element("leave").addEventListener("click", leave);
element("join").addEventListener("submit", join);
element("say").addEventListener("submit", say);
element("connect-now").addEventListener("click", connectNow);
element("text").addEventListener("input", refreshSay);
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) say(event);
});
document.addEventListener("keydown", (event) => {
  if (!current || !event.altKey || event.ctrlKey || event.metaKey) return;
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  step(by);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !current) return;
  read(current);
  list.refresh(current, true);
  refreshUnread();
  hurry();
});
window.addEventListener("online", hurry);

function chooseTheme(theme) {
  element("theme").value = theme;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("stentor.theme", theme);
}
element("theme").addEventListener("change", (event) => chooseTheme(event.target.value));
chooseTheme(localStorage.getItem("stentor.theme") ?? "");

function start() {
  const asked = new URLSearchParams(location.search);
  if (asked.has("token")) {
    keepToken(asked.get("token"));
    // It is a secret, and must not stay where it is copied from.
    asked.delete("token");
    history.replaceState(null, "", `${location.pathname}${asked.size ? `?${asked}` : ""}`);
  }
  element("name").value = asked.get("name") ?? localStorage.getItem("stentor.name") ?? "";
  element("first-room").value = asked.get("room") ?? localStorage.getItem("stentor.room") ?? "";
  element("token").value = localStorage.getItem("stentor.token") ?? "";
  const inside = JSON.parse(sessionStorage.getItem("stentor.inside") ?? "null");
  if (inside && !asked.has("room")) begin(inside.name, inside.rooms, inside.current);
  else element("name").focus();
  countSoon();
}

start();
