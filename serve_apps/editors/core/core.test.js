"use strict";
const { test } = require("node:test");
const assert = require("node:assert/strict");
const http = require("node:http");
const { Cache, Client, Ring, linesFor, secret, trimmed, windowAt, wordOf } = require("./core.js");

test("a window never splits a surrogate pair", () => {
  const text = "😀".repeat(5000);
  for (const offset of [4, 5000, 9998]) {
    const { prefix, suffix } = windowAt(text, offset, 2001, 5);
    assert.ok(prefix.isWellFormed() && suffix.isWellFormed());
  }
  assert.ok(windowAt("a\uD83D", 2).prefix.isWellFormed());
});

test("a window's beginning stays while somebody types on, at a line's beginning", () => {
  const text = "value = 12345\n".repeat(2000);
  const starts = new Set();
  for (let offset = 20000; offset < 20800; offset += 7) starts.add(text.lastIndexOf(windowAt(text, offset).prefix.slice(0, 60), offset) >= 0 && offset - windowAt(text, offset).prefix.length);
  assert.ok(starts.size <= 2, [...starts].join());
  for (const start of starts) assert.equal(text[start - 1], "\n");
  assert.deepEqual(windowAt("ab", 1), { prefix: "a", suffix: "b" });
});

test("what stands behind the cursor is not repeated", () => {
  assert.equal(trimmed("add(1, 2))", ")"), "add(1, 2)");
  assert.equal(trimmed("add(1, 2));", " );  \nx"), "add(1, 2)");
  assert.equal(trimmed("return a\n\nprint(x)\nmore", "\n\nprint(x)\n"), "return a");
  assert.equal(trimmed("a\r\nb\nc\n", "", 2), "a\nb");
  assert.equal(linesFor(")", 8), 8);
  assert.equal(linesFor("x + 1", 8), 1);
});

test("typing through an answer is a hit, another character is none", () => {
  const cache = new Cache(2);
  cache.put("def f():\n    ", "", { id: "1", text: "return 1" });
  assert.equal(cache.get("def f():\n    ", "").text, "return 1");
  assert.deepEqual(cache.get("def f():\n    ret", ""), { id: "1", text: "urn 1" });
  assert.equal(cache.get("def f():\n    return 1", ""), undefined); // all of it is there: what follows is asked for
  assert.equal(cache.get("def f():\n    x", ""), undefined);
  assert.equal(cache.get("def f():\n    ", "\nother"), undefined);
  cache.put("a", "", { text: "1" });
  cache.put("b", "", { text: "2" });
  assert.equal(cache.get("def f():\n    ", ""), undefined);
});

test("the ring keeps its order, has each file once, drops near copies, leaves out the file itself", () => {
  const ring = new Ring(2);
  const piece = (n) => Array.from({ length: 20 }, (_, i) => `word${n}_${i}`).join(" ");
  ring.add("a", piece(1));
  ring.add("b", piece(2));
  ring.add("copy of b", piece(2));
  ring.add("c", piece(3));
  ring.add("c", "short");
  assert.deepEqual(ring.others("z").map((one) => one.filename), ["copy of b", "c"]);
  assert.deepEqual(ring.others("c").map((one) => one.filename), ["copy of b"]);
  const long = new Ring();
  long.add("long", Array.from({ length: 500 }, (_, n) => `line number ${n}`).join("\n"), 300);
  assert.match(long.others("")[0].text, /^line number 268\n/);
});

test("secrets are never sent", () => {
  for (const path of [".env", "a/.env.local", "/home/u/.ssh/config", "x/server.key", "C:\\u\\.aws\\credentials", "id_ed25519", "prod.tfvars", "k8s/secrets.yaml", ".npmrc", "/root/.kube/config"]) assert.ok(secret(path), path);
  for (const path of ["environment.py", "src/keys.py", "monkey.js", "secretary.ts", "env.py", "credentials_test.go"]) assert.ok(!secret(path), path);
});

test("a word is white space and what belongs together", () => {
  assert.deepEqual(["  größe = 1", "(x)", "\n    return", "naïve"].map(wordOf), ["  größe", "(", "\n    return", "naïve"]);
});

test("a server's refusals are one line each", async () => {
  const answers = { "/401/v1/models": [401, '{"error": {"message": "the key is missing"}}'], "/html/v1/models": [200, "<html>"], "/429/v1/models": [429, '{"error": {"message": "slow down"}}'], "/502/v1/models": [502, "<h1>Bad Gateway"] };
  const server = http.createServer((request, response) => {
    const [status, body] = answers[request.url];
    response.writeHead(status, { "Retry-After": status === 429 ? "7" : "" });
    response.end(body);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${server.address().port}`;
  const refusal = (path, base = url) => new Client({ url: base + path }).card().then(assert.fail, (problem) => problem);
  assert.equal((await refusal("/401")).message, "the key is missing");
  assert.equal((await refusal("/429")).wait, 7);
  assert.match((await refusal("/html")).message, /no JSON/);
  assert.match((await refusal("/502")).message, /answered 502/);
  server.close();
  assert.match((await refusal("", "http://127.0.0.1:9")).message, /^no answer from http:\/\/127\.0\.0\.1:9: /);
});
