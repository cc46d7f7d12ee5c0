// A WebSocket or an EventSource of the browser, in one form: what comes is frames of one or more lines. It runs in the worker,
// and in the page where there are no workers.
"use strict";

// The close code of a connection without a closing handshake (RFC 6455 §7.4.1).
export const ABNORMAL = 1006;

/**
 * Opens `url`: a WebSocket if its scheme is ws or wss, else an event stream. `handlers`: `opened(extensions)`, `received(frame)`,
 * `closed(code, reason)`. The result has `send(frame)`, of a WebSocket only, and `close(code, reason)`, after which no handler is called.
 */
export const openSource = (url, handlers) => (/^wss?:/.test(url) ? openWebSocket(url, handlers) : openEvents(url, handlers));

function openWebSocket(url, { opened, received, closed }) {
  const socket = new WebSocket(url);
  socket.onopen = () => opened(socket.extensions);
  socket.onmessage = ({ data }) => received(data);
  socket.onclose = ({ code, reason }) => closed(code, reason);
  return {
    send: (frame) => socket.send(frame),
    close(code, reason) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(code, reason);
    },
  };
}

function openEvents(url, { opened, received, closed }) {
  const events = new EventSource(url);
  events.onopen = () => opened("");
  events.onmessage = ({ data }) => received(data);
  events.onerror = () => {
    // It would reconnect by itself, with the positions of its address: the client does that, with those of then.
    events.close();
    closed(ABNORMAL, "");
  };
  return { close: () => events.close() };
}
