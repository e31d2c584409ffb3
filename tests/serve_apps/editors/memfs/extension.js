// Files in memory for the tests of VS Code in a browser: a workspace vscode-vfs:/ws with what FILES holds.
"use strict";
const vscode = require("vscode");
const FILES = /*FILES*/ {};

exports.activate = (context) => {
  const files = new Map(Object.entries(FILES).map(([name, text]) => [`/ws/${name}`, new TextEncoder().encode(text)]));
  const changed = new vscode.EventEmitter();
  const missing = (uri) => vscode.FileSystemError.FileNotFound(uri);
  const folder = (path) => path === "/" || path === "/ws";
  context.subscriptions.push(vscode.workspace.registerFileSystemProvider("vscode-vfs", {
    onDidChangeFile: changed.event,
    watch: () => ({ dispose: () => undefined }),
    stat(uri) {
      if (folder(uri.path)) return { type: vscode.FileType.Directory, ctime: 0, mtime: 0, size: 0 };
      if (!files.has(uri.path)) throw missing(uri);
      return { type: vscode.FileType.File, ctime: 0, mtime: 1, size: files.get(uri.path).length };
    },
    readDirectory: () => [...files.keys()].map((path) => [path.slice(4), vscode.FileType.File]),
    readFile(uri) {
      if (!files.has(uri.path)) throw missing(uri);
      return files.get(uri.path);
    },
    writeFile: (uri, content) => void files.set(uri.path, content),
    createDirectory: () => undefined,
    delete: (uri) => void files.delete(uri.path),
    rename: () => undefined,
  }));
};
