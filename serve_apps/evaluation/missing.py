"""What a program's words say is not installed, and how to install it."""

import re
from collections.abc import Callable

_PIP = {"sklearn": "scikit-learn", "cv2": "opencv-python", "yaml": "pyyaml", "PIL": "pillow"}
_HEADERS = {"boost": "apt-get install libboost-dev", "openssl": "apt-get install libssl-dev"}
_GO = {"github.com/stretchr/testify/assert": "apt-get install golang-github-stretchr-testify-dev"}
_MESSAGES: tuple[tuple[str, Callable[[str], str]], ...] = (
    (r"No module named '([\w.]+)'", lambda name: f"pip install {_PIP.get(name.split('.')[0], name.split('.')[0])}"),
    (
        r"fatal error: ([\w./+-]+): No such file",
        lambda name: _HEADERS.get(name.split("/")[0], "the package that has this header"),
    ),
    (r"Cannot find module '([\w@./-]+)'", lambda name: f"npm install --global {name}"),
    (
        r"(?:no required module provides package|cannot find package) \"?([\w./-]+)",
        lambda name: _GO.get(name, "its source below /usr/share/gocode/src"),
    ),
    (r"can't find crate for `(\w+)`", lambda name: f"the crate {name}"),
    (r"(?:unresolved import|unlinked crate|undeclared crate or module) `(\w+)", lambda name: f"the crate {name}"),
    (r"Can't locate ([\w/]+\.pm)", lambda name: f"cpan {name.removesuffix('.pm').replace('/', '::')}"),
    (r"module '([\w.]+)' not found", lambda name: f"luarocks install {name}"),
    (r"cannot load such file -- ([\w/]+)", lambda name: f"gem install {name.replace('/', '-')}"),
    (r"package ([\w.]+) does not exist", lambda name: f"the Java package {name}"),
)


def missing(words: str) -> str | None:
    """``NAME is not installed; REMEDY`` of the first complaint of that kind; None without one."""
    for pattern, remedy in _MESSAGES:
        found = re.search(pattern, words)
        if found is not None:
            return f"{found.group(1)} is not installed; {remedy(found.group(1))}"
    return None
