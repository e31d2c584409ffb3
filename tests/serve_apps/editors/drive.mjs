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
export async function until(holds, what, seconds = 240) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await new Promise((done) => setTimeout(done, 20))) {
    const found = await holds();
    if (found) return found;
  }
  throw new Error(`never: ${what}`);
}

/** Milliseconds from keys to ghost text, `times` of them; `ask` types what is answered and `away` makes room for the next. */
export async function delays(page, selector, times, ask, away) {
  await page.evaluate((ghost) => {
    window.keyAt = window.ghostAt = 0;
    addEventListener("keydown", () => (window.keyAt = performance.now()), true);
    const look = () => {
      if (!window.ghostAt && document.querySelector(ghost)) window.ghostAt = performance.now();
      requestAnimationFrame(look);
    };
    look();
  }, selector);
  const found = [];
  for (let n = 0; n < times; n++) {
    await page.evaluate(() => (window.ghostAt = 0));
    await ask(n);
    await page.waitForFunction(() => window.ghostAt > window.keyAt);
    found.push(await page.evaluate(() => window.ghostAt - window.keyAt));
    await away(n);
    await page.waitForFunction((ghost) => !document.querySelector(ghost), selector);
  }
  return found;
}

/** The benchmark's figures of one page: delays, requests left at the stub after ten fast keys, requests while typing. */
export async function figures(page, server, selector, type, away) {
  const found = await delays(page, selector, 20, () => type("x = ["), away);
  for (let n = 0; n < 10; n++) await type("slow = ");
  await type("z");
  await page.waitForTimeout(500);
  const stale = (await server.seen()).filter((one) => !one.answered && !one.cancelled).length;
  await page.keyboard.press("Enter");
  await type("x = [");
  await page.locator(selector).first().waitFor();
  const asked = (await server.seen()).length;
  for (const key of "1, 2") {
    await page.waitForTimeout(100);
    await type(key);
  }
  await page.waitForTimeout(500);
  return JSON.stringify([found, stale, (await server.seen()).length - asked]);
}

/** Run steps by their names in one page; those that fail are told with a picture, and the next goes on. */
export async function drive(steps, { viewport = { width: 1300, height: 640 }, pictures = process.env.PICTURES, open }) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
  const context = await browser.newContext({ viewport });
  const page = await context.newPage();
  page.setDefaultTimeout(240000); // however busy the machine is
  if (process.env.NOISE) page.on("console", (message) => console.error(message.text().slice(0, 300)));
  if (pictures) mkdirSync(pictures, { recursive: true });
  let failed = 0;
  try {
    await open(page);
    for (const [name, step] of Object.entries(steps)) {
      const started = Date.now();
      try {
        const told = await step(page, (file) => (pictures ? page.screenshot({ path: `${pictures}/${file}.png` }) : undefined));
        console.log(`ok ${name} (${told ?? `${Date.now() - started} ms`})`);
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
