// Node's `ws`, spoken to in plain text: `sub TOPIC`, `pub TOPIC PAYLOAD`; a delivery is the payload.
//
//   NODE_PATH=…/node_modules node node-ws.js [PORT]
//
// `socket.send` for each subscriber frames each message again and makes a system call of each. This
// frames a message once, and writes what one turn of the event loop brought to each subscriber at
// once: the best that can be had from `ws` with its exported parts.

const { Sender, WebSocketServer } = require("ws");

const OPCODE_TEXT = 1;

/** By topic: its subscribers' TCP sockets, and the frames of this turn. */
const topics = new Map();

function topicOf(name) {
  let topic = topics.get(name);
  if (!topic) topics.set(name, (topic = { sockets: new Set(), frames: [] }));
  return topic;
}

function publish(topic, payload) {
  if (topic.frames.length === 0) setImmediate(flush, topic);
  const options = { fin: true, rsv1: false, opcode: OPCODE_TEXT, mask: false, readOnly: true };
  topic.frames.push(...Sender.frame(payload, options));
}

function flush(topic) {
  const bytes = Buffer.concat(topic.frames);
  topic.frames = [];
  for (const socket of topic.sockets) socket.write(bytes);
}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2] ?? 17605),
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
      topic.sockets.add(socket);
      subscribed.add(topic);
    }
  });
  client.on("error", () => client.terminate());
  client.on("close", () => subscribed.forEach((topic) => topic.sockets.delete(socket)));
});
