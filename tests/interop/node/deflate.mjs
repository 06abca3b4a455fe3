// Holds a running broker with `deflate.enabled` to RFC 7692 with a client not written here: node's `ws`,
// which inflates with zlib in exactly the window that was agreed on.
//
//     node deflate.mjs ws://127.0.0.1:7600/ws WINDOW_BITS
//
// WINDOW_BITS are the broker's `deflate.window_bits`.

import assert from "node:assert/strict";
import WebSocket from "ws";

const [url, brokerBits] = [process.argv[2], Number(process.argv[3])];

/** A connection whose messages are waited for one by one. */
async function open(perMessageDeflate) {
  const socket = new WebSocket(url, "fanfare.json.v1", { perMessageDeflate, maxPayload: 1 << 24 });
  const [messages, waiting] = [[], []];
  const push = (message) => (waiting.length > 0 ? waiting.shift()(message) : messages.push(message));
  socket.on("message", (data) => push(JSON.parse(data)));
  socket.on("close", (code, reason) => push({ close: code, reason: String(reason) }));
  socket.on("error", (error) => push({ error: String(error) }));
  const peer = {
    socket,
    next: () =>
      messages.length > 0 ? Promise.resolve(messages.shift()) : new Promise((resolve) => waiting.push(resolve)),
    ask: (command) => (socket.send(JSON.stringify(command)), peer.next()),
    receivedBytes: () => socket._socket.bytesRead,
  };
  assert.equal((await peer.next()).op, "hello");
  assert.equal(socket.extensions, perMessageDeflate ? "permessage-deflate" : "");
  return peer;
}

/** Values that shrink, some longer than any window, and some that repeat themselves far back. */
const far = Array.from({ length: 3000 }, (_, index) => Math.imul(index, 2654435761) >>> 8);
const values = [
  "all work and no play ".repeat(60),
  { text: "grüß dich 👋 ".repeat(3000) },
  [far, far, far],
  "short",
];

const offers = [
  {},
  { serverNoContextTakeover: true, clientNoContextTakeover: true },
  { clientMaxWindowBits: 9 },
  { serverMaxWindowBits: 15 },
  { serverMaxWindowBits: 10, clientMaxWindowBits: 12 },
  { serverMaxWindowBits: 9 },
];

let count = 0;
for (const offer of offers) {
  const publisher = await open({ threshold: 0, ...offer });
  const [deflated, plain] = [await open({ threshold: 0, ...offer }), await open(false)];
  const topic = `node/deflate/${count++}`;
  for (const subscriber of [deflated, plain]) {
    assert.equal((await subscriber.ask({ op: "subscribe", topic, id: 1 })).op, "ok");
  }
  const isCompressed = (offer.serverMaxWindowBits ?? 15) >= brokerBits;
  for (const [index, data] of values.entries()) {
    const before = [deflated.receivedBytes(), plain.receivedBytes()];
    assert.equal((await publisher.ask({ op: "publish", topic, data, id: index })).seq, index + 1);
    const expected = { op: "message", topic, seq: index + 1, data };
    assert.deepEqual(await deflated.next(), expected);
    assert.deepEqual(await plain.next(), expected);
    const came = [deflated.receivedBytes() - before[0], plain.receivedBytes() - before[1]];
    const shrank = came[0] + 100 < came[1];
    assert.equal(shrank, isCompressed && data !== "short", `${JSON.stringify(offer)}: ${came}`);
  }
  // Many in a row, each compressed by itself.
  for (let number = 0; number < 200; number++) {
    publisher.socket.send(JSON.stringify({ op: "publish", topic, data: [number, values[0]] }));
  }
  for (let number = 0; number < 200; number++) {
    const { seq, data } = await deflated.next();
    assert.deepEqual([seq, data], [values.length + number + 1, [number, values[0]]]);
  }
  for (const peer of [publisher, deflated, plain]) {
    peer.socket.close(1000);
  }
}

// A bomb is closed with 1009, and its sender sees it.
const bomb = await open({ threshold: 0 });
bomb.socket.send("0".repeat(10_000_000));
assert.equal((await bomb.next()).close, 1009);
