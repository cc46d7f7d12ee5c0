// Why a WebSocket could not be opened. A browser does not give its status to the page, so the page requests the same server
// over HTTP.
"use strict";

const TIMEOUT_MS = 5000;
const UPGRADE_REQUIRED = 426;

const OFFLINE = { reason: "this device is offline" };
const UNREACHABLE = { reason: "the server cannot be reached" };
const SILENT = { reason: "the server does not answer" };
const REFUSED = {
  reason: "the server answers, but the WebSocket is refused",
  advice: "For its operator: the server's log has the cause. A proxy in front of it must pass on the headers Upgrade, Connection and Host.",
};

/**
 * What the server answers: {reason, advice}, both to be shown; the advice is for the server's operator, and may be absent.
 * `websocketPath`: the path at which the WebSocket was refused.
 */
export async function probe(websocketPath) {
  if (!navigator.onLine) return OFFLINE;
  try {
    const ready = await statusOf("/readyz");
    // A proxy may refuse /readyz to others than its own network: then the second answer decides.
    return explained(ready) ?? explainedAtEndpoint(await statusOf(websocketPath));
  } catch (error) {
    return error.name === "TimeoutError" ? SILENT : UNREACHABLE;
  }
}

async function statusOf(path) {
  const options = { cache: "no-store", redirect: "manual", credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT_MS) };
  return (await fetch(path, options)).status;
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
  return explained(status) ?? {
    reason: `the WebSocket is refused (status ${status})`,
    advice: status === 404 ? "For its operator: a proxy in front of the server must pass on the path /connection/websocket." : "",
  };
}
