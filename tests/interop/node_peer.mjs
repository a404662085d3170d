// WebSocket connections of the npm package `ws`, remote-controlled for test_node_ws.py.
//
// Usage: node node_peer.mjs FOLDER, which has node_modules in it. Each line of the standard input is a call, and each
// line of the standard output the outcome of one, in any order; both are JSON. It ends with its standard input.

import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import readline from "node:readline";

const { WebSocket, WebSocketServer } = createRequire(process.argv[2] + "/")("ws");

/** What happens once for each time that somebody waits for it, in whichever order. */
class Queue {
  #values = [];
  #waiting = [];

  put(value) {
    if (this.#waiting.length) this.#waiting.shift()(value);
    else this.#values.push(value);
  }

  get() {
    if (this.#values.length) return Promise.resolve(this.#values.shift());
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

const objects = [];

function remember(object) {
  return objects.push(object) - 1;
}

class Connection {
  constructor(ws, header) {
    this.ws = ws;
    this.header = header ?? null;
    this.received = new Queue();
    this.pongs = new Queue();
    this.closed = new Promise((resolve) => ws.on("close", resolve));
    ws.on("message", (data, isBinary) =>
      this.received.put(isBinary ? { binary: data.toString("base64") } : { text: data.toString() }),
    );
    ws.on("pong", () => this.pongs.put(null));
    ws.on("close", (code, reason) => this.received.put({ close: [code, reason.toString()] }));
    // The close event that follows tells enough.
    ws.on("error", () => {});
  }

  describe() {
    return { connection: remember(this), subprotocol: this.ws.protocol || null, header: this.header };
  }
}

const decode = (message) => ("text" in message ? message.text : Buffer.from(message.binary, "base64"));

const calls = {
  connect({ uri, ca, subprotocols, limit, deflate }) {
    return new Promise((resolve, reject) => {
      const ws = new WebSocket(uri, subprotocols, {
        ca: ca ?? undefined,
        maxPayload: limit,
        perMessageDeflate: deflate,
        headers: { "X-Interop": "hello" },
      });
      const connection = new Connection(ws);
      ws.on("error", reject);
      ws.on("open", () => resolve(connection.describe()));
    });
  },

  listen({ tls, subprotocols, limit, deflate }) {
    const server = tls ? https.createServer(tls) : http.createServer();
    const sockets = new WebSocketServer({
      noServer: true,
      maxPayload: limit,
      perMessageDeflate: deflate,
      handleProtocols: (offered) => subprotocols.find((each) => offered.has(each)) ?? false,
    });
    const accepted = new Queue();
    sockets.on("headers", (headers) => headers.push("X-Interop: hello"));
    server.on("upgrade", (request, socket, head) => {
      if (request.url === "/refuse") {
        socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        return;
      }
      sockets.handleUpgrade(request, socket, head, (ws) =>
        accepted.put(new Connection(ws, request.headers["x-interop"])),
      );
    });
    return new Promise((resolve, reject) => {
      server.on("error", reject);
      server.listen(0, "127.0.0.1", () =>
        resolve({ server: remember({ server, sockets, accepted }), port: server.address().port }),
      );
    });
  },

  async accept({ server }) {
    return (await objects[server].accepted.get()).describe();
  },

  stop({ server }) {
    const listening = objects[server];
    for (const ws of listening.sockets.clients) ws.terminate();
    return new Promise((resolve) => listening.server.close(() => resolve(null)));
  },

  send({ connection, message, compress }) {
    return new Promise((resolve) => objects[connection].ws.send(decode(message), { compress }, () => resolve(null)));
  },

  async send_parts({ connection, parts }) {
    parts.forEach((part, index) => objects[connection].ws.send(decode(part), { fin: index === parts.length - 1 }));
    return null;
  },

  receive({ connection }) {
    return objects[connection].received.get();
  },

  async echo({ connection, count }) {
    const { ws, received } = objects[connection];
    for (let i = 0; i < count; i++) ws.send(decode(await received.get()));
    return null;
  },

  ping({ connection }) {
    objects[connection].ws.ping("interop");
    return objects[connection].pongs.get();
  },

  async close({ connection, code, reason }) {
    objects[connection].ws.close(code ?? undefined, reason);
    await objects[connection].closed;
    return null;
  },

  async kill({ connection }) {
    objects[connection].ws.terminate();
    return null;
  },
};

const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on("line", async (line) => {
  const { id, call, ...parameters } = JSON.parse(line);
  let outcome;
  try {
    outcome = { id, result: await calls[call](parameters) };
  } catch (error) {
    outcome = { id, error: String(error) };
  }
  process.stdout.write(JSON.stringify(outcome) + "\n");
});
lines.on("close", () => process.exit());
