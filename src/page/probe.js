// Why a connection could not be opened. A browser does not give the status of a WebSocket or an event stream to the page, so
// the page requests the same server in another way.
"use strict";

const TIMEOUT_MS = 5000;
const UPGRADE_REQUIRED = 426;
const FORBIDDEN = 403;

const OFFLINE = { reason: "this device is offline" };
const UNREACHABLE = { reason: "the server cannot be reached" };
const SILENT = { reason: "the server does not answer" };
const REFUSED = {
  reason: "the server answers, but the WebSocket is refused",
  advice: "For its operator: the server's log has the cause. A proxy in front of it must pass on the headers Upgrade, Connection and Host.",
};

/**
 * What the server answers: {reason, advice, isServing}. The first two are to be shown; the advice is for the server's operator, and may be
 * absent. `isServing`: the server would serve the page over another transport. `websocketPath`: the path at which a WebSocket is refused.
 */
export async function probe(websocketPath) {
  if (!navigator.onLine) return OFFLINE;
  try {
    const ready = await statusOf("/readyz");
    // A proxy may refuse /readyz to others than its own network: then the second answer decides.
    const endpoint = await statusOf(websocketPath);
    const busy = explained(ready) ?? explained(endpoint);
    return busy ?? { ...explainedAtEndpoint(endpoint), isServing: await takesRequests() };
  } catch (error) {
    return error.name === "TimeoutError" ? SILENT : UNREACHABLE;
  }
}

async function statusOf(path, more) {
  const options = { cache: "no-store", redirect: "manual", credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT_MS) };
  return (await fetch(path, { ...options, ...more })).status;
}

/** Whether the server takes this page's origin for one that may send requests: asked with a message that it cannot read. */
async function takesRequests() {
  const status = await statusOf("/send/-", { method: "POST", headers: { "Content-Type": "text/plain; charset=none" } });
  return status !== FORBIDDEN && !explained(status);
}

function explained(status) {
  if (status === 429) return { reason: "there are too many connections from this address (status 429)" };
  if (status === 503) return { reason: "the server takes no new connections at the moment (status 503)" };
  if (status === 502 || status === 504) {
    return { reason: `the proxy in front of the server cannot reach it (status ${status})` };
  }
  return null;
}

function explainedAtEndpoint(status) {
  // The answer of the server to a request that is not a WebSocket handshake.
  if (status === UPGRADE_REQUIRED) return REFUSED;
  return {
    reason: `the WebSocket is refused (status ${status})`,
    advice: status === 404 ? "For its operator: a proxy in front of the server must pass on the path /connection/websocket." : "",
  };
}
