// The chat page: the sign-in form, the list of open rooms, and the room that is shown.
"use strict";

import { Announcer } from "./announce.js";
import { Client } from "./centrifuge.js";
import { Drawer } from "./drawer.js";
import { Log } from "./log.js";
import { Room } from "./room.js";
import { RoomList } from "./rooms.js";
import { bytes, count, make, shownName, validationError } from "./text.js";
import { avatar } from "./timeline.js";

const NAME_BYTES_MAX = 64;
const ROOM_BYTES_MAX = 255;
// The server accepts messages of 64 KiB; the command around the text needs some of that.
const COMMAND_BYTES_MAX = 64 * 1024 - 64;
const DEFAULT_ROOM = "lobby";
// The mean interval between two queries for the number of members.
const COUNT_INTERVAL_MS = 30_000;
const MEMBERS_DRAW_DELAY_MS = 200;

const REASONS = {
  109: "the token has expired",
  1001: "the server is going away",
  1009: "a message was too big for this server",
  1012: "the server is restarting",
  3001: "the server is going away",
  3005: "the token has expired",
  3008: "this page received too slowly",
  3500: "the token is not valid",
  4004: "there are too many connections",
  3507: "this server requires a token",
};

const element = (id) => document.getElementById(id);
const touch = matchMedia("(pointer: coarse)");

const announcer = new Announcer(element("announcer"));
const me = { name: "", user: "", client: "", clients: new Set() };
const rooms = new Map();
let client = null;
let current = null;
let wasConnected = false;
let reconnectAt = 0;
let countdown = null;

// ---- the sign-in form

function signIn(event) {
  event.preventDefault();
  const name = element("name").value.trim();
  const room = element("first-room").value.trim() || DEFAULT_ROOM;
  const problem = validationError("name", name, NAME_BYTES_MAX) || validationError("room", room, ROOM_BYTES_MAX);
  element("sign-in-error").textContent = problem;
  if (problem) return element(problem.includes("room") ? "first-room" : "name").focus();
  localStorage.setItem("stentor.name", name);
  localStorage.setItem("stentor.room", room);
  saveToken(element("token").value.trim());
  startSession(name, [room], room);
}

function saveToken(token) {
  if (token) localStorage.setItem("stentor.token", token);
  else localStorage.removeItem("stentor.token");
}

function startSession(name, roomNames, shown) {
  Object.assign(me, { name, user: name, client: "", clients: new Set() });
  wasConnected = false;
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const token = localStorage.getItem("stentor.token") ?? "";
  client = new Client(`${scheme}//${location.host}/connection/websocket`, { data: { name }, token }, connectionHandlers);
  refreshMe();
  showChat(true);
  for (const roomName of roomNames) openRoom(roomName);
  showRoom(rooms.get(shown) ?? rooms.values().next().value ?? null);
  client.connect();
  focusRoom();
}

function refreshMe() {
  element("me").replaceChildren(avatar(me.name), make("bdi", shownName(me.name)));
}

function signOut() {
  client.disconnect();
  client = null;
  for (const room of rooms.values()) list.remove(room);
  rooms.clear();
  current = null;
  log.show(null);
  sessionStorage.removeItem("stentor.session");
  document.title = "Stentor";
  clearInterval(countdown);
  drawers.forEach((drawer) => drawer.close(false));
  showChat(false);
  element("name").focus();
}

function showChat(visible) {
  element("sign-in").hidden = visible;
  element("chat").hidden = !visible;
}

/** Saves the name and the open rooms for a reload of the page. */
function saveSession() {
  const session = { name: me.name, rooms: [...rooms.keys()], current: current?.name ?? "" };
  sessionStorage.setItem("stentor.session", JSON.stringify(session));
}

// ---- the connection

const connectionHandlers = {
  connecting: () => showState(wasConnected ? "reconnecting" : "connecting", "Connecting …"),

  connected({ client: id, transport }) {
    if (wasConnected) announcer.announce("Reconnected.");
    wasConnected = true;
    me.client = id;
    me.clients.add(id);
    showState("connected", "Connected", { transport });
  },

  waiting(ms, { code, reached }) {
    reconnectAt = performance.now() + ms;
    const reason = REASONS[code] ?? (reached ? "the connection was lost" : "the server cannot be reached");
    // The failures of later attempts are shown, but not announced.
    if (reached) announcer.announce(`Not connected: ${reason}. Reconnecting.`);
    showState("waiting", `Not connected: ${reason}.`, { button: "Try now" });
    countdown = setInterval(refreshCountdown, 250);
    refreshCountdown();
  },

  disconnected({ code, message }) {
    const reason = REASONS[code] ?? (message || `code ${code}`);
    if (wasConnected) {
      announcer.announce(`Disconnected: ${reason}.`);
      return showState("disconnected", `Disconnected: ${reason}.`, { button: "Connect" });
    }
    signOut();
    // The error of a first connection is shown in the sign-in form.
    const token = localStorage.getItem("stentor.token");
    const needsToken = [109, 3500, 3501, 3507].includes(code);
    element("token-details").open ||= needsToken;
    element("sign-in-error").textContent = needsToken && !token ? "This server requires a token." :
      code === 107 ? "The server rejected this name." : `The server rejected the connection: ${reason}.`;
  },

  serverSubscribed: (name) => openRoom(name, false).handlers(),
};

