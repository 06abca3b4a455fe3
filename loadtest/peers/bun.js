// Bun's own publish/subscribe (uWebSockets inside), spoken to in plain text:
// `sub TOPIC`, `pub TOPIC PAYLOAD`; a delivery is the payload.
//
//   bun bun.js [PORT]

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2] ?? 17604),
  fetch(request, server) {
    if (!server.upgrade(request)) return new Response("a WebSocket is due", { status: 426 });
  },
  websocket: {
    // Otherwise it hangs up on whoever has been silent for two minutes.
    idleTimeout: 0,
    sendPings: false,
    perMessageDeflate: false,
    // By default a subscriber that is 16 MiB behind misses messages.
    backpressureLimit: 256 * 1024 * 1024,
    closeOnBackpressureLimit: false,
    message(socket, message) {
      if (message.startsWith("pub ")) {
        const end = message.indexOf(" ", 4);
        server.publish(message.slice(4, end), message.slice(end + 1));
      } else if (message.startsWith("sub ")) {
        socket.subscribe(message.slice(4));
      }
    },
  },
});
