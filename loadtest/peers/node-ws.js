// Node's `ws`, spoken to in plain text: `sub TOPIC`, `pub TOPIC PAYLOAD`; a delivery is the payload.
//
//   NODE_PATH=…/node_modules node node-ws.js PORT send|merge
//
// `send` is what the documentation of `ws` shows: `client.send` for each subscriber, which frames each
// message again and makes a system call of each. `merge` goes round it: a message is framed once, and
// what one turn of the event loop brought is written to each subscriber's TCP socket at once. That is the
// most that Node can do, and a broker without any bound: nothing is done about subscribers who
// do not keep up.

const { Sender, WebSocketServer } = require("ws");

const [port, mode] = process.argv.slice(2);
const OPCODE_TEXT = 1;

/** By topic: its subscribers, as `ws` and as TCP sockets, and with `merge` the frames of this turn. */
const topics = new Map();

function topicOf(name) {
  let topic = topics.get(name);
  if (!topic) topics.set(name, (topic = { subscribers: new Map(), frames: [] }));
  return topic;
}

function publish(topic, payload) {
  if (mode === "send") {
    for (const client of topic.subscribers.keys()) client.send(payload, { binary: false });
    return;
  }
  if (topic.frames.length === 0) setImmediate(flush, topic);
  const options = { fin: true, rsv1: false, opcode: OPCODE_TEXT, mask: false, readOnly: true };
  topic.frames.push(...Sender.frame(payload, options));
}

function flush(topic) {
  const bytes = Buffer.concat(topic.frames);
  topic.frames = [];
  for (const socket of topic.subscribers.values()) socket.write(bytes);
}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  backlog: 4096,
  perMessageDeflate: false,
});

server.on("connection", (client, request) => {
  const socket = request.socket;
  const subscribed = new Set();
  socket.setNoDelay(true);
  client.on("message", (data) => {
    const command = data.toString("latin1", 0, 4);
    if (command === "pub ") {
      const end = data.indexOf(32, 4);
      publish(topicOf(data.toString("utf8", 4, end)), data.subarray(end + 1));
    } else if (command === "sub ") {
      const topic = topicOf(data.toString("utf8", 4));
      topic.subscribers.set(client, socket);
      subscribed.add(topic);
    }
  });
  client.on("error", () => client.terminate());
  client.on("close", () => subscribed.forEach((topic) => topic.subscribers.delete(client)));
});