function showState(state, text, { transport = "", button = "" } = {}) {
  clearInterval(countdown);
  element("state").dataset.state = state;
  element("state-text").textContent = text;
  element("transport").textContent = transport;
  element("countdown").textContent = "";
  element("connect-now").textContent = button;
  element("connect-now").hidden = !button;
  refreshComposer();
}

function refreshCountdown() {
  const seconds = Math.max(0, Math.ceil((reconnectAt - performance.now()) / 1000));
  element("countdown").textContent = `Next attempt in ${seconds} s.`;
}

function connectNow() {
  client?.connect();
  element("text").focus();
}

/** Ends the wait for the next attempt when the user returns to the page or the network is available again. */
function reconnectIfWaiting() {
  if (client?.isEnabled && !client.socket && navigator.onLine) client.connect();
}

// ---- rooms

const page = {
  changed(room) {
    list.refresh(room, room === current);
    if (room === current) refreshComposer();
  },

  received(room, entries) {
    const seen = room === current && !document.hidden;
    const others = entries.filter((entry) => !entry.author.own);
    if (!seen && others.length) {
      if (room.unread === 0) room.timeline.markNew(others[0]);
      room.unread += others.length;
      if (room !== current && room.unread === others.length) announcer.announce(`New messages in ${shownName(room.name)}.`);
      list.refresh(room, room === current);
      refreshUnread();
    }
    if (room !== current) return;
    log.appended(others.length, entries.length > others.length);
    for (const { author, text } of others) announcer.announceMessage(author.name, text);
  },

  publishFailed(room, reason) {
    announcer.announce(reason);
    if (room === current) log.appended(0, false);
  },

  membersChanged(room) {
    if (room === current) drawMembersSoon();
  },

  /** The presence of the user's own client: the name may come from the token. */
  identified({ user, name }) {
    me.user = user;
    // An anonymous client keeps the name that the user has entered.
    if (user === "" || name === me.name) return;
    me.name = name;
    refreshMe();
  },

  keepScrollPosition: (room, change) => log.keepScrollPosition(room, change),
  focusLog: () => element("log").focus(),
  focusText: () => element("text").focus(),
};

/** Opens a room without showing it. `subscribe`: false for a server-side subscription. */
function openRoom(name, subscribe = true) {
  let room = rooms.get(name);
  if (room) return room;
  room = new Room(name, client, me, page);
  rooms.set(name, room);
  list.add(room);
  if (subscribe) room.subscribe();
  if (!current) showRoom(room);
  saveSession();
  return room;
}

function showRoom(room) {
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
  element("text").placeholder = room ? `Message in ${shownName(room.name)}` : "Join a room first";
  if (room) markRead(room);
  for (const changed of [before, room]) {
    if (changed && rooms.has(changed.name)) list.refresh(changed, changed === current);
  }
  refreshComposer();
  drawMembers();
  refreshUnread();
  if (client) saveSession();
}

/** Shows the room that the user has selected, and moves the focus there. */
function selectRoom(room) {
  drawers.forEach((drawer) => drawer.close(false));
  showRoom(room);
  focusRoom();
}

/** Focuses the message box. On a touch screen that would open the keyboard over the messages: there it is the room's name. */
function focusRoom() {
  element(!current ? "join-room" : touch.matches ? "room-name" : "text").focus();
}

function markRead(room) {
  if (document.hidden) return;
  room.unread = 0;
}

