// A WebSocket whose frames arrive in batches, from a worker; without workers, one by one.
"use strict";

// The close code of a connection without a closing handshake (RFC 6455 §7.4.1).
const ABNORMAL = 1006;

let worker = null;
let workerHasFailed = false;
let lastId = 0;
const sockets = new Map(); // id → WorkerSocket

function startWorker() {
  if (worker || workerHasFailed || typeof Worker === "undefined") return;
  worker = new Worker("/socket_worker.js");
  worker.addEventListener("error", () => {
    workerHasFailed = true;
    worker.terminate();
    worker = null;
    const ended = [...sockets.values()];
    sockets.clear();
    for (const { handlers } of ended) handlers.closed(ABNORMAL, "");
  });
  worker.addEventListener("message", ({ data: { id, opened, received, closed } }) => {
    const socket = sockets.get(id);
    if (received !== undefined) {
      worker.postMessage({ id, taken: true });
      socket?.handlers.received(received);
    } else if (opened) {
      socket?.opened(opened.extensions);
    } else if (closed) {
      sockets.delete(id);
      socket?.handlers.closed(closed.code, closed.reason);
    }
  });
}

/**
 * Opens a WebSocket. `handlers`: `opened()`, `received(frame)` with one or more lines of the protocol, `closed(code, reason)`.
 * The result has `isOpen`, `extensions`, `send(frame)` and `close(code, reason)`.
 */
export function openSocket(url, handlers) {
  startWorker();
  return worker ? new WorkerSocket(url, handlers) : new DirectSocket(url, handlers);
}

class WorkerSocket {
  constructor(url, handlers) {
    this.id = ++lastId;
    this.handlers = handlers;
    this.isOpen = false;
    this.extensions = "";
    sockets.set(this.id, this);
    worker.postMessage({ id: this.id, open: url });
  }

  opened(extensions) {
    this.isOpen = true;
    this.extensions = extensions;
    this.handlers.opened();
  }

  send(frame) {
    worker?.postMessage({ id: this.id, send: frame });
  }

  /** What arrives after this is ignored. */
  close(code, reason) {
    this.isOpen = false;
    sockets.delete(this.id);
    worker?.postMessage({ id: this.id, close: { code, reason } });
  }
}

class DirectSocket {
  constructor(url, handlers) {
    this.socket = new WebSocket(url);
    this.socket.addEventListener("open", () => handlers.opened());
    this.socket.addEventListener("message", ({ data }) => handlers.received(data));
    this.socket.addEventListener("close", ({ code, reason }) => handlers.closed(code, reason));
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  get extensions() {
    return this.socket.extensions;
  }

  send(frame) {
    this.socket.send(frame);
  }

  close(code, reason) {
    this.socket.close(code, reason);
  }
}
