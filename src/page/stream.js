// A stream of frames, a WebSocket or an event stream, that arrive in batches, from a worker; without workers, one by one.
"use strict";

import { ABNORMAL, openSource } from "./stream_source.js";

let worker = null;
let workerHasFailed = false;
let lastId = 0;
const streams = new Map(); // id → handlers

function startWorker() {
  if (worker || workerHasFailed || typeof Worker === "undefined") return;
  worker = new Worker("/stream_worker.js", { type: "module" });
  worker.addEventListener("error", () => {
    workerHasFailed = true;
    worker.terminate();
    worker = null;
    const ended = [...streams.values()];
    streams.clear();
    for (const { closed } of ended) closed(ABNORMAL, "");
  });
  worker.addEventListener("message", ({ data: { id, opened, received, closed } }) => {
    const handlers = streams.get(id);
    if (received !== undefined) {
      worker.postMessage({ id, taken: true });
      handlers?.received(received);
    } else if (opened) {
      handlers?.opened(opened.extensions);
    } else if (closed) {
      streams.delete(id);
      handlers?.closed(closed.code, closed.reason);
    }
  });
}

/** Opens a stream: see `openSource`, whose result and handlers these are. */
export function openStream(url, handlers) {
  startWorker();
  if (!worker) return openSource(url, handlers);
  const id = ++lastId;
  streams.set(id, handlers);
  worker.postMessage({ id, open: url });
  return {
    send: (frame) => worker?.postMessage({ id, send: frame }),
    close(code, reason) {
      streams.delete(id);
      worker?.postMessage({ id, close: { code, reason } });
    },
  };
}
