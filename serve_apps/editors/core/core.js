// What the plugins of VS Code and JupyterLab share, with no editor in it: windows of text, answers that are known,
// pieces of other files, and the wire. Offsets are in UTF-16 units, as those editors count.
"use strict";

const AHEAD = 8192; // units before the cursor that are sent
const BEHIND = 2048; // and after it
const GRID = 1024; // a window begins at a multiple of it: while somebody types on, the server's cache knows its beginning
const LINE_SEARCH = 256;
const FAILED_SECONDS = 2; // after a failure of the network nobody is asked of itself for so long
const ANSWER_SECONDS = 30;

/** The text around an offset, `{ prefix, suffix }`: from a line's beginning where one is near, no surrogate pair split. */
function windowAt(text, offset, ahead = AHEAD, behind = BEHIND) {
  let from = Math.max(0, offset - ahead);
  if (from > 0) {
    from = Math.min(offset, Math.ceil(from / GRID) * GRID);
    const line = text.indexOf("\n", from - 1) + 1;
    if (line > 0 && line - from <= LINE_SEARCH && line <= offset) from = line;
  }
  let to = Math.min(text.length, offset + behind);
  if (from > 0 && from < offset && isLow(text[from]) && isHigh(text[from - 1])) from += 1;
  if (to < text.length && isLow(text[to]) && isHigh(text[to - 1])) to -= 1;
  // half a pair of the document's own is no text that can be sent
  return { prefix: text.slice(from, offset).toWellFormed?.() ?? text.slice(from, offset), suffix: text.slice(offset, to).toWellFormed?.() ?? text.slice(offset, to) };
}

const isHigh = (unit) => unit >= "\uD800" && unit <= "\uDBFF";
const isLow = (unit) => unit >= "\uDC00" && unit <= "\uDFFF";

/** How many lines fit: one where code stands behind the cursor, `most` where only closing marks or nothing do. */
function linesFor(suffix, most) {
  return /^[\s\])}"'`;:,]*$/.test(suffix.split("\n", 1)[0]) ? most : 1;
}

/** An answer without what stands behind the cursor already, and at most `lines` lines. */
function trimmed(answer, suffix, lines = Infinity) {
  let made = answer.replace(/\r\n?/g, "\n").trimEnd().split("\n");
  if (Number.isFinite(lines)) made = made.slice(0, lines);
  const [rest, ...following] = suffix.split("\n");
  const next = following.find((line) => line.trim());
  const repeated = next === undefined ? -1 : made.findIndex((line, n) => n > 0 && line === next);
  if (repeated > 0) made = made.slice(0, repeated);
  let text = made.join("\n").trimEnd();
  for (const tail of [rest, rest.trim()]) if (tail.trim() && text.endsWith(tail)) return text.slice(0, text.length - tail.length);
  return text;
}

/** A word of a suggestion, as `accept word` takes it: white space and what belongs together. */
function wordOf(text) {
  return /^\s*(?:[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]+)/u.exec(text)?.[0] ?? text;
}

/** Answers by what stood around the cursor. Who types an answer's first characters finds the rest of it. */
class Cache {
  constructor(size = 200) {
    this.size = size;
    this.known = new Map();
  }

  put(prefix, suffix, answer) {
    const key = Cache.key(prefix, suffix);
    this.known.delete(key);
    this.known.set(key, answer);
    if (this.known.size > this.size) this.known.delete(this.known.keys().next().value);
  }

  /** `{ id, text }` with what is left of a known answer, or undefined. */
  get(prefix, suffix) {
    for (let typed = 0; typed <= Math.min(100, prefix.length); typed++) {
      const answer = this.known.get(Cache.key(prefix.slice(0, prefix.length - typed), suffix));
      if (answer !== undefined && answer.text.startsWith(prefix.slice(prefix.length - typed)) && (typed === 0 || answer.text.length > typed)) {
        return { ...answer, text: answer.text.slice(typed) };
      }
    }
    return undefined;
  }

  static key(prefix, suffix) {
    return `${prefix.slice(-500)}\u0000${suffix.slice(0, 200)}`;
  }
}

/** Pieces of files that were lately open or edited, the oldest first: what changes least stays a prefix that is known. */
class Ring {
  constructor(size = 16, lines = 64, least = 40) {
    Object.assign(this, { size, lines, least, pieces: [] });
  }

  /** Remember the lines around `line` of a file. A file's old piece goes; so does one that is nearly the same. */
  add(filename, text, line = 0) {
    const all = text.split("\n");
    const from = Math.max(0, Math.min(line - this.lines / 2, all.length - this.lines));
    const kept = windowAt(all.slice(from, from + this.lines).join("\n"), 0, 0, 8192).suffix;
    if (kept.trim().length < this.least) return;
    const words = new Set(kept.split(/\W+/));
    this.pieces = this.pieces.filter((one) => one.filename !== filename && !Ring.alike(one.words, words));
    this.pieces.push({ filename, text: kept, words });
    if (this.pieces.length > this.size) this.pieces.shift();
  }

  /** What is sent with a request from `filename`. */
  others(filename) {
    return this.pieces.filter((one) => one.filename !== filename).map(({ filename: name, text }) => ({ filename: name, text }));
  }

  static alike(a, b) {
    let both = 0;
    for (const word of a) if (b.has(word)) both += 1;
    return both / (a.size + b.size - both) > 0.9;
  }
}

