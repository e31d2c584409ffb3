// Starloom in VS Code: completions at the cursor, where accepted text stands in the training data, a chat.
// One file for the desktop, remote hosts and the browser: nothing but `vscode` and core.js is required at the top.
"use strict";
const vscode = require("vscode");
const { Cache, Client, Refusal, Ring, linesFor, secret, trimmed, windowAt } = require("./core.js");
const chat = require("./chat.js");

const KEY = "starloom.key";
const TAIL = 100; // units before an accepted text that are looked up with it: a copy may begin there
const EDITORS_OWN = 50; // milliseconds that VS Code waits itself before it asks
const LARGEST = 4 << 20; // documents beyond are no code that somebody types
const ICONS = { idle: "sparkle", busy: "loading~spin", off: "circle-slash", error: "warning" };

function activate(context) {
  const state = { asked: 0, shown: 0, accepted: 0, cancelled: 0, cached: 0, problem: "", card: undefined, key: "" };
  const cache = new Cache();
  const ring = new Ring();
  const passages = new Passages();
  const log = vscode.window.createOutputChannel("Starloom", { log: true });
  const status = vscode.window.createStatusBarItem("starloom", vscode.StatusBarAlignment.Right, 100);
  let resting = 0; // until then nobody is asked of itself
  let latest; // the request that is waited for
  const name = `vscode/${context.extension.packageJSON.version}`;
  const setting = (key, document) => vscode.workspace.getConfiguration("starloom", document).get(key);
  const client = async () => new Client({ url: setting("url"), model: setting("model"), key: (await context.secrets.get(KEY)) ?? "", name });

  function tell(mood, hint) {
    status.text = `$(${ICONS[mood]}) Starloom`;
    status.tooltip = hint ?? `${setting("url")}${state.card ? `: ${state.card.id}` : ""}. ${state.accepted} of ${state.shown} suggestions accepted. Nothing is sent but to that server.`;
    status.command = mood === "error" ? (state.status === 401 ? "starloom.setKey" : "starloom.check") : "starloom.toggle";
    status.name = "Starloom";
    status.show();
  }
  const calm = () => tell(setting("enabled") ? "idle" : "off");

  function failed(problem) {
    state.problem = problem.message;
    state.status = problem.status;
    if (problem instanceof Refusal) resting = Date.now() + problem.wait * 1000;
    tell("error", `Starloom: ${problem.message}${problem.status === 401 ? " Click to set the key." : ""}`);
    log.warn(problem.message);
  }

  const relative = (uri) => vscode.workspace.asRelativePath(uri, false);
  // documents that are never sent, neither by themselves nor as context of others
  const kept = (document) =>
    !["file", "untitled", "vscode-remote", "vscode-notebook-cell", "vscode-vfs"].includes(document.uri.scheme) ||
    secret(document.uri.path) ||
    setting("exclude", document).some((pattern) => vscode.languages.match({ pattern }, document) > 0);
  const off = (document) => !setting("enabled", document) || setting("disabledLanguages", document).includes(document.languageId) || kept(document);

  async function remember(document, line = 0) {
    if (!document || document.uri.scheme === "output" || !setting("otherFiles") || kept(document) || document.lineCount > 20000) return;
    if (await ignored(document.uri)) return;
    ring.add(relative(document.uri), document.getText(new vscode.Range(Math.max(0, line - 64), 0, line + 128, 0)), Math.min(line, 64));
  }

  const provider = {
    async provideInlineCompletionItems(document, position, { triggerKind, selectedCompletionInfo: menu }, token) {
      latest?.abort(); // whatever the editor does with its tokens: a newer question makes the older one useless
      const manual = triggerKind === vscode.InlineCompletionTriggerKind.Invoke;
      if (kept(document) || (!manual && (off(document) || !setting("automatic", document) || Date.now() < resting))) return undefined;
      if (menu && !setting("withMenu")) return undefined;
      const offset = document.offsetAt(position);
      const whole = document.getText();
      if (!manual && /^[\p{L}\p{N}_]/u.test(whole.slice(offset, offset + 2))) return undefined; // in the middle of a word
      if (whole.length > LARGEST || whole.includes("\0")) return undefined;
      // with the menu open, the suggestion goes on from the entry that is chosen there
      const begun = menu ? document.offsetAt(menu.range.start) : offset;
      const { prefix, suffix } = windowAt(whole.slice(0, begun) + (menu?.text ?? "") + whole.slice(offset), begun + (menu?.text.length ?? 0));
      const item = ({ id, text }) => {
        if (!text) return { items: [] };
        const made = new vscode.InlineCompletionItem((menu?.text ?? "") + text, menu?.range ?? new vscode.Range(position, position));
        made.command = { command: "starloom.accepted", title: "", arguments: [id, document.uri, offset, text] };
        return { items: [made] };
      };
      const known = cache.get(prefix, suffix);
      if (known) {
        state.cached += 1;
        return item(known);
      }
      if (!manual) await new Promise((done) => setTimeout(done, Math.max(0, setting("debounce") - EDITORS_OWN)));
      if (token.isCancellationRequested) return undefined;
      const stopper = (latest = new AbortController());
      const heard = token.onCancellationRequested(() => stopper.abort());
      state.asked += 1;
      tell("busy");
      try {
        const lines = linesFor(suffix, setting("lines"));
        const path = relative(document.uri);
        const others = setting("otherFiles") ? ring.others(path) : [];
        const told = await (await client()).complete({ prefix, suffix, language: document.languageId, path, others }, { signal: stopper.signal, maxTokens: setting("maxTokens"), lines });
        const answer = { id: told.id, text: trimmed(told.text, suffix, lines) };
        cache.put(prefix, suffix, answer);
        Object.assign(state, { problem: "", status: 0, shown: state.shown + Boolean(answer.text) });
        calm();
        if (answer.text && setting("tellServer")) (await client()).event("view", told.id, answer.text.length, document.languageId);
        return item(answer);
      } catch (problem) {
        if (stopper.signal.aborted) {
          state.cancelled += 1;
          calm();
        } else failed(problem);
        return undefined;
      } finally {
        heard.dispose();
      }
    },
  };

  /** Look a part of a document up and mark what stands in the training data; the passages found. */
  async function lookUp(document, start, end, wanted = start) {
    const found = (await (await client()).attributions(document.getText(new vscode.Range(document.positionAt(start), document.positionAt(end))))).filter((one) => start + one.end > wanted);
    passages.replace(document, wanted, end, found.map((one) => ({ ...one, start: Math.max(wanted, start + one.start), end: start + one.end })));
    return found;
  }

  const commands = {
    "starloom.toggle": async () => {
      await vscode.workspace.getConfiguration("starloom").update("enabled", !setting("enabled"), vscode.ConfigurationTarget.Global);
      calm();
    },
    "starloom.setKey": async () => {
      const key = await vscode.window.showInputBox({ password: true, prompt: `The key for ${setting("url")}; empty forgets it`, ignoreFocusOut: true });
      if (key === undefined) return;
      await (key ? context.secrets.store(KEY, key.trim()) : context.secrets.delete(KEY));
      resting = 0;
      await commands["starloom.check"]();
    },
    "starloom.check": async () => {
      try {
        state.card = await (await client()).card();
        Object.assign(state, { problem: "", status: 0 });
        resting = 0;
        if (!state.card.infilling) state.problem = `${state.card.id} fills no gaps: what stands behind the cursor is not regarded`;
        await vscode.commands.executeCommand("setContext", "starloom.chat", Boolean(state.card.chat));
        state.problem ? tell("idle", `Starloom: ${state.problem}`) : calm();
      } catch (problem) {
        failed(problem);
      }
      return state.card;
    },
    "starloom.accepted": async (id, uri, offset, text) => {
      state.accepted += 1;
      calm();
      const document = vscode.workspace.textDocuments.find((one) => String(one.uri) === String(uri));
      if (setting("tellServer")) (await client()).event("select", id, text.length, document?.languageId ?? "");
      if (!document || setting("attribution") !== "accepted" || state.card?.attribution === false) return;
      await lookUp(document, Math.max(0, offset - TAIL), offset + text.length, offset).catch((problem) => (problem.status === 404 ? undefined : failed(problem)));
    },
    "starloom.attribution": async () => {
      const editor = vscode.window.activeTextEditor;
      if (!editor || kept(editor.document)) return [];
      const { document, selection } = editor;
      const [start, end] = selection.isEmpty ? [0, document.getText().length] : [document.offsetAt(selection.start), document.offsetAt(selection.end)];
      try {
        const found = await lookUp(document, start, end);
        vscode.window.setStatusBarMessage(`Starloom: ${found.length || "no"} passages of this stand in the training data`, 8000);
        return found;
      } catch (problem) {
        failed(problem);
        return [];
      }
    },
    "starloom.attributions": async () => {
      const entries = passages.all().map((one) => ({ label: one.license, description: one.label, detail: `${relative(one.uri)}:${one.range.start.line + 1}`, one }));
      const chosen = await vscode.window.showQuickPick(entries, { matchOnDescription: true, placeHolder: entries.length ? "Passages of the training data" : "Nothing found so far" });
      if (chosen) await vscode.window.showTextDocument(chosen.one.uri, { selection: chosen.one.range });
    },
    "starloom.clearAttributions": () => passages.clear(),
  };

  context.subscriptions.push(
    log, status, passages.collection,
    vscode.languages.registerInlineCompletionItemProvider({ pattern: "**" }, provider),
    vscode.workspace.onDidChangeTextDocument((event) => passages.edited(event)),
    vscode.workspace.onDidSaveTextDocument((document) => remember(document, vscode.window.activeTextEditor?.document === document ? vscode.window.activeTextEditor.selection.active.line : 0)),
    vscode.workspace.onDidChangeConfiguration((event) => event.affectsConfiguration("starloom") && ((resting = 0), commands["starloom.check"]())),
    vscode.window.registerWebviewViewProvider("starloom.chat", chat.view({ client, maxTokens: () => setting("chatTokens") })),
    ...Object.entries(commands).map(([id, work]) => vscode.commands.registerCommand(id, work)),
  );
  let before = vscode.window.activeTextEditor;
  context.subscriptions.push(vscode.window.onDidChangeActiveTextEditor((editor) => {
    remember(before?.document, before?.selection.active.line); // who leaves a file has just read or edited it
    before = editor;
  }));
  calm();
  commands["starloom.check"]();
  return { state, passages };
}

