// What the tests of VS Code and JupyterLab share: a real browser, steps that are told one a line, the stub's log.
import { mkdirSync } from "node:fs";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/** The stub: what it has seen, and what it shall answer. */
export const stub = (url) => ({
  url,
  seen: async (path = "/v1/completions") => (await (await fetch(`${url}/_seen`)).json()).filter((one) => one.path === path),
  refuse: async (refusal) => void (await fetch(`${url}/_refuse`, { method: "POST", body: JSON.stringify(refusal) })),
  hungUp: async () => (await (await fetch(`${url}/_seen`)).json()).filter((one) => one.cancelled).length,
});

/** Wait until something holds. */
export async function until(holds, what, seconds = 20) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await new Promise((done) => setTimeout(done, 20))) {
    const found = await holds();
    if (found) return found;
  }
  throw new Error(`never: ${what}`);
}

/** Run steps by their names in one page; those that fail are told with a picture, and the next goes on. */
export async function drive(steps, { viewport = { width: 1300, height: 640 }, pictures = process.env.PICTURES, open }) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
  const context = await browser.newContext({ viewport });
  const page = await context.newPage();
  if (process.env.NOISE) page.on("console", (message) => console.error(message.text().slice(0, 300)));
  if (pictures) mkdirSync(pictures, { recursive: true });
  let failed = 0;
  try {
    await open(page);
    for (const [name, step] of Object.entries(steps)) {
      const started = Date.now();
      try {
        await step(page, (file) => (pictures ? page.screenshot({ path: `${pictures}/${file}.png` }) : undefined));
        console.log(`ok ${name} (${Date.now() - started} ms)`);
      } catch (problem) {
        failed += 1;
        console.log(`FAILED ${name}: ${String(problem.stack).slice(0, 1500).replaceAll("\n", " | ")}`);
        if (process.env.FAILURES) await page.screenshot({ path: `${process.env.FAILURES}/${name.replaceAll(/\W+/g, "-")}.png` });
      }
    }
  } finally {
    await browser.close();
  }
  process.exitCode = failed ? 1 : 0;
}

export { assert };
