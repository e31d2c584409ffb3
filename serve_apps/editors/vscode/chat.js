// A simple chat beside the editor, for models that have learnt to chat.
"use strict";
const vscode = require("vscode");

const PAGE = `<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-NONCE'">
<style>body{display:flex;flex-direction:column;height:97vh;font-family:var(--vscode-font-family)}#said{flex:1;overflow:auto}
.user{opacity:.8;border-left:2px solid var(--vscode-focusBorder);padding-left:6px;margin:8px 0}.assistant{margin:8px 0}.problem{color:var(--vscode-errorForeground)}
div{white-space:pre-wrap;overflow-wrap:anywhere}.assistant{font-family:var(--vscode-editor-font-family)}
textarea{background:var(--vscode-input-background);color:var(--vscode-input-foreground);border:1px solid var(--vscode-input-border,transparent);min-height:4em;font:inherit}</style>
<div id="said"></div><textarea id="text" placeholder="Ask; Enter sends, the selection goes along" aria-label="Message"></textarea>
<script nonce="NONCE">const api=acquireVsCodeApi(),said=document.getElementById("said"),text=document.getElementById("text");let last;
const add=(role,words)=>{last=document.createElement("div");last.className=role;last.textContent=words;said.append(last);last.scrollIntoView()};
text.onkeydown=(key)=>{if(key.key==="Enter"&&!key.shiftKey){key.preventDefault();if(text.value.trim()){add("user",text.value);api.postMessage(text.value);text.value="";add("assistant","")}}
else if(key.key==="Escape")api.postMessage(null)};
window.onmessage=({data})=>{if(data.problem)add("problem",data.problem);else{last.textContent+=data.piece;last.scrollIntoView()}};</script>`;

/** The view; `client` makes a client of the server. */
function view({ client, maxTokens }) {
  return {
    resolveWebviewView(made) {
      const messages = [];
      let stopper;
      made.webview.options = { enableScripts: true };
      const nonce = Array.from({ length: 16 }, () => Math.floor(Math.random() * 36).toString(36)).join("");
      made.webview.html = PAGE.replaceAll("NONCE", nonce);
      made.onDidDispose(() => stopper?.abort());
      made.webview.onDidReceiveMessage(async (words) => {
        stopper?.abort(); // a new question, or Esc: nobody waits for the old answer
        if (words === null) return;
        const mine = (stopper = new AbortController());
        const editor = vscode.window.activeTextEditor;
        const selected = editor && !editor.selection.isEmpty ? `\n\n\`\`\`${editor.document.languageId}\n${editor.document.getText(editor.selection)}\n\`\`\`` : "";
        messages.push({ role: "user", content: words + selected });
        let content = "";
        try {
          for await (const piece of (await client()).chat(messages, { signal: mine.signal, maxTokens: maxTokens() })) {
            content += piece;
            made.webview.postMessage({ piece });
          }
        } catch (problem) {
          if (!mine.signal.aborted) made.webview.postMessage({ problem: problem.message });
        }
        content ? messages.push({ role: "assistant", content }) : messages.pop();
      });
    },
  };
}

module.exports = { view };
