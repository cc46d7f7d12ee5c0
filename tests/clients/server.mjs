// A running server for tests, on a port of its own.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";

export const freePort = () =>
  new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });

// Tests flood.
const UNLIMITED = ["--max-session-messages-per-second", "0", "--max-session-commands-per-second", "0"];

export class Server {
  constructor(stentor, port, options) {
    Object.assign(this, { stentor, port, options });
  }

  static async start(stentor, ...options) {
    const server = new Server(stentor, await freePort(), options);
    await server.begin();
    return server;
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/connection/websocket`;
  }

  async begin() {
    const fixed = ["serve", "--listen", `127.0.0.1:${this.port}`, "--log", "warn", "--shutdown-delay", "0s", ...UNLIMITED];
    this.process = spawn(this.stentor, [...fixed, ...this.options], { stdio: "inherit" });
    for (;;) {
      if (this.process.exitCode !== null) throw new Error("the server ended");
      if (await fetch(`http://127.0.0.1:${this.port}/readyz`).then((it) => it.ok, () => false)) return;
    }
  }

  async end(signal = "SIGTERM") {
    const exit = once(this.process, "exit");
    this.process.kill(signal);
    await exit;
  }
}