/** Passages that were found, kept where they are while documents change around them. */
class Passages {
  constructor() {
    this.collection = vscode.languages.createDiagnosticCollection("starloom");
    this.known = new Map(); // by a document's URI: { document, found }
  }

  replace(document, start, end, found) {
    const others = (this.known.get(String(document.uri))?.found ?? []).filter((one) => one.end <= start || one.start >= end);
    this.known.set(String(document.uri), { document, found: [...others, ...found] });
    this.show(document);
  }

  edited({ document, contentChanges }) {
    const known = this.known.get(String(document.uri));
    if (!known || !contentChanges.length) return;
    for (const { rangeOffset: at, rangeLength: length, text } of contentChanges) {
      known.found = known.found.filter((one) => at + length <= one.start || at >= one.end);
      for (const one of known.found) if (at < one.end) (one.start += text.length - length), (one.end += text.length - length);
    }
    this.show(document);
  }

  show(document) {
    this.collection.set(document.uri, this.known.get(String(document.uri)).found.map((one) => {
      const note = new vscode.Diagnostic(this.range(document, one), one.label, vscode.DiagnosticSeverity.Information);
      return Object.assign(note, { source: "Starloom attribution", code: one.license });
    }));
  }

  range(document, { start, end }) {
    return new vscode.Range(document.positionAt(start), document.positionAt(end));
  }

  all() {
    return [...this.known.values()].flatMap(({ document, found }) => found.map((one) => ({ ...one, uri: document.uri, range: this.range(document, one) })));
  }

  clear() {
    this.known.clear();
    this.collection.clear();
  }
}

/** Whether git ignores a file: asked of git itself, where there is one. */
async function ignored(uri) {
  if (typeof process === "undefined" || !process.versions?.node || uri.scheme !== "file") return false;
  const { execFile } = require("child_process");
  const folder = vscode.workspace.getWorkspaceFolder(uri)?.uri.fsPath;
  return folder ? new Promise((done) => execFile("git", ["check-ignore", "-q", uri.fsPath], { cwd: folder }, (problem) => done(!problem))) : false;
}

module.exports = { activate, deactivate: () => undefined };
