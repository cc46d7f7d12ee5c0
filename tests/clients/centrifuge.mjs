// npm's centrifuge, as its authors publish it, against a server of its own: node centrifuge.mjs STENTOR
import { Centrifuge } from "centrifuge";
import assert from "node:assert/strict";
import WebSocket from "ws";
import { Server } from "./server.mjs";
import { event, limit, subscribe, until } from "./support.mjs";

const stentor = process.argv[2];
limit(150);

// The client's sockets, so that a test can cut them as a network does: without a word.
const sockets = new Map();
const client = (server, options = {}, name = "") => {
  class Kept extends WebSocket {
    constructor(...more) {
      super(...more);
      sockets.set(centrifuge, this);
    }
  }
  const quick = { minReconnectDelay: 1, maxReconnectDelay: 30 };
  const centrifuge = new Centrifuge(server.url, { websocket: Kept, data: { name }, ...quick, ...options });
  centrifuge.connect();
  return centrifuge;
};
const cut = (centrifuge) => sockets.get(centrifuge).terminate();
const offsets = ({ publications }) => publications.map(({ offset }) => offset);

const tests = {
  async "connect, subscribe, publish, presence, joins and leaves, history"(server) {
    const [ann, bob] = [client(server, {}, "ann"), client(server, {}, "bob")];
    const annSub = await subscribe(ann, "chat", { joinLeave: true });
    const bobSub = await subscribe(bob, "chat");
    await until("bob's join", () => annSub.joins.some(({ user }) => user === "bob"));
    const data = { text: 'Grüße\n"🙂"', nested: [1, 2.5, null, true, {}] };
    await annSub.publish(data);
    await bob.publish("chat", "two");
    await until("both", () => bobSub.received.length === 2 && annSub.received.length === 2);
    assert.deepEqual(bobSub.received.map((it) => it.data), [data, "two"]);
    assert.deepEqual(bobSub.received.map((it) => it.info.user), ["ann", "bob"]);
    const { clients } = await annSub.presence();
    assert.deepEqual(Object.values(clients).map(({ user }) => user).sort(), ["ann", "bob"]);
    assert.deepEqual(await annSub.presenceStats(), { numClients: 2, numUsers: 2 });
    for (let number = 3; number <= 10; number++) await annSub.publish(number);
    const { epoch, offset } = await annSub.history({ limit: 0 });
    assert.equal(offset, 10);
    const page = async (options) => offsets(await annSub.history(options));
    assert.deepEqual(await page({ limit: 3 }), [1, 2, 3]);
    assert.deepEqual(await page({ limit: 3, since: { offset: 3, epoch } }), [4, 5, 6]);
    assert.deepEqual(await page({ limit: 3, reverse: true }), [10, 9, 8]);
    assert.deepEqual(await page({ limit: 3, reverse: true, since: { offset: 8, epoch } }), [7, 6, 5]);
    assert.deepEqual(await page({ limit: -1 }), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    bobSub.unsubscribe();
    await until("bob's leave", () => annSub.leaves.some(({ user }) => user === "bob"));
    ann.disconnect();
    bob.disconnect();
  },

  async "errors and disconnect codes"(server) {
    const ann = client(server, {}, "ann");
    await ann.ready();
    await assert.rejects(ann.publish("elsewhere", 1), { code: 103 });
    await assert.rejects(ann.rpc("nothing", {}), { code: 104 });
    const twice = await subscribe(ann, "twice");
    await assert.rejects(twice.history({ limit: 1, since: { offset: 1, epoch: "other" } }), { code: 112 });
    const long = ann.newSubscription("x".repeat(300));
    long.subscribe();
    assert.equal((await event(long, "unsubscribed")).code, 107);
    ann.send({ message: "ignored" });
    assert.equal((await event(ann, "disconnected")).code, 3508);
    const bad = client(server, {}, "a\u0000b");
    assert.equal((await event(bad, "disconnected")).code, 107);
  },

  async "a thousand cuts while a room is busy: no gap and no duplicate"(server) {
    const publisher = client(server, {}, "publisher");
    const publications = await subscribe(publisher, "busy");
    const listeners = [];
    for (let index = 0; index < 20; index++) {
      const listener = client(server, {}, `listener ${index}`);
      listeners.push({ listener, subscription: await subscribe(listener, "busy"), cuts: 0 });
    }
    let published = 0;
    let over = false;
    const publishing = (async () => {
      while (!over) {
        await publications.publish({ number: ++published });
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    })();
    await Promise.all(listeners.map(async (one) => {
      for (; one.cuts < 50; one.cuts++) {
        const back = event(one.subscription, "subscribed");
        cut(one.listener);
        await back;
        if (one.cuts % 5 === 0) await event(one.subscription, "publication");
      }
    }));
    over = true;
    await publishing;
    assert(published > 10, `only ${published} messages`);
    for (const { listener, subscription, cuts } of listeners) {
      await until("the last message", () => subscription.received.at(-1)?.data.number === published);
      assert.equal(cuts, 50);
      assert.deepEqual(subscription.recoveries, Array(50).fill(true));
      assert.deepEqual(subscription.received.map((it) => it.data.number), Array.from({ length: published }, (_, n) => n + 1));
      assert.deepEqual(subscription.received.map((it) => it.offset), Array.from({ length: published }, (_, n) => n + 1));
      listener.disconnect();
    }
    publisher.disconnect();
  },

  async "a thousand clients at once"(server) {
    const clients = Array.from({ length: 1000 }, (_, index) => client(server, { timeout: 30_000 }, `client ${index}`));
    const all = await Promise.all(clients.map((one) => subscribe(one, "large")));
    await all[0].publish("hello");
    await until("all", () => all.every(({ received }) => received.length === 1));
    assert.deepEqual(await all[7].presenceStats(), { numClients: 1000, numUsers: 1000 });
    const { clients: members } = await all[7].presence();
    assert.equal(Object.keys(members).length, 500, "the answer is capped");
    for (const one of clients) one.disconnect();
  },

  async "a restarted server: the history is lost, and the client is notified"(server) {
    const ann = client(server, {}, "ann");
    const room = await subscribe(ann, "room");
    await room.publish(1);
    const shutdown = event(ann, "connecting");
    await server.end();
    assert.equal((await shutdown).code, 3001);
    const back = event(room, "subscribed");
    await server.begin();
    const context = await back;
    assert.deepEqual([context.wasRecovering, context.recovered], [true, false]);
    await room.publish(2);
    await until("the new one", () => room.received.at(-1)?.data === 2);
    assert.equal(room.received.at(-1).offset, 1);
    ann.disconnect();
  },
};

const server = await Server.start(stentor, "--shards", "2");
process.on("exit", () => server.process.kill("SIGKILL"));
for (const [name, test] of Object.entries(tests)) {
  const begun = Date.now();
  await test(server);
  console.log(`centrifuge: ${name}: ok (${Date.now() - begun} ms)`);
}
await server.end();
