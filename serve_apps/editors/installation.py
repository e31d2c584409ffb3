"""How each editor gets its plugin from a server, in one line, and what to set then."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serve_apps.editors.packages import emacs_file, vim_archive, vsix, wheel, wheel_name


@dataclass(frozen=True)
class Installation:
    """The lines for one editor: a shell's, and what goes where in its settings."""

    title: str
    shell: str
    where: str
    settings: str
    key: str


def installations(url: str) -> dict[str, Installation]:
    """By the editors' names, for a server's address without a slash at its end."""
    unpacked = f"curl -fsS {url}/editors/starloom-vim.tar.gz | tar xz -C"
    vim, neovim = "~/.vim/pack/starloom/start", "~/.local/share/nvim/site/pack/starloom/start"
    in_vim = ("let g:starloom = {'url': '" + url + "'}", "$STARLOOM_API_KEY, g:starloom.key_command or ~/.netrc")
    return {
        "vscode": Installation(
            "VS Code",
            f"curl -fsSo starloom.vsix {url}/editors/starloom.vsix && code --install-extension starloom.vsix",
            "settings.json",
            f'"starloom.url": "{url}"',
            "the command “Starloom: Set the server's key”",
        ),
        "jupyter": Installation(
            "JupyterLab",
            f"pip install {url}/editors/{wheel_name()}",
            "the environment of the notebook server",
            f"STARLOOM_URL={url}",
            "STARLOOM_API_KEY in the same environment",
        ),
        "vim": Installation("Vim", f"mkdir -p {vim} && {unpacked} {vim}", "~/.vimrc", *in_vim),
        "neovim": Installation("Neovim", f"mkdir -p {neovim} && {unpacked} {neovim}", "init.vim", *in_vim),
        "emacs": Installation(
            "Emacs",
            f"curl -fsSo ~/.emacs.d/starloom.el --create-dirs {url}/editors/starloom.el",
            "~/.emacs.d/init.el",
            f'(load "~/.emacs.d/starloom") (setq starloom-url "{url}") (add-hook \'prog-mode-hook #\'starloom-mode)',
            "auth-source (user “starloom”) or $STARLOOM_API_KEY",
        ),
    }


def packages() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """What a server gives out, by file names: media types and what makes the bytes."""
    return {
        "starloom.vsix": ("application/zip", vsix),
        wheel_name(): ("application/zip", wheel),
        "starloom-vim.tar.gz": ("application/gzip", vim_archive),
        "starloom.el": ("text/plain; charset=utf-8", emacs_file),
    }


EDITORS: Final = ("vscode", "jupyter", "vim", "neovim", "emacs")
