// The page's WebSockets, in a worker: however many messages arrive, the page gets them in a few batches, so that it can draw.
"use strict";

// A batch is posted when the page has taken the one before, and not more often than this.
const BATCH_INTERVAL_MS = 12;
// UTF-16 code units that wait for a page which takes none: beyond that, the connection is closed, and the client recovers later.
const QUEUE_LENGTH_MAX = 8 * 1024 * 1024;
const PAGE_TOO_SLOW = 4003;

/** One socket. Frames wait in `lines`, of which the protocol permits several in a frame. */
class QueuedSocket {
  constructor(id, url) {
    this.id = id;
    this.lines = [];
    this.length = 0;
    this.isTaken = true; // the page has taken the last batch
    this.postedAt = -Infinity;
    this.timer = null;
    this.socket = new WebSocket(url);
    this.socket.onopen = () => postMessage({ id, opened: { extensions: this.socket.extensions } });
    this.socket.onmessage = ({ data }) => this.received(data);
    this.socket.onclose = ({ code, reason }) => this.closed(code, reason);
  }

  received(data) {
    this.lines.push(data);
    this.length += data.length;
    if (this.length > QUEUE_LENGTH_MAX) {
      this.socket.close(PAGE_TOO_SLOW, "the page is too slow");
      return this.closed(PAGE_TOO_SLOW, "the page is too slow");
    }
    this.postSoon();
  }

  postSoon() {
    if (!this.isTaken || this.timer !== null || this.lines.length === 0) return;
    const wait = this.postedAt + BATCH_INTERVAL_MS - performance.now();
    if (wait <= 0) return this.post();
    this.timer = setTimeout(() => {
      this.timer = null;
      this.post();
    }, wait);
  }

  post() {
    postMessage({ id: this.id, received: this.lines.join("\n") });
    this.lines = [];
    this.length = 0;
    this.isTaken = false;
    this.postedAt = performance.now();
  }

  taken() {
    this.isTaken = true;
    this.postSoon();
  }

  closed(code, reason) {
    clearTimeout(this.timer);
    this.socket.onmessage = this.socket.onclose = null;
    if (this.lines.length) this.post();
    sockets.delete(this.id);
    postMessage({ id: this.id, closed: { code, reason } });
  }
}

const sockets = new Map();

onmessage = ({ data: { id, open, send, taken, close } }) => {
  if (open) return sockets.set(id, new QueuedSocket(id, open));
  const queued = sockets.get(id);
  if (!queued) return;
  if (taken) queued.taken();
  else if (send) queued.socket.send(send);
  else if (close) queued.socket.close(close.code, close.reason);
};
