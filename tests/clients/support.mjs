// What the tests of npm's clients share: waiting, subscriptions that record, and a network that can be cut.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer } from "node:net";

/** Ends the program with 1 after that many seconds. */
export const limit = (seconds) =>
  setTimeout(() => {
    console.error(`no end after ${seconds} s`);
    process.exit(1);
  }, seconds * 1000).unref();

export const event = (emitter, name) => new Promise((resolve) => emitter.once(name, resolve));

export const until = async (what, condition) => {
  const end = Date.now() + 20_000;
  while (!(await condition())) {
    assert(Date.now() < end, `never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

/** The numbers from 1 to `count`. */
export const upTo = (count) => Array.from({ length: count }, (_, index) => index + 1);

/** A subscription of npm's centrifuge that records its publications. */
export const subscribe = async (centrifuge, channel, options = {}) => {
  const subscription = centrifuge.newSubscription(channel, { minResubscribeDelay: 1, maxResubscribeDelay: 30, ...options });
  Object.assign(subscription, { received: [], joins: [], leaves: [], recoveries: [] });
  subscription.on("publication", (publication) => subscription.received.push(publication));
  subscription.on("join", ({ info }) => subscription.joins.push(info));
  subscription.on("leave", ({ info }) => subscription.leaves.push(info));
  subscription.on("subscribed", (context) => {
    if (context.wasRecovering) subscription.recoveries.push(context.recovered);
  });
  subscription.subscribe();
  await subscription.ready(10_000);
  return subscription;
};

/** A TCP proxy in front of the server at `port`. It can cut its connections, and refuses requests that match `blocked`. */
export class Network {
  static async start(port, blocked = null) {
    const network = new Network();
    network.pairs = new Set();
    network.refused = 0;
    network.listener = createServer((client) => network.accept(client, port, blocked)).listen(0, "127.0.0.1");
    await once(network.listener, "listening");
    network.port = network.listener.address().port;
    return network;
  }

  accept(client, port, blocked) {
    const upstream = connect(port, "127.0.0.1");
    const end = () => {
      client.destroy();
      upstream.destroy();
      this.pairs.delete(end);
    };
    this.pairs.add(end);
    for (const socket of [client, upstream]) socket.on("error", end).on("close", end);
    upstream.pipe(client);
    client.on("data", (data) => {
      if (!blocked?.test(data.toString("latin1"))) return upstream.write(data);
      this.refused += 1;
      client.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
  }

  /** Ends all connections, as a network does: without a word. New ones are accepted at once. */
  cut() {
    for (const end of this.pairs) end();
  }

  stop() {
    this.cut();
    this.listener.close();
  }
}

/** Runs named tests one after the other. */
export const run = async (title, tests, ...parameters) => {
  for (const [name, test] of Object.entries(tests)) {
    const begun = Date.now();
    await test(...parameters);
    console.log(`${title}: ${name}: ok (${Date.now() - begun} ms)`);
  }
};
