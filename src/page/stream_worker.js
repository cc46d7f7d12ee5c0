// The page's streams, in a worker: however many messages arrive, the page gets them in a few batches, so that it can draw.
"use strict";

import { openSource } from "./stream_source.js";

// A batch is posted when the page has taken the one before, and not more often than this.
const BATCH_INTERVAL_MS = 12;
// UTF-16 code units that wait for a page which takes none: beyond that, the connection is closed, and the client recovers later.
const QUEUE_LENGTH_MAX = 8 * 1024 * 1024;
const PAGE_TOO_SLOW = 4003;

/** One stream. Frames wait in `lines`, of which the protocol permits several in a frame. */
class QueuedStream {
  constructor(id, url) {
    this.id = id;
    this.lines = [];
    this.length = 0;
    this.isTaken = true; // the page has taken the last batch
    this.postedAt = -Infinity;
    this.timer = null;
    this.source = openSource(url, {
      opened: (extensions) => postMessage({ id, opened: { extensions } }),
      received: (frame) => this.received(frame),
      closed: (code, reason) => this.closed(code, reason),
    });
  }

  received(frame) {
    this.lines.push(frame);
    this.length += frame.length;
    if (this.length > QUEUE_LENGTH_MAX) {
      this.source.close(PAGE_TOO_SLOW, "the page is too slow");
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

  /** The stream has ended. What has arrived before is passed on. */
  closed(code, reason) {
    clearTimeout(this.timer);
    if (this.lines.length) this.post();
    streams.delete(this.id);
    postMessage({ id: this.id, closed: { code, reason } });
  }

  /** The page ends the stream, and takes nothing of it any more. */
  close({ code, reason }) {
    clearTimeout(this.timer);
    this.source.close(code, reason);
    streams.delete(this.id);
  }
}

const streams = new Map();

onmessage = ({ data: { id, open, send, taken, close } }) => {
  if (open) return streams.set(id, new QueuedStream(id, open));
  const stream = streams.get(id);
  if (!stream) return;
  if (taken) stream.taken();
  else if (send) stream.source.send(send);
  else if (close) stream.close(close);
};
