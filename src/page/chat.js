// The chat page: the sign-in form, the list of open rooms, and the room that is shown.
"use strict";

import { Announcer } from "./announce.js";
import { Client } from "./centrifuge.js";
import { Drawer } from "./drawer.js";
import { avatar } from "./entries.js";
import { Identity } from "./identity.js";
import { Log } from "./log.js";
import { Room } from "./room.js";
import { RoomList } from "./rooms.js";
import { StateLine, reasonOf } from "./state.js";
import { bytes, count, make, shownName, validationError } from "./text.js";
import { Transports } from "./transports.js";
import { Typing } from "./typing.js";

const NAME_BYTES_MAX = 64;
const ROOM_BYTES_MAX = 255;
// The server accepts messages of 64 KiB; the command around the text needs some of that.
const COMMAND_BYTES_MAX = 64 * 1024 - 64;
const DEFAULT_ROOM = "lobby";
// The mean interval between two queries for the number of members.
const COUNT_INTERVAL_MS = 30_000;
const MEMBERS_DRAW_DELAY_MS = 200;
const NO_MEMBERS = "Long polling does not say who is here.";

const PLACEHOLDER_NAME_MAX = 30;
// The unread counts are drawn at most this often.
const UNREAD_DRAW_DELAY_MS = 100;

const element = (id) => document.getElementById(id);
const touch = matchMedia("(pointer: coarse)");

const announcer = new Announcer(element("announcer"));
const rooms = new Map();
let identity = null;
let client = null;
let typing = null;
let current = null;
let wasConnected = false;

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
  wasConnected = false;
  const token = localStorage.getItem("stentor.token") ?? "";
  identity = new Identity(name, token !== "");
  client = new Client(new Transports(location.origin), { data: { name }, token }, connectionHandlers);
  typing = new Typing(element("typing"), client, identity);
  refreshMe();
  showChat(true);
  for (const roomName of roomNames) openRoom(roomName);
  showRoom(rooms.get(shown) ?? rooms.values().next().value ?? null);
  client.connect();
  focusRoom();
}

function refreshMe() {
  const name = make("bdi", shownName(identity.name));
  name.title = shownName(identity.name);
  element("me").replaceChildren(avatar(identity.name), name);
}

function signOut() {
  typing.show(null);
  client.disconnect();
  client = null;
  for (const room of rooms.values()) list.remove(room);
  rooms.clear();
  current = null;
  log.show(null);
  sessionStorage.removeItem("stentor.session");
  Identity.forget();
  document.title = "Stentor";
  state.stop();
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
  const session = { name: identity.name, rooms: [...rooms.keys()], current: current?.name ?? "" };
  sessionStorage.setItem("stentor.session", JSON.stringify(session));
}

// ---- the connection

