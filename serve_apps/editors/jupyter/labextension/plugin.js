// A module-federation container written by hand, as JupyterLab loads it: init(scope), then get("./extension").
(() => {
  "use strict";
  const core = require("./core.js");
  const LARGEST = 4 << 20;
  let scope;

  /** A module that JupyterLab shares, as it loaded it itself. */
  async function shared(name) {
    const versions = Object.values(scope[name]);
    return (await (versions.find((one) => one.loaded) ?? versions[0]).get())();
  }

  /** Inline completions of files and cells; `tell` shows the server's last word. */
  class Provider {
    constructor(client, tell) {
      Object.assign(this, { client, tell, name: "Starloom", identifier: "starloom", cache: new core.Cache(), resting: 0, last: "", settings: {} });
    }

    // JupyterLab asks where text follows on the line only with autoFillInMiddle, and waits only debouncerDelay
    get schema() {
      return {
        properties: {
          maxTokens: { title: "Most tokens", type: "number" },
          lines: { title: "Most lines", type: "number" },
          attribution: { title: "Look accepted suggestions up", type: "boolean" },
        },
        default: { enabled: true, autoFillInMiddle: true, debouncerDelay: 75, timeout: 10000, maxTokens: 96, lines: 8, attribution: true },
      };
    }

    configure(settings) {
      this.settings = settings;
    }

    async fetch(request, context) {
      this.stopper?.abort(); // a newer request makes the older one useless
      const stopper = (this.stopper = new AbortController());
      const path = context.widget.context?.path ?? "";
      const manual = context.triggerKind === 0;
      if (core.secret(path) || request.text.length > LARGEST || (!manual && (Date.now() < this.resting || /^[\p{L}\p{N}_]/u.test(request.text.slice(request.offset))))) return { items: [] };
      // in a notebook the cells above stand before the prompt
      const above = Provider.above(context.widget.content);
      const { prefix, suffix } = core.windowAt(above + request.text, above.length + request.offset);
      const known = this.cache.get(prefix, suffix);
      if (known) return this.items(known);
      const lines = core.linesFor(suffix, this.settings.lines ?? 8);
      try {
        const told = await this.client.complete({ prefix, suffix, language: request.mimeType?.replace(/^text\/(x-)?/, ""), path, others: [] }, { signal: stopper.signal, maxTokens: this.settings.maxTokens ?? 96, lines });
        const answer = { id: told.id, text: core.trimmed(told.text, suffix, lines) };
        this.cache.put(prefix, suffix, answer);
        this.tell("");
        return this.items(answer);
      } catch (problem) {
        if (stopper.signal.aborted) return { items: [] };
        this.resting = Date.now() + (problem.wait ?? 0) * 1000;
        this.tell(problem.message);
        return { items: [] };
      }
    }

    static above(content) {
      if (!content?.widgets || !(content.activeCellIndex > 0)) return "";
      const cells = content.widgets.slice(0, content.activeCellIndex).filter((cell) => cell.model.type === "code");
      return cells.map((cell) => `${cell.model.sharedModel.getSource()}\n\n`).join("");
    }

    items({ text }) {
      this.last = text;
      return { items: text ? [{ insertText: text }] : [] };
    }
  }

  /** A line at the bottom that says what the server said last. */
  function statusLine(Widget, statusBar) {
    const widget = new Widget();
    for (const name of ["jp-starloom-status", "jp-StatusBar-TextItem"]) widget.addClass(name);
    widget.node.style.lineHeight = "24px";
    statusBar?.registerStatusItem("starloom:status", { item: widget, align: "right", rank: 1 });
    return (problem) => {
      widget.node.textContent = problem ? "⚠ Starloom" : "Starloom";
      widget.node.title = problem || "Nothing is sent but to the server that the notebook server knows";
      widget.node.dataset.problem = problem;
    };
  }

  /** Marks of passages that were found, in an editor of CodeMirror; they move with the text and go when it changes. */
  function marking({ StateEffect, StateField }, { Decoration, EditorView }) {
    const found = StateEffect.define();
    const field = StateField.define({
      create: () => Decoration.none,
      update(marks, change) {
        marks = marks.map(change.changes);
        for (const effect of change.effects) if (effect.is(found)) marks = Decoration.set(effect.value.map((one) => Decoration.mark({ attributes: { title: one.label, class: "jp-starloom-found", style: "text-decoration: underline wavy var(--jp-warn-color1)" } }).range(one.start, one.end)), true);
        return marks;
      },
      provide: (own) => EditorView.decorations.from(own),
    });
    return (view, passages) => {
      const more = view.state.field(field, false) ? [] : [StateEffect.appendConfig.of(field)];
      view.dispatch({ effects: [...more, found.of(passages)] });
    };
  }

  async function plugins() {
    const { ICompletionProviderManager } = await shared("@jupyterlab/completer");
    const { ICommandPalette, Notification } = await shared("@jupyterlab/apputils");
    const { ServerConnection } = await shared("@jupyterlab/services");
    const { URLExt } = await shared("@jupyterlab/coreutils");
    const { INotebookTracker } = await shared("@jupyterlab/notebook");
    const { IEditorTracker } = await shared("@jupyterlab/fileeditor");
    const { IStatusBar } = await shared("@jupyterlab/statusbar");
    const { Widget } = await shared("@lumino/widgets");
    const mark = marking(await shared("@codemirror/state"), await shared("@codemirror/view"));
    const settings = ServerConnection.makeSettings();
    const url = URLExt.join(settings.baseUrl, "starloom");
    const fetcher = (address, init) => ServerConnection.makeRequest(address, init, settings);
    const client = new core.Client({ url, name: "jupyter/0.1.0", fetcher });

    /** Look a part of an editor up, mark and tell what stands in the training data. */
    async function lookUp(editor, from, to, wanted = from) {
      const text = editor.model.sharedModel.getSource();
      const found = (await client.attributions(text.slice(from, to))).map((one) => ({ ...one, start: Math.max(wanted, from + one.start), end: from + one.end })).filter((one) => one.end > wanted);
      mark(editor.editor, found);
      for (const one of found.slice(0, 5)) Notification.warning(`Starloom: "${text.slice(one.start, one.start + 40)}…" ${one.label}`, { autoClose: false });
      return found;
    }

    const shownEditor = (app, notebooks, editors) => (app.shell.currentWidget === notebooks?.currentWidget ? notebooks?.activeCell?.editor : editors?.currentWidget?.content.editor);

    const commands = (app, notebooks, editors, tell) => ({
      "starloom:attribution": {
        label: "Starloom: Where does this code come from?",
        execute: async () => {
          const editor = shownEditor(app, notebooks, editors);
          if (!editor || core.secret(app.shell.currentWidget.context?.path ?? "")) return [];
          const { start, end } = editor.getSelection();
          const [from, to] = [editor.getOffsetAt(start), editor.getOffsetAt(end)].sort((a, b) => a - b);
          try {
            const found = await (from === to ? lookUp(editor, 0, editor.model.sharedModel.getSource().length) : lookUp(editor, from, to));
            if (!found.length) Notification.info("Starloom: nothing of this stands in the training data", { autoClose: 4000 });
            return found;
          } catch (problem) {
            tell(problem.message);
            Notification.error(`Starloom: ${problem.message}`, { autoClose: 8000 });
            return [];
          }
        },
      },
      "starloom:check": {
        label: "Starloom: Ask the server what it serves",
        execute: async () => {
          try {
            const card = await client.card();
            tell("");
            Notification.info(`Starloom: ${card.id}, a window of ${card.max_model_len} tokens, attribution: ${card.attribution ? "yes" : "no"}`, { autoClose: 8000 });
          } catch (problem) {
            tell(problem.message);
            Notification.error(`Starloom: ${problem.message}`, { autoClose: 8000 });
          }
        },
      },
    });

    return [{
      id: "starloom:plugin",
      description: "Completions at the cursor and attribution, by a Starloom server.",
      autoStart: true,
      requires: [ICompletionProviderManager],
      optional: [ICommandPalette, INotebookTracker, IEditorTracker, IStatusBar],
      activate: (app, manager, palette, notebooks, editors, statusBar) => {
        const tell = statusLine(Widget, statusBar);
        tell("");
        const provider = new Provider(client, tell);
        manager.registerInlineProvider(provider);
        for (const [command, work] of Object.entries(commands(app, notebooks, editors, tell))) {
          app.commands.addCommand(command, work);
          palette?.addItem({ command, category: "Starloom" });
        }
        // what is accepted is looked up with the hundred units before it: a copy may begin there
        app.commands.commandExecuted.connect((_, { id }) => {
          const editor = shownEditor(app, notebooks, editors);
          if (id !== "inline-completer:accept" || provider.settings.attribution === false || !editor) return;
          const end = editor.getOffsetAt(editor.getCursorPosition());
          const start = end - provider.last.length;
          if (!provider.last || editor.model.sharedModel.getSource().slice(start, end) !== provider.last) return;
          lookUp(editor, Math.max(0, start - 100), end, start).catch((problem) => problem.status === 404 || tell(problem.message));
        });
      },
    }];
  }

  (window._JUPYTERLAB ??= {}).starloom = {
    init: (given) => { scope = given; },
    get: async (name) => {
      if (name !== "./extension") throw new Error(`no module ${name}`);
      const made = await plugins();
      return () => ({ __esModule: true, default: made });
    },
  };
})();
