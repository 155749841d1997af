// Node's own fetch against httpbin behind the gateway at URL.
import assert from "node:assert/strict";

const url = process.argv[2];
const json = async (path, options) => {
  const response = await fetch(url + path, options);
  assert.equal(response.status, 200, path);
  return response.json();
};

assert.equal((await json("/get?a=%C3%A9&a=2")).args.a[1], "2");
assert.deepEqual((await json("/post", { method: "POST", body: JSON.stringify({ a: 1 }), headers: { "content-type": "application/json" } })).json, { a: 1 });
const form = new FormData();
form.set("field", "value");
form.set("file", new Blob(["content"]), "name.txt");
const posted = await json("/post", { method: "POST", body: form });
assert.equal(posted.form.field, "value");
assert.equal(posted.files.file, "content");
// A body that is made while it is sent, of unknown length.
const stream = new ReadableStream({
  async start(controller) {
    for (const piece of ["one ", "two ", "three"]) controller.enqueue(new TextEncoder().encode(piece));
    controller.close();
  },
});
const streamed = await json("/put", { method: "PUT", body: stream, duplex: "half", headers: { "content-type": "text/x" } });
assert.equal(streamed.data, "one two three");
for (const path of ["/gzip", "/deflate", "/brotli"]) assert.equal((await json(path)).method, "GET", path);
assert.equal((await fetch(url + "/redirect/2")).url, url + "/get");
assert.equal((await fetch(url + "/status/418")).status, 418);
assert.equal((await fetch(url + "/status/204")).status, 204);
assert.equal((await (await fetch(url + "/bytes/100?seed=1", { method: "HEAD" })).arrayBuffer()).byteLength, 0);
assert.equal((await (await fetch(url + "/bytes/100000?seed=1")).arrayBuffer()).byteLength, 100000);
let lines = 0;
for await (const piece of (await fetch(url + "/stream/20")).body) lines += new TextDecoder().decode(piece).split("\n").length - 1;
assert.equal(lines, 20);
// Given up in the middle: the next request is none the worse for it.
const abort = new AbortController();
const given = fetch(url + "/delay/5", { signal: abort.signal });
setTimeout(() => abort.abort(), 100);
await assert.rejects(given, { name: "AbortError" });
const many = await Promise.all([...Array(40).keys()].map((n) => json(`/anything/${n}?n=${n}`)));
many.forEach((answer, n) => assert.equal(answer.args.n, String(n)));
console.log("passed");