function joinRoom(event) {
  event.preventDefault();
  const box = element("join-room");
  const name = box.value.trim().replace(/^#(?=.)/, "");
  const problem = validationError("room", name, ROOM_BYTES_MAX);
  element("join-error").textContent = problem;
  if (problem) return;
  box.value = "";
  selectRoom(openRoom(name));
}

function closeRoom(room) {
  const names = [...rooms.keys()];
  const index = names.indexOf(room.name);
  client.unsubscribe(room.name);
  rooms.delete(room.name);
  list.remove(room);
  if (room === current) {
    current = null;
    showRoom(rooms.get(names[index + 1] ?? names[index - 1]) ?? null);
  }
  saveSession();
  refreshUnread();
  announcer.announce(`You have left ${shownName(room.name)}.`);
  if (!list.focus(current)) element("join-room").focus();
}

function selectNextRoom(step) {
  const all = [...rooms.values()];
  if (all.length > 1) selectRoom(all[(all.indexOf(current) + step + all.length) % all.length]);
}

function refreshUnread() {
  let all = 0;
  let inOtherRooms = 0;
  for (const room of rooms.values()) {
    all += room.unread;
    if (room !== current) inOtherRooms += room.unread;
  }
  const prefix = all ? `(${all}) ` : "";
  document.title = current ? `${prefix}#${shownName(current.name)} – Stentor` : `${prefix}Stentor`;
  const badge = element("other-unread");
  badge.hidden = inOtherRooms === 0;
  badge.replaceChildren(inOtherRooms > 99 ? "99+" : String(inOtherRooms), make("span.visually-hidden", " unread"));
}

// ---- members

let membersTimer = null;

/** Many joins and leaves within a short time are drawn once. */
function drawMembersSoon() {
  membersTimer ??= setTimeout(drawMembers, MEMBERS_DRAW_DELAY_MS);
}

function drawMembers() {
  clearTimeout(membersTimer);
  membersTimer = null;
  const known = current?.members.known ?? false;
  const total = known ? current.members.total.toLocaleString("en") : "";
  element("members-count").textContent = known ? total : "–";
  element("members-heading").textContent = known ? `Members (${total})` : "Members";
  if (known) current.members.draw(element("members"), me.clients);
  else element("members").replaceChildren();
}

function scheduleCount() {
  setTimeout(() => {
    if (current && !document.hidden) current.refreshMemberCount();
    scheduleCount();
  }, COUNT_INTERVAL_MS * (0.5 + Math.random()));
}

// ---- the message box

const fits = (text) => bytes(JSON.stringify({ channel: current?.name, data: { name: me.name, text } })) < COMMAND_BYTES_MAX;

function refreshComposer() {
  const text = element("text").value;
  const tooLong = !fits(text);
  const ready = current?.active === true && client?.isConnected === true;
  element("text").rows = Math.min(8, text.split("\n", 8).length);
  element("text").disabled = current === null;
  element("composer").querySelector("button").disabled = !ready || text.trim() === "" || tooLong;
  showHint(tooLong ? "This message is too long." : current?.unsubscribeReason ? "You are not in this room." : "");
}

function showHint(text) {
  const line = element("composer-hint");
  if (line.dataset.text === text) return;
  line.dataset.text = text;
  line.replaceChildren(text);
  if (text) announcer.announce(text);
  if (current?.unsubscribeReason) {
    const retry = make("button.quiet", "Try again");
    retry.type = "button";
    retry.addEventListener("click", () => current.subscribe());
    line.append(" ", retry);
  }
}

function publish(event) {
  event.preventDefault();
  const box = element("text");
  if (element("composer").querySelector("button").disabled) return;
  // A lone surrogate has no encoding in UTF-8.
  current.publish(box.value.toWellFormed());
  current.draft = box.value = "";
  refreshComposer();
  log.scrollToEnd();
  box.focus();
}

// ---- components and events

const log = new Log(element("log"), element("jump"), { count, jumped: () => element("text").focus() });
const list = new RoomList(element("rooms"), { select: selectRoom, close: closeRoom });
const drawers = [
  new Drawer(element("open-rooms"), element("rooms-panel"), "(max-width: 45rem)"),
  new Drawer(element("open-members"), element("members-panel"), "(max-width: 64rem)"),
];

element("sign-in-form").addEventListener("submit", signIn);
element("sign-out").addEventListener("click", signOut);
element("join").addEventListener("submit", joinRoom);
element("composer").addEventListener("submit", publish);
element("connect-now").addEventListener("click", connectNow);
element("text").addEventListener("input", refreshComposer);
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) publish(event);
});
document.addEventListener("keydown", (event) => {
  if (!current || !event.altKey || event.ctrlKey || event.metaKey) return;
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  selectNextRoom(step);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !current) return;
  markRead(current);
  list.refresh(current, true);
  refreshUnread();
  reconnectIfWaiting();
});
window.addEventListener("online", reconnectIfWaiting);

function setTheme(theme) {
  element("theme").value = theme;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("stentor.theme", theme);
}
element("theme").addEventListener("change", (event) => setTheme(event.target.value));
setTheme(localStorage.getItem("stentor.theme") ?? "");

function start() {
  const query = new URLSearchParams(location.search);
  if (query.has("token")) {
    saveToken(query.get("token"));
    // The token is a secret: it is removed from the address bar.
    query.delete("token");
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
  }
  element("name").value = query.get("name") ?? localStorage.getItem("stentor.name") ?? "";
  element("first-room").value = query.get("room") ?? localStorage.getItem("stentor.room") ?? "";
  element("token").value = localStorage.getItem("stentor.token") ?? "";
  const session = JSON.parse(sessionStorage.getItem("stentor.session") ?? "null");
  if (session && !query.has("room")) startSession(session.name, session.rooms, session.current);
  else element("name").focus();
  scheduleCount();
}

start();
