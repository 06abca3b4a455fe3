// Runs in every page and frame before its own scripts: `dial`, a WebSocket whose events are waited for, and kept in `told`.

globalThis.dial = (url, protocol) => {
  const KINDS = { publish: 1, subscribe: 4, auth: 17 };
  const MESSAGE = 2, JSON_FLAG = 1, HEAD_BYTES = 12;
  const socket = new WebSocket(url, protocol ?? []);
  socket.binaryType = "arraybuffer";
  const events = [], waiting = [], told = [];
  let is_over = false;
  const push = (event) => (waiting.length > 0 ? waiting.shift()(event) : events.push(event));

  function body({ op, topic, data, ...rest }) {
    const encode = (text) => new TextEncoder().encode(text);
    const name = op === "publish" ? encode(topic) : [];
    const payload = encode(JSON.stringify(op === "publish" ? data : { op, topic, ...rest }));
    const bytes = new Uint8Array(HEAD_BYTES + name.length + payload.length), view = new DataView(bytes.buffer);
    bytes.set([KINDS[op], JSON_FLAG]);
    view.setUint16(2, name.length);
    // A publish has its id where a message has its seq.
    view.setBigUint64(4, BigInt((op === "publish" && rest.id) || 0));
    bytes.set(name, HEAD_BYTES);
    bytes.set(payload, HEAD_BYTES + name.length);
    return bytes;
  }

  function read(buffer) {
    const view = new DataView(buffer), payload_at = HEAD_BYTES + view.getUint16(2);
    const text = (from, to) => new TextDecoder().decode(buffer.slice(from, to));
    const json = JSON.parse(text(payload_at));
    return view.getUint8(0) === MESSAGE ? { op: "message", topic: text(HEAD_BYTES, payload_at), data: json } : json;
  }

  socket.onopen = () => push({ open: socket.protocol });
  socket.onmessage = ({ data }) => push(typeof data === "string" ? JSON.parse(data) : read(data));
  socket.onerror = () => push({ error: true });
  socket.onclose = ({ code, reason, wasClean }) => {
    is_over = true;
    push({ close: code, reason, wasClean });
  };
  async function take(count) {
    for (let taken = 0; taken < count; taken += 1) {
      if (events.length === 0 && is_over) throw new Error(`nothing comes after ${JSON.stringify(told)}`);
      told.push(events.length > 0 ? events.shift() : await new Promise((resolve) => waiting.push(resolve)));
    }
    return told.at(-1);
  }

  const send = (command) => socket.send(protocol === "fanfare.bin.v1" ? body(command) : JSON.stringify(command));
  return {
    told,
    take,
    ask(command, count = 1) {
      send(command);
      return take(count);
    },
    close: () => socket.close(1000),
  };
};
