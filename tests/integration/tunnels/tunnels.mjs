// WebSockets over HTTP/2 (RFC 8441): the frames are those of `ws`, the streams those of Node.
//   server              an echo that listens without TLS and says where
//   client URL TOKEN    walks through what a client does; one JSON line a step; ends with how it was closed
import http2 from "node:http2";
import { once } from "node:events";
import WebSocket from "ws";

const tell = (step, what = {}) => console.log(JSON.stringify({ step, ...what }));

// A WebSocket on a stream that is open already, for which the library has no door of its own.
function websocket(stream, server) {
  stream.setNoDelay = () => {};
  const socket = new WebSocket(null, undefined, { autoPong: true });
  socket._isServer = server;
  socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 0, skipUTF8Validation: false, allowSynchronousEvents: false });
  return socket;
}

// What a server may do with an ordinary request.
const behaviours = {
  "/events"(stream) {
    stream.respond({ ":status": 200, "content-type": "text/event-stream" });
    stream.write("data: begun\n\n");
  },
  "/broken"(stream) {
    stream.respond({ ":status": 200 });
    stream.write("half", () => stream.destroy(new Error("broken")));
  },
  // Whole, without having read the request: then it need not be sent on (RFC 9113 section 8.1).
  "/early"(stream) {
    stream.respond({ ":status": 413, "content-length": "6" });
    stream.end("enough", () => stream.close(http2.constants.NGHTTP2_NO_ERROR));
  },
  "/refused"(stream) {
    refused += 1;
    if (refused % 2 === 1) return stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
    stream.respond({ ":status": 200 });
    stream.end(`try ${refused}`);
  },
  "/silent"() {},
  "/trailers"(stream) {
    stream.respond({ ":status": 200 }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "5" }));
    stream.end("words");
  },
  "/hints"(stream) {
    stream.additionalHeaders({ ":status": 103, link: "</a.css>" });
    stream.respond({ ":status": 200 });
    stream.end("hinted");
  },
  // The last request of its connection.
  "/last"(stream) {
    stream.session.goaway(http2.constants.NGHTTP2_NO_ERROR, stream.id);
    stream.respond({ ":status": 200 });
    stream.end("last");
  },
};
let refused = 0;

function serve() {
  const server = http2.createServer({ settings: { enableConnectProtocol: true } });
  server.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    if (headers[":method"] !== "CONNECT") {
      stream.on("close", () => tell("over", { path: headers[":path"], reset: stream.rstCode }));
      if (headers[":path"] in behaviours) return behaviours[headers[":path"]](stream);
      stream.respond({ ":status": 200 });
      return stream.end(`${headers[":method"]} ${headers[":path"]}`);
    }
    const unasked = ["upgrade", "connection", "sec-websocket-key"].filter((name) => headers[name] !== undefined);
    if (!headers[":path"].startsWith("/ws")) {
      stream.respond({ ":status": 403 });
      return stream.end("no tunnel");
    }
    stream.respond({ ":status": 200, "sec-websocket-protocol": "chat" });
    const socket = websocket(stream, true);
    socket.on("error", () => {});
    socket.on("message", (data, binary) => {
      const seen = { path: headers[":path"], protocol: headers[":protocol"], subject: headers["x-auth-subject"], unasked };
      socket.send(!binary && String(data) === "who?" ? JSON.stringify(seen) : data, { binary });
    });
    socket.on("close", (code, reason) => tell("closed", { code, reason: String(reason) }));
  });
  server.listen(0, "127.0.0.1", () => tell("listening", { port: server.address().port }));
}

async function answer(stream) {
  const [headers] = await once(stream, "response");
  return headers;
}

async function body(stream) {
  let text = "";
  for await (const piece of stream.setEncoding("utf8")) text += piece;
  return text;
}

async function walk(url, token) {
  const session = http2.connect(url);
  let away = false;
  session.on("goaway", () => (away = true));
  const [settings] = await once(session, "remoteSettings");
  tell("settings", { connect: settings.enableConnectProtocol });
  const ask = (path, more = {}) =>
    session.request({ ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13", ...more });
  const bearer = { authorization: `Bearer ${token}`, "sec-websocket-protocol": "chat" };

  for (const [name, path, more] of [
    ["anonymous", "/ws", {}],
    ["refused", "/no/ws", bearer],
    ["no route", "/nowhere", bearer],
    ["no socket", "/plain", {}],
    ["endpoint", "/auth/me", bearer],
    ["another protocol", "/ws", { ...bearer, ":protocol": "connect-udp" }],
  ]) {
    const stream = ask(path, more);
    const headers = await answer(stream);
    let code = await body(stream);
    try {
      code = JSON.parse(code).code;
    } catch {}
    tell(name, { status: headers[":status"], code });
  }

  const stream = ask("/ws/path?q=1", { ...bearer, origin: "https://page.test" });
  const headers = await answer(stream);
  tell("open", {
    status: headers[":status"],
    subprotocol: headers["sec-websocket-protocol"],
    accept: headers["sec-websocket-accept"] ?? null,
    via: headers.via,
  });
  const socket = websocket(stream, false);
  const message = async () => {
    const [data, binary] = await once(socket, "message");
    return binary ? data : String(data);
  };
  socket.send("who?");
  tell("seen", { seen: await message() });
  socket.send("h\u00e9llo");
  const small = await message();
  const large = Buffer.alloc(3_000_000, 7);
  socket.send(large);
  const same = large.equals(await message());
  socket.send("in ", { fin: false });
  socket.send("three ", { fin: false });
  socket.send("parts", { fin: true });
  const parts = await message();
  socket.ping("p");
  const [pong] = await once(socket, "pong");
  tell("echoed", { small, same, parts, pong: String(pong) });
  // Other requests share the connection with the tunnel.
  const plain = session.request({ ":path": "/plain" });
  tell("beside", { status: (await answer(plain))[":status"], body: await body(plain) });

  // A client of its own accord: with a code, and without so much as a word.
  const polite = websocket(await opened(ask("/ws", bearer)), false);
  polite.close(4001, "enough");
  const [code, reason] = await once(polite, "close");
  tell("polite", { code, reason: String(reason) });
  const rude = await opened(ask("/ws", bearer));
  rude.close(http2.constants.NGHTTP2_CANCEL);
  await once(rude, "close");
  tell("rude");

  const [cut, why] = await once(socket, "close");
  tell("cut", { code: cut, reason: String(why), away });
  session.close();
}

async function opened(stream) {
  stream.on("error", () => {});
  const headers = await answer(stream);
  if (headers[":status"] !== 200) throw new Error(`status ${headers[":status"]}`);
  return stream;
}

const [role, ...rest] = process.argv.slice(2);
await (role === "server" ? serve() : walk(...rest));
