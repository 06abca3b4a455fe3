// Holds a running broker to the protocol with a client not written here: node's `ws`.
//
//     node check.mjs ws://127.0.0.1:7600/ws
//
// When everything but the last check has passed it prints "restart", and expects the broker to be stopped.

import assert from "node:assert/strict";
import WebSocket from "ws";

const url = process.argv[2];
const JSON_FLAG = 1;
const EXT_FLAG = 2;
const [PUBLISH, MESSAGE, SUBSCRIBE, OK, ERROR, PING, PONG] = [1, 2, 4, 6, 7, 9, 10];

/** A connection whose events are waited for one by one. */
class Peer {
  #events = [];
  #waiting = [];

  constructor(subprotocols, options) {
    this.socket = new WebSocket(url, subprotocols, options);
    this.socket.on("message", (data, isBinary) => this.#push({ message: isBinary ? data : String(data) }));
    this.socket.on("pong", (data) => this.#push({ pong: String(data) }));
    this.socket.on("close", (code, reason) => this.#push({ close: code, reason: String(reason) }));
    this.socket.on("unexpected-response", (request, response) => {
      this.#push({ status: response.statusCode });
      request.destroy();
    });
    this.socket.on("error", () => {});
  }

  static async open(subprotocol, options) {
    const peer = new Peer(subprotocol ? [subprotocol] : [], options);
    peer.hello = subprotocol === "fanfare.bin.v1" ? (await peer.body()).object : await peer.object();
    assert.equal(peer.hello.op, "hello");
    assert.equal(peer.socket.protocol, subprotocol ?? "");
    assert.equal(peer.socket.extensions, "");
    return peer;
  }

  #push(event) {
    this.#waiting.length > 0 ? this.#waiting.shift()(event) : this.#events.push(event);
  }

  event() {
    return this.#events.length > 0
      ? Promise.resolve(this.#events.shift())
      : new Promise((resolve) => this.#waiting.push(resolve));
  }

  async message() {
    const event = await this.event();
    assert.ok("message" in event, JSON.stringify(event));
    return event.message;
  }

  async object() {
    const message = await this.message();
    assert.equal(typeof message, "string");
    return JSON.parse(message);
  }

  async body() {
    const bytes = await this.message();
    assert.ok(Buffer.isBuffer(bytes));
    const topicStart = bytes[1] & EXT_FLAG ? 14 + bytes.readUInt16BE(12) : 12;
    const topicEnd = topicStart + bytes.readUInt16BE(2);
    const [kind, flags, seq] = [bytes[0], bytes[1], Number(bytes.readBigUInt64BE(4))];
    const payload = bytes.subarray(topicEnd);
    const object = kind === MESSAGE && !(flags & JSON_FLAG) ? undefined : JSON.parse(payload);
    return { kind, flags, seq, topic: String(bytes.subarray(topicStart, topicEnd)), payload, object };
  }

  send(command) {
    this.socket.send(JSON.stringify(command));
  }

  ask(command) {
    this.send(command);
    return this.object();
  }

  /** Closes, and expects the broker's answer. */
  async close() {
    this.socket.close(1000, "bye");
    assert.deepEqual(await this.event(), { close: 1000, reason: "" });
  }
}

/** A body of fanfare.bin.v1. */
function body(kind, flags, seq, topic, payload) {
  const name = Buffer.from(topic);
  const head = Buffer.alloc(12);
  head[0] = kind;
  head[1] = flags;
  head.writeUInt16BE(name.length, 2);
  head.writeBigUInt64BE(BigInt(seq), 4);
  return Buffer.concat([head, name, Buffer.from(payload)]);
}

function batch(bodies) {
  const parts = bodies.flatMap((bytes) => {
    const len = Buffer.alloc(4);
    len.writeUInt32BE(bytes.length);
    return [len, bytes];
  });
  return Buffer.concat([Buffer.from([0, 0]), ...parts]);
}

const checks = {
  async "commands and messages in JSON"() {
    for (const subprotocol of ["fanfare.json.v1", undefined]) {
      const peer = await Peer.open(subprotocol);
      const topic = `node/${subprotocol ?? "none"}`;
      const data = { text: "grüß dich 👋", list: [1, -2.5, null] };
      const { epoch } = peer.hello;
      assert.deepEqual(await peer.ask({ op: "subscribe", topic, id: 1 }), { op: "ok", id: 1, topic, seq: 0, epoch });
      peer.send({ op: "publish", topic, data });
      assert.deepEqual(await peer.object(), { op: "message", topic, seq: 1, data });
      assert.deepEqual(await peer.ask({ op: "unsubscribe", topic, id: "x" }), { op: "ok", id: "x", topic });
      assert.deepEqual(await peer.ask({ op: "publish", topic, data, id: 3 }), { op: "ok", id: 3, topic, seq: 2 });
      assert.equal((await peer.ask({ op: "publish", topic: "#", data, id: 4 })).code, "bad_topic");
      assert.equal((await peer.ask({ op: "nonsense", id: 5 })).code, "unknown_op");
      assert.deepEqual(await peer.ask({ op: "ping", id: 6 }), { op: "pong", id: 6 });
      await peer.close();
    }
  },

  async "bodies and batches in binary"() {
    const peer = await Peer.open("fanfare.bin.v1");
    peer.socket.send(body(SUBSCRIBE, 0, 0, "", JSON.stringify({ op: "subscribe", topic: "node/bin", id: 1 })));
    const ok = await peer.body();
    assert.equal(ok.kind, OK);
    assert.deepEqual(ok.object, { op: "ok", id: 1, topic: "node/bin", seq: 0, epoch: peer.hello.epoch });
    peer.socket.send(
      batch([
        body(PUBLISH, 0, 0, "node/bin", [0, 255, 128]),
        body(PUBLISH, JSON_FLAG, 0, "node/bin", '{"a":1}'),
      ]),
    );
    const [bytes, json] = [await peer.body(), await peer.body()];
    assert.deepEqual([bytes.kind, bytes.flags, bytes.seq, bytes.topic], [MESSAGE, 0, 1, "node/bin"]);
    assert.deepEqual([...bytes.payload], [0, 255, 128]);
    assert.deepEqual([json.kind, json.flags, json.seq, json.object], [MESSAGE, JSON_FLAG, 2, { a: 1 }]);
    peer.socket.send(body(PUBLISH, JSON_FLAG, 7, "node/bin", "{"));
    const error = await peer.body();
    assert.deepEqual([error.kind, error.object.code], [ERROR, "bad_message"]);
    peer.socket.send(body(PING, 0, 0, "", '{"op":"ping","id":8}'));
    assert.equal((await peer.body()).kind, PONG);
    await peer.close();
  },

  async "a message in fragments, with a ping between them"() {
    const peer = await Peer.open("fanfare.json.v1");
    const text = JSON.stringify({ op: "ping", id: "ä".repeat(20) });
    const bytes = Buffer.from(text);
    peer.socket.send(bytes.subarray(0, 20), { fin: false, binary: false });
    peer.socket.ping("in between");
    peer.socket.send(bytes.subarray(20, 41), { fin: false, binary: false });
    peer.socket.send(bytes.subarray(41), { fin: true, binary: false });
    assert.deepEqual(await peer.event(), { pong: "in between" });
    assert.deepEqual(await peer.object(), { op: "pong", id: "ä".repeat(20) });
    await peer.close();
  },

  async "a thousand publications arrive once and in order"() {
    const [publisher, subscriber] = [await Peer.open("fanfare.json.v1"), await Peer.open("fanfare.json.v1")];
    await subscriber.ask({ op: "subscribe", topic: "node/+", id: 1 });
    for (let number = 1; number <= 1000; number++) {
      publisher.send({ op: "publish", topic: "node/many", data: number });
    }
    for (let number = 1; number <= 1000; number++) {
      const { seq, data } = await subscriber.object();
      assert.deepEqual([seq, data], [number, number]);
    }
    await publisher.close();
    await subscriber.close();
  },

  async "the longest message passes, a longer one is closed with 1009"() {
    const peer = await Peer.open("fanfare.json.v1");
    const command = (len) => {
      const text = JSON.stringify({ op: "publish", topic: "node/long", id: 1, data: "" });
      return text.replace('""', `"${"x".repeat(len - text.length)}"`);
    };
    peer.socket.send(command(peer.hello.max_message));
    assert.equal((await peer.object()).seq, 1);
    peer.socket.send(command(peer.hello.max_message + 1));
    assert.equal((await peer.event()).close, 1009);
  },

  async "a message of the wrong kind is closed with 1003"() {
    const json = await Peer.open("fanfare.json.v1");
    json.socket.send(Buffer.from([1, 2, 3]));
    assert.equal((await json.event()).close, 1003);
    const binary = await Peer.open("fanfare.bin.v1");
    binary.socket.send("text");
    assert.equal((await binary.event()).close, 1003);
  },

  async "subprotocols that the broker does not know are refused"() {
    assert.deepEqual(await new Peer(["mqtt", "stomp"]).event(), { status: 400 });
  },

  async "a restart closes with 1012 and says when to come back"() {
    const peers = [await Peer.open("fanfare.json.v1"), await Peer.open("fanfare.bin.v1")];
    console.log("restart");
    for (const peer of peers) {
      const { close, reason } = await peer.event();
      assert.equal(close, 1012);
      assert.match(reason, /^retry_after_ms=\d+$/);
    }
  },
};

// Nothing here waits for longer than this.
setTimeout(() => {
  console.error("nothing came for 30 s");
  process.exit(1);
}, 30_000).unref();

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    console.error(`${name}: ${error.stack}`);
    process.exit(1);
  }
}
