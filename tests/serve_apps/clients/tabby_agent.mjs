// tabby-agent, which Tabby's plug-ins of editors are built on: `node tabby_agent.mjs URL` asks it for a completion at the
// end of a file, tells it that somebody took it, and prints what it shows.
import { createRequire } from "node:module";

const { TabbyAgent } = createRequire(import.meta.url)("tabby-agent");
const agent = new TabbyAgent();
const server = { endpoint: process.argv[2], token: "none", requestTimeout: 30000, requestHeaders: {} };
await agent.initialize({ config: { server, anonymousUsageTracking: { disable: true } } });
const text = "def f(x):\n    return x + 1\n\n\ndef g(x):\n    ";
const shown = await agent.provideCompletions(
  { filepath: "/project/f.py", language: "python", text, position: text.length, manually: true },
);
await agent.postEvent({ type: "select", completion_id: shown.id, choice_index: 0 });
console.log(JSON.stringify({ status: agent.getStatus(), shown }));
process.exit(0); // it would look after the server for ever