const SECRET = /(^|[\\/])(\.env([.-][^\\/]*)?|\.envrc|\.netrc|_netrc|\.npmrc|\.pypirc|\.git-credentials|\.pgpass|\.htpasswd|\.authinfo[^\\/]*|credentials(\.\w+)?|secrets?\.(ya?ml|json|toml|ini|env|tfvars)|id_(rsa|dsa|ecdsa|ed25519)[^\\/]*|[^\\/]*\.(pem|key|p12|pfx|kdbx|gpg|asc|jks|keystore|tfvars|tfstate))$|(^|[\\/])\.(ssh|gnupg|aws|kube|docker)[\\/]/i;

/** Whether a file's text is never sent: neither to be completed nor as context of others. */
const secret = (path) => SECRET.test(path);

/** Why a request failed, as one line; `status` is 0 where there was no answer, `wait` how many seconds to stay away. */
class Refusal extends Error {
  constructor(message, status = 0, wait = 0) {
    super(message);
    Object.assign(this, { status, wait });
  }
}

/** A server. `fetcher` is the editor's own fetch, which knows its proxies and certificates; `key` may be empty. */
class Client {
  constructor({ url, model = "", key = "", fetcher = fetch, name = "core" }) {
    Object.assign(this, { url: url.replace(/\/+$/, ""), model, key, fetcher, name });
  }

  /** The answer's Response; Refusal unless it is one of 2xx. */
  async ask(path, body, signal) {
    const headers = { "X-Starloom-Client": this.name, ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), ANSWER_SECONDS * 1000);
    const given = () => late.abort();
    signal?.addEventListener("abort", given);
    let response;
    try {
      response = await this.fetcher(this.url + path, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body), signal: late.signal });
    } catch (problem) {
      if (signal?.aborted) throw problem;
      const why = late.signal.aborted ? `nothing within ${ANSWER_SECONDS} seconds` : (problem.cause?.message || problem.cause?.code || problem.message);
      throw new Refusal(`no answer from ${this.url}: ${why}`, 0, FAILED_SECONDS);
    } finally {
      clearTimeout(timer);
      if (!response) signal?.removeEventListener("abort", given);
    }
    if (response.ok) return response;
    const told = await response.json().catch(() => undefined);
    const message = told?.error?.message ?? told?.error ?? told?.detail ?? `${this.url} answered ${response.status} ${response.statusText}`.trim();
    const wait = Number(response.headers.get("Retry-After")) || (response.status >= 500 ? FAILED_SECONDS : 0);
    throw new Refusal(String(message), response.status, wait);
  }

  /** JSON of an answer; a proxy's page of HTML is a Refusal too. */
  async json(path, body, signal) {
    const response = await this.ask(path, body, signal);
    return response.json().catch((problem) => {
      if (signal?.aborted) throw problem;
      throw new Refusal(`${this.url}${path} answered no JSON; is this address a Starloom server's?`, response.status, FAILED_SECONDS);
    });
  }

  /** `{ id, text }` for the gap of a window. Aborting the signal ends the work on the server. */
  async complete({ prefix, suffix, language, path, others }, { signal, maxTokens = 96, lines }) {
    const body = { prompt: prefix, suffix, max_tokens: maxTokens, temperature: 0, max_lines: lines, filepath: path, language, extra_context: others };
    const told = await this.json("/v1/completions", { ...body, ...(this.model ? { model: this.model } : {}) }, signal);
    const text = told?.choices?.[0]?.text;
    if (typeof text !== "string") throw new Refusal(`${this.url} answered no completion; is this address a Starloom server's?`, 200, FAILED_SECONDS);
    return { id: told.id ?? "", text };
  }

  /** Pieces of a chat's answer as they come. */
  async *chat(messages, { signal, maxTokens = 1024 }) {
    const response = await this.ask("/v1/chat/completions", { messages, max_tokens: maxTokens, stream: true, ...(this.model ? { model: this.model } : {}) }, signal);
    const reader = response.body.getReader(), decoder = new TextDecoder();
    for (let held = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (held + decoder.decode(value, { stream: true })).split("\n\n");
      held = events.pop();
      for (const event of events.filter((one) => one.startsWith("data: ") && one !== "data: [DONE]")) {
        const told = JSON.parse(event.slice(6));
        if (told.error) throw new Refusal(told.error.message, 200);
        yield told.choices[0]?.delta?.content ?? "";
      }
    }
  }

  /** The server's card of the model that is asked. */
  async card(signal) {
    const told = await this.json("/v1/models", undefined, signal);
    return told.data.find((one) => one.id === this.model) ?? told.data[0];
  }

  /** What of a text stands in the model's training data: `[{ start, end, label, license, files }]`. */
  async attributions(text, signal) {
    const told = await this.json("/overlap", { document: text, offsets: "utf-16" }, signal);
    return told.matches.map(({ span, kind, count, files, licenses }) => {
      const names = Object.keys(licenses);
      const license = names.filter((name) => name !== "none").join(", ") || "no licence stated";
      const [first] = files;
      const lines = first?.lines ? `, lines ${first.lines[0]}-${first.lines[1]}` : "";
      const where = first ? `${first.repository} ${first.path}${lines}` : "the training data";
      const more = count > 1 ? ` and ${count - 1} more` : "";
      const how = kind === "exact" ? "" : ` but for ${{ white_space: "white space", comments: "comments", renamed: "names" }[kind] ?? kind}`;
      return { start: span[0], end: span[1], license, files, label: `stands in the training data${how}: ${where} (${license})${more}` };
    });
  }

  /** Tell what became of a completion: its id, the client and a number of characters, never a text. */
  event(type, id, characters, language) {
    return this.ask("/v1/events", { type, completion_id: id, characters, language }).catch(() => undefined);
  }
}

module.exports = { AHEAD, Cache, Client, Refusal, Ring, linesFor, secret, trimmed, windowAt, wordOf };
