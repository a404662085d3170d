// A WebSocket over Node's own HTTP/2, for test_interop.py. Usage: node node_client.mjs URL CA_FILE

import fs from "node:fs";
import http2 from "node:http2";

const [url, ca] = process.argv.slice(2);
const session = http2.connect(url, { ca: fs.readFileSync(ca) });

function masked(opcode, payload) {
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
}

function request(headers) {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers, { endStream: headers[":method"] === "GET" });
    const chunks = [];
    stream.on("response", (response) => resolve({ stream, chunks, status: response[":status"] }));
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("error", reject);
  });
}

async function converse(number) {
  const { stream, chunks, status } = await request({
    ":method": "CONNECT", ":protocol": "websocket", ":path": `/${number}`, "sec-websocket-version": "13",
  });
  const ended = new Promise((resolve) => stream.on("end", resolve));
  stream.write(masked(1, Buffer.from(`hello ${number}`)));
  stream.write(masked(8, Buffer.from([3, 0xe8])));
  await ended;
  stream.end();
  return { status, received: Buffer.concat(chunks).toString("hex") };
}

session.on("remoteSettings", async (settings) => {
  try {
    const page = await request({ ":method": "GET", ":path": "/page" });
    await new Promise((resolve) => page.stream.on("end", resolve));
    const other = await request({ ":method": "CONNECT", ":protocol": "other", ":path": "/" });
    other.stream.close();
    console.log(JSON.stringify({
      enableConnectProtocol: settings.enableConnectProtocol,
      page: Buffer.concat(page.chunks).toString(),
      other: other.status,
      websockets: await Promise.all([...Array(20).keys()].map(converse)),
    }));
    session.close();
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
    process.exit(1);
  }
});
