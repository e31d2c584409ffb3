"""The plugins as files that editors install, made from their sources here: no registry, no node.

Every package has the same bytes each time that it is made.
"""

import gzip
import io
import json
import re
import shutil
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

from starloom.errors import UserError

HERE: Final = Path(__file__).parent
EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_REQUIRED = re.compile(r'require\("\./(\w+)\.js"\)')


@cache
def vsix() -> bytes:
    """VS Code's package."""
    folder = HERE / "vscode"
    described = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    return _zipped(
        {
            "[Content_Types].xml": _CONTENT_TYPES,
            "extension.vsixmanifest": _manifest(described),
            "extension/package.json": (folder / "package.json").read_text(encoding="utf-8"),
            "extension/README.md": (folder / "README.md").read_text(encoding="utf-8"),
            "extension/extension.js": extension_script(),
        }
    )


def extension_script() -> str:
    """VS Code's extension as one file: a browser's extension host loads no other."""
    return bundled((HERE / "vscode" / "extension.js").read_text(encoding="utf-8"))


def jupyter_script() -> str:
    """JupyterLab's extension as one file."""
    return bundled((HERE / "jupyter" / "labextension" / "plugin.js").read_text(encoding="utf-8"))


def bundled(text: str) -> str:
    """A script with the modules that it requires from here put in their places."""

    def module(name: str) -> str:
        found = next((HERE / folder / f"{name}.js" for folder in ("core", "vscode") if _is_there(folder, name)), None)
        assert found is not None, f"no module {name}"
        script = found.read_text(encoding="utf-8")
        return f"(() => {{\nconst module = {{ exports: {{}} }};\n{script}\nreturn module.exports;\n}})()"

    return _REQUIRED.sub(lambda match: module(match[1]), text)


def _is_there(folder: str, name: str) -> bool:
    return (HERE / folder / f"{name}.js").is_file()


def wheel_name() -> str:
    """Of JupyterLab's package, before it is made."""
    project = tomllib.loads((HERE / "jupyter" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['name'].replace('-', '_')}-{project['version']}-py3-none-any.whl"


@cache
def wheel() -> bytes:
    """JupyterLab's package.

    Raises:
        UserError: hatchling is not installed.
    """
    try:
        from hatchling.builders.wheel import WheelBuilder
    except ImportError:
        raise UserError("the wheel for JupyterLab is made by hatchling; pip install 'starloom[serve]'") from None
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "jupyter"
        shutil.copytree(HERE / "jupyter", copy, ignore=shutil.ignore_patterns("__pycache__", "static"))
        (copy / "labextension" / "static").mkdir()
        (copy / "labextension" / "static" / "remoteEntry.js").write_text(jupyter_script(), encoding="utf-8")
        (copy / "labextension" / "plugin.js").unlink()
        (made,) = WheelBuilder(str(copy)).build(directory=work, versions=["standard"])
        return Path(made).read_bytes()


@cache
def vim_archive() -> bytes:
    """The plugin of Vim and Neovim as a .tar.gz, to be unpacked into a package's ``start`` folder."""
    files = {f"starloom/{path.relative_to(HERE / 'vim')}": path for path in sorted((HERE / "vim").rglob("*.*"))}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, path in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, 0o644
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    return gzip.compress(packed.getvalue(), mtime=0)


@cache
def emacs_file() -> bytes:
    """The plugin of Emacs, one file."""
    return (HERE / "emacs" / "starloom.el").read_bytes()


def _zipped(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


_CONTENT_TYPES: Final = """<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension=".json" ContentType="application/json"/>
<Default Extension=".js" ContentType="application/javascript"/>
<Default Extension=".md" ContentType="text/markdown"/>
<Default Extension=".vsixmanifest" ContentType="text/xml"/></Types>
"""


def _manifest(described: Mapping[str, object]) -> str:
    """The manifest of an extension, as ``vsce`` writes it from the same package.json."""

    def listed(name: str) -> Iterable[str]:
        values = described[name]
        assert isinstance(values, list)
        return map(str, values)

    engines = described["engines"]
    assert isinstance(engines, dict)
    identity = " ".join(
        f"{name}={quoteattr(str(described[key]))}"
        for name, key in (("Id", "name"), ("Version", "version"), ("Publisher", "publisher"))
    )
    properties = "\n".join(
        f'<Property Id="Microsoft.VisualStudio.Code.{name}" Value={quoteattr(value)}/>'
        for name, value in (("Engine", engines["vscode"]), ("ExtensionKind", ",".join(listed("extensionKind"))))
    )
    return f"""<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
<Metadata><Identity Language="en-US" {identity}/>
<DisplayName>{described["displayName"]}</DisplayName><Description>{described["description"]}</Description>
<Tags>{",".join(listed("keywords"))}</Tags><Categories>{",".join(listed("categories"))}</Categories>
<Properties>{properties}</Properties></Metadata>
<Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation><Dependencies/>
<Assets><Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json" Addressable="true"/>
<Asset Type="Microsoft.VisualStudio.Services.Content.Details" Path="extension/README.md" Addressable="true"/></Assets>
</PackageManifest>
"""
