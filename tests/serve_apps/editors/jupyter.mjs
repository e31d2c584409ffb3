// JupyterLab with the plugin from its wheel: node jupyter.mjs STUB LAB_URL TOKEN
import { assert, drive, figures, stub, until } from "./drive.mjs";

const [url, lab, token, real] = process.argv.slice(2);
const expected = real && real !== "latency" && JSON.parse(real); // of the real server: what it answers and where that stands
const server = stub(url);
const ghost = (page) => page.locator(".jp-GhostText");
const file = (page) => page.locator(".jp-FileEditor .cm-content");
const cells = (page) => page.locator(".jp-Notebook .jp-CodeCell .cm-content");
const status = (page) => page.locator(".jp-starloom-status");
const text = async (locator) => (await locator.innerText()).replaceAll("\u00a0", " ");

async function open(page, name) {
  await page.goto(`${lab}/lab/tree/${name}?token=${token}&reset`);
  await (name.endsWith(".ipynb") ? cells(page).nth(1) : file(page)).waitFor();
  await status(page).waitFor();
  const dialog = page.locator(".jp-Dialog .jp-mod-accept");
  if (await dialog.count()) await dialog.first().click();
  await (name.endsWith(".ipynb") ? cells(page).nth(1) : file(page)).click();
}

async function command(page, name) {
  await page.keyboard.press("Escape");
  await page.keyboard.press("Control+Shift+C");
  await page.locator(".lm-CommandPalette-input").fill(name);
  await page.locator(".lm-CommandPalette-item", { hasText: name }).first().click();
}

const steps = {
  async "a file: ghost text, Tab, a stale request is ended"(page, picture) {
    await page.keyboard.press("Control+End");
    await page.keyboard.type("    ", { delay: 20 });
    await page.keyboard.press("Alt+\\"); // at a line's beginning JupyterLab asks only when it is told
    await ghost(page).first().waitFor();
    await picture("jupyter-file");
    await page.keyboard.press("Tab");
    await until(async () => /return fib\(n - 1\) \+ fib\(n - 2\)/.test(await text(file(page))), "the suggestion is taken");
    const before = await server.hungUp();
    await page.keyboard.press("Enter");
    await page.keyboard.type("slow = ", { delay: 20 });
    await until(async () => (await server.seen()).at(-1)?.body.prompt.endsWith("slow = "), "it asks");
    await page.keyboard.type("8", { delay: 20 });
    await until(async () => (await server.hungUp()) > before, "it hangs up");
  },
  async "typing through a suggestion asks nobody"(page) {
    await page.keyboard.press("Escape");
    await page.keyboard.press("Control+End");
    await page.keyboard.press("Enter");
    await page.keyboard.type("x = [", { delay: 20 });
    await ghost(page).first().waitFor();
    const asked = (await server.seen()).length;
    await page.keyboard.type("1, 2", { delay: 60 });
    await page.waitForTimeout(400);
    assert.equal((await server.seen()).length, asked);
    await page.keyboard.press("Escape");
  },
  async "refusals are one mark in the status line, and typing goes on"(page) {
    await server.refuse([429, '{"error": {"message": "slow down"}}', {}]);
    await page.keyboard.press("Control+End");
    await page.keyboard.press("Enter");
    await page.keyboard.type("print(", { delay: 20 });
    await until(async () => (await status(page).getAttribute("data-problem")) === "slow down", "told");
    assert.equal(await page.locator(".Toastify__toast", { hasText: "Starloom" }).count(), 0);
    await server.refuse(null);
    await command(page, "Starloom: Ask the server what it serves");
    await page.locator(".Toastify__toast", { hasText: "2048 tokens" }).waitFor();
    assert.equal(await status(page).getAttribute("data-problem"), "");
  },
  async "a notebook: the cells above are context, and an accepted copy is told with its licence"(page, picture) {
    await open(page, "nb.ipynb");
    await page.locator(".jp-StatusBar-TextItem", { hasText: "Idle" }).first().waitFor(); // the kernel tells the language
    await page.waitForTimeout(500);
    await cells(page).nth(1).click();
    await page.keyboard.type("def add(a, b):\nret", { delay: 30 });
    await ghost(page).first().waitFor();
    await picture("jupyter-ghost");
    await page.keyboard.press("Tab");
    await until(async () => /return a \+ b/.test(await text(cells(page).nth(1))), "the suggestion is taken");
    const last = (await server.seen()).at(-1);
    assert.ok(last.body.prompt.includes("seed = 41"));
    assert.equal(last.client, "jupyter/0.1.0");
    await page.keyboard.press("End");
    await page.keyboard.press("Enter");
    await page.keyboard.type("copied = ", { delay: 20 });
    await ghost(page).first().waitFor();
    await page.keyboard.press("Tab");
    const toast = page.locator(".Toastify__toast", { hasText: "MIT" });
    await toast.first().waitFor();
    assert.match(await toast.first().innerText(), /example\/algorithms sort\/quick\.py, lines 12-12/);
    await page.locator(".jp-starloom-found").first().waitFor();
    await page.waitForTimeout(800);
    await picture("jupyter-attribution");
  },
  async "a command looks a cell up"(page) {
    const asked = (await server.seen("/overlap")).length;
    await command(page, "Starloom: Where does this code come from?");
    await until(async () => (await server.seen("/overlap")).length > asked, "it asks");
  },
};

const cancelled = async () => [...(await (await fetch(`${url}/metrics`)).text()).matchAll(/^starloom:cancelled_requests_total.* (\S+)$/gm)].reduce((all, [, count]) => all + Number(count), 0);

const realSteps = {
  async "the real server's answer is shown, taken and found with its licence"(page) {
    await page.keyboard.press("Control+End");
    await page.keyboard.type("x = ", { delay: 20 });
    await ghost(page).first().waitFor();
    await page.keyboard.press("Tab");
    const toast = page.locator(".Toastify__toast", { hasText: "MIT" });
    await toast.first().waitFor();
    assert.ok((await toast.first().innerText()).includes(expected.file));
    const [first] = expected.text.split("\n");
    assert.ok((await text(file(page))).includes(`x = ${first}`.trimEnd().slice(0, 40)), await text(file(page)));
  },
  async "whoever types on is counted by the server"(page) {
    const before = await cancelled();
    await file(page).click();
    await until(async () => {
      await page.keyboard.type("y = 1 + ", { delay: 110 });
      return (await cancelled()) > before;
    }, "a request is cancelled");
  },
};

const latency = {
  async "latency"(page) {
    await page.keyboard.press("Control+End");
    return figures(page, server, ".jp-GhostText", (keys) => page.keyboard.type(keys, { delay: 5 }), async () => {
      await page.keyboard.press("Escape");
      await page.keyboard.press("Enter");
    });
  },
};

await drive(real === "latency" ? latency : expected ? realSteps : steps, { open: (page) => open(page, expected ? "real.py" : "fib.py") });
