// The chat page: the plain text protocol over one WebSocket, which comes back by itself.
//
// What others say is put into the page as text nodes and never as HTML.
"use strict";

const NAME_BYTES_MAX = 64;
const ROOM_BYTES_MAX = 255;
const TEXT_BYTES_MAX = 60 * 1024;
const MESSAGES_MAX = 500;
const DEFAULT_ROOM = "lobby";

// The wait before try n is random in 0 … min(cap, base × 2ⁿ): full jitter, so that a restart is not followed by everybody
// at the same moment.
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 20_000;
// A connection that lasted this long begins again with the shortest wait.
const STEADY_MS = 10_000;

const element = (id) => document.getElementById(id);
const bytes = (text) => new TextEncoder().encode(text).length;

let identity = null; // {name, room} while we want to be in a room
let socket = null;
let tries = 0;
let timer = null;
let heardAnything = false;

const CLOSE_REASONS = {
  1001: "the server is going away",
  1003: "the server takes text only",
  1007: "the text was damaged on its way",
  1008: "the server's rules were broken",
  1009: "the message was too big",
  1011: "the server had an error",
  1013: "this page read too slowly",
};

function problemWith(what, text, bytesMax) {
  if (text === "") return `The ${what} is empty.`;
  if (bytes(text) > bytesMax) return `The ${what} is too long: at most ${bytesMax} bytes.`;
  if (/\p{Cc}/u.test(text)) return `The ${what} must not contain control characters.`;
  return "";
}

function show(state, text, button) {
  const line = element("state");
  line.dataset.state = state;
  line.textContent = text;
  if (button) {
    const now = document.createElement("button");
    now.type = "button";
    now.textContent = button.label;
    now.addEventListener("click", button.act);
    line.append(now);
  }
}

function connect() {
  clearInterval(timer);
  show("connecting", "connecting …");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const path = `/ws/${encodeURIComponent(identity.name)}?room=${encodeURIComponent(identity.room)}`;
  const mine = new WebSocket(`${scheme}//${location.host}${path}`, "chat");
  let openedAt = 0;
  socket = mine;
  mine.addEventListener("open", () => {
    openedAt = performance.now();
    show("open", "connected");
    note(heardAnything ? "Connected again. What was said meanwhile is not shown." : "You are in.");
    heardAnything = true;
    refreshSay();
  });
  mine.addEventListener("message", (event) => hear(event.data));
  mine.addEventListener("close", (event) => {
    if (socket !== mine) return;
    socket = null;
    refreshSay();
    if (openedAt) {
      const why = CLOSE_REASONS[event.code] ?? "the connection was lost";
      note(`Disconnected: ${why}.`);
    }
    if (openedAt && performance.now() - openedAt > STEADY_MS) tries = 0;
    if (identity) waitAndConnect();
  });
}

function waitAndConnect() {
  const wait = Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** tries);
  tries += 1;
  const due = performance.now() + wait;
  const tick = () => {
    const left = due - performance.now();
    if (left <= 0) return connect();
    show("waiting", `reconnecting in ${Math.ceil(left / 1000)} s`, { label: "Now", act: connect });
  };
  clearInterval(timer);
  timer = setInterval(tick, 250);
  tick();
}

function hear(line) {
  // "name: text"; a line with an empty name is the server's own.
  const at = line.indexOf(": ");
  const who = at < 0 ? "" : line.slice(0, at);
  const text = at < 0 ? line : line.slice(at + 2);
  if (who === "") return note(text);
  const item = document.createElement("li");
  // A name may itself hold ": ", so our own lines are known by the whole of our name.
  const own = line.startsWith(`${identity?.name}: `);
  const name = document.createElement("span");
  name.className = "who";
  name.textContent = own ? identity.name : who;
  item.classList.toggle("own", own);
  item.append(clock(), name, document.createTextNode(own ? line.slice(identity.name.length + 2) : text));
  append(item);
}

function note(text) {
  const item = document.createElement("li");
  item.className = "note";
  item.append(clock(), document.createTextNode(text));
  append(item);
}

function clock() {
  const time = document.createElement("time");
  const now = new Date();
  time.dateTime = now.toISOString();
  time.textContent = now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return time;
}

function append(item) {
  const list = element("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.append(item);
  while (list.childElementCount > MESSAGES_MAX) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function refreshSay() {
  const open = socket?.readyState === WebSocket.OPEN;
  const text = element("text").value;
  const tooLong = bytes(text) > TEXT_BYTES_MAX;
  element("say").querySelector("button").disabled = !open || text === "" || tooLong;
  element("say-hint").textContent = tooLong ? "This is too long to be sent." : "";
}

function say(event) {
  event.preventDefault();
  const box = element("text");
  if (element("say").querySelector("button").disabled) return;
  socket.send(box.value);
  box.value = "";
  refreshSay();
  box.focus();
}

function enter(event) {
  event?.preventDefault();
  const name = element("name").value.trim();
  const room = element("room").value.trim() || DEFAULT_ROOM;
  const problem = problemWith("name", name, NAME_BYTES_MAX) || problemWith("room", room, ROOM_BYTES_MAX);
  element("enter-error").textContent = problem;
  if (problem) return;
  localStorage.setItem("stentor.name", name);
  localStorage.setItem("stentor.room", room);
  identity = { name, room };
  tries = 0;
  heardAnything = false;
  element("messages").replaceChildren();
  element("room-name").textContent = room;
  element("own-name").textContent = name;
  document.title = `#${room} – Stentor`;
  showChat(true);
  connect();
  element("text").focus();
}

function leave() {
  identity = null;
  clearInterval(timer);
  const mine = socket;
  socket = null;
  mine?.close(1000);
  document.title = "Stentor";
  show("idle", "not connected");
  showChat(false);
  element("name").focus();
}

function showChat(inside) {
  element("enter").hidden = inside;
  for (const id of ["chat", "place", "leave"]) element(id).hidden = !inside;
}

element("enter").addEventListener("submit", enter);
element("leave").addEventListener("click", leave);
element("say").addEventListener("submit", say);
element("text").addEventListener("input", refreshSay);
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) say(event);
});
window.addEventListener("online", () => {
  if (identity && !socket) connect();
});

const asked = new URLSearchParams(location.search);
element("name").value = asked.get("name") ?? localStorage.getItem("stentor.name") ?? "";
element("room").value = asked.get("room") ?? localStorage.getItem("stentor.room") ?? "";
refreshSay();
element("name").focus();