const connectionHandlers = {
  connecting: () => state.connecting(wasConnected, client.transports),

  connected({ client: id, isChange }) {
    if (wasConnected && !isChange) announcer.announce("Reconnected.");
    wasConnected = true;
    identity.connected(id);
    state.connected(client.transports, client.transport.isCompressed);
  },

  latency: (ms) => state.latency(ms),

  waiting(ms, end) {
    // The failures of later attempts are shown, but not announced.
    if (end.reached) announcer.announce(`Not connected: ${reasonOf(end)}. Reconnecting.`);
    state.waiting(ms, end);
  },

  disconnected({ code, message }) {
    const reason = reasonOf({ code, message });
    if (wasConnected) {
      announcer.announce(`Disconnected: ${reason}.`);
      return state.disconnected(reason);
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

let explainedReason = "";

/** A probe has found why the server cannot be reached: announced once for each reason. */
function explained(reason) {
  if (reason === explainedReason) return;
  explainedReason = reason;
  announcer.announce(`Not connected: ${reason}.`);
}

function connectNow() {
  client?.connect();
  element("text").focus();
}

/** The user has returned to the page, or the network is available again: ends the wait for the next attempt. */
function resume() {
  if (client?.isEnabled && !client.transport && navigator.onLine) client.connect();
}

// ---- rooms

const page = {
  changed(room) {
    list.refresh(room, room === current);
    if (room === current) refreshComposer();
  },

  entriesChanged: (room) => log.changed(room),

  received(room, entries) {
    const seen = room === current && !document.hidden;
    const others = entries.filter((entry) => !identity.owns(entry.info));
    if (!seen && others.length) {
      if (room.unread === 0) room.timeline.markNew(others[0]);
      room.unread += others.length;
      if (room !== current && room.unread === others.length) announcer.announce(`New messages in ${shownName(room.name)}.`);
      announceMention(room, others);
      refreshUnreadSoon();
    }
    if (room !== current) return;
    log.appended(others.length, entries.length > others.length);
    for (const { name, text, info } of others) {
      announcer.announceMessage(name, text);
      typing.received(info?.client);
    }
  },

  publishFailed(room, reason) {
    announcer.announce(reason);
    log.changed(room);
  },

  membersChanged(room) {
    if (room === current) drawMembersSoon();
  },

  /** The server has stated the user's id or name: which messages are the user's own may change. */
  identified() {
    refreshMe();
    for (const room of rooms.values()) {
      room.members.identified();
      page.membersChanged(room);
      log.changed(room);
    }
  },

  focusLog: () => element("log").focus(),
  focusText: () => element("text").focus(),
};

function announceMention(room, entries) {
  if (room.isMentioned) return;
  const entry = entries.find((candidate) => room.mentionsUser(candidate));
  if (!entry) return;
  room.isMentioned = true;
  if (room !== current) announcer.announce(`${shownName(entry.name)} mentions you in ${shownName(room.name)}.`);
}

/** Opens a room without showing it. `subscribe`: false for a server-side subscription. */
function openRoom(name, subscribe = true) {
  let room = rooms.get(name);
  if (room) return room;
  // A room for typing, opened as a room.
  if (name === typing.channel) typing.show(null);
  room = new Room(name, client, identity, page);
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
  typing.show(room);
  element("room-name").replaceChildren(room ? make("bdi", shownName(room.name)) : "No room is open");
  element("room-name").title = room ? shownName(room.name) : "";
  element("room-name").classList.toggle("is-room", room !== null);
  element("text").value = room?.draft ?? "";
  element("text").placeholder = room ? placeholder(room) : "Join a room first";
  if (room) markRead(room);
  for (const changed of [before, room]) {
    if (changed && rooms.has(changed.name)) list.refresh(changed, changed === current);
  }
  refreshComposer();
  drawMembers();
  refreshUnread();
  if (client) saveSession();
}

/** The field grows with its placeholder: of a long name, that is the beginning. */
function placeholder({ name }) {
  const shown = shownName(name);
  return `Message in ${shown.length > PLACEHOLDER_NAME_MAX ? `${shown.slice(0, PLACEHOLDER_NAME_MAX).toWellFormed()} …` : shown}`;
}

/** Shows the room that the user has selected, and moves the focus there. */
function selectRoom(room) {
  drawers.forEach((drawer) => drawer.close(false));
  showRoom(room);
  focusRoom();
}

/** Focuses the message box. On a touch screen that would open the keyboard over the messages: there it is the room's name. */
function focusRoom() {
  element(!current ? "join-room" : touch.matches || current.isReadOnly ? "room-name" : "text").focus();
}

function markRead(room) {
  if (document.hidden) return;
  room.unread = 0;
  room.isMentioned = false;
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

let unreadTimer = null;

/** The first of many messages is shown at once, the others together. */
function refreshUnreadSoon() {
  if (unreadTimer) return;
  refreshUnread();
  unreadTimer = setTimeout(() => {
    unreadTimer = null;
    refreshUnread();
  }, UNREAD_DRAW_DELAY_MS);
}

function refreshUnread() {
  let all = 0;
  let inOtherRooms = 0;
  for (const room of rooms.values()) {
    all += room.unread;
    list.refreshUnread(room);
    if (room !== current) inOtherRooms += room.unread;
  }
  const prefix = all ? `(${all}) ` : "";
  const title = current ? `${prefix}#${shownName(current.name)} – Stentor` : `${prefix}Stentor`;
  if (document.title !== title) document.title = title;
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
  if (known) current.members.draw(element("members"));
  else element("members").replaceChildren(client && !client.hasMembers ? make("li.others", NO_MEMBERS) : "");
}

function scheduleCount() {
  setTimeout(() => {
    if (current && !document.hidden) current.refreshMemberCount();
    scheduleCount();
  }, COUNT_INTERVAL_MS * (0.5 + Math.random()));
}

// ---- the message box

const fits = (text) => bytes(JSON.stringify({ channel: current?.name, data: { name: identity.name, text } })) < COMMAND_BYTES_MAX;

function refreshComposer() {
  const text = element("text").value;
  const tooLong = !fits(text);
  const isReady = current?.active === true && client?.isConnected === true;
  const isReadOnly = current?.isReadOnly === true;
  element("text").rows = Math.min(8, text.split("\n", 8).length);
  element("text").disabled = current === null;
  element("composer").classList.toggle("read-only", isReadOnly);
  element("composer").querySelector("button").disabled = !isReady || text.trim() === "" || tooLong;
  // Before the first connection, that it is being established is shown already.
  const isOffline = wasConnected && client?.isConnected === false && text.trim() !== "";
  showHint(tooLong ? "This message is too long." : current?.unsubscribeReason ? "You are not in this room." :
    isReadOnly ? "You may read this room, but not publish in it." :
    isOffline ? "Not connected: your text stays here, to be sent when the connection is back." : "");
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
  if (element("composer").querySelector("button").disabled) {
    // What is shown is announced again.
    if (element("composer-hint").dataset.text) announcer.announce(element("composer-hint").dataset.text);
    return;
  }
  // A lone surrogate has no encoding in UTF-8.
  current.publish(box.value.toWellFormed());
  current.draft = box.value = "";
  typing.stopped();
  refreshComposer();
  log.scrollToEnd();
  box.focus();
}

// ---- components and events

const state = new StateLine({ changed: refreshComposer, explained });
const log = new Log(element("log"), element("jump"), {
  count,
  jumped: () => element("text").focus(),
  loadEarlier: () => current.loadEarlier(),
  link: (room) => `${location.origin}/?room=${encodeURIComponent(room.name)}`,
});
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
element("text").addEventListener("input", (event) => {
  refreshComposer();
  typing.typed(event.target.value.trim() === "");
});
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
  resume();
});
window.addEventListener("online", () => {
  resume();
  // Another network may let through what the one before did not.
  client?.upgrade();
});

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
