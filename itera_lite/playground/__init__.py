"""The playground: page, engine and perhaps a model as one HTML file that needs no network.

The sources are plain ES modules in this folder. They are joined without a bundler: a module may
export only declarations, and import names from the modules beside it; `bundle` checks that.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from functools import lru_cache
from importlib.resources import files
from string import Template

from itera_lite.errors import IteraError, ModelFileError
from itera_lite.files import gzipped

_IMPORT = re.compile(r'^import \{[\w\s,]+\} from "\./([\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let)\b)", re.MULTILINE)
_LEFT_OVER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


def page(model: bytes | None, name: str = "model.gguf") -> bytes:
    """The page as one HTML file in UTF-8, which opens from a disk or any web host.

    Args:
        model: a GGUF file, compressed or not, to be inside; it is compressed where that is
            smaller. Without one, the page asks for a file.
        name: of the model's file, as the page shows it.

    Raises:
        ModelFileError: the model is no GGUF file.
    """
    if model is not None and not model.startswith((b"GGUF", b"\x1f\x8b")):
        raise ModelFileError(f"'{name}' is no GGUF file: expected one, .gguf or .gguf.gz")
    script, style = bundle("page.js"), _source("style.css")
    policy = (
        f"default-src 'none'; script-src 'wasm-unsafe-eval' '{_hash(script)}'; "
        f"style-src '{_hash(style)}'; worker-src blob:; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    text = Template(_source("index.html")).substitute(
        policy=policy,
        style=style,
        script=script,
        worker=bundle("worker.js"),
        engine=_base64(gzipped(_binary("itera.wasm"))),
        model="" if model is None else _base64(smallest(model)),
        name=html.escape(name),
        bytes=0 if model is None else len(model),
    )
    return text.encode()


@lru_cache(maxsize=1)  # compressing takes a second, and a command asks for the size too
def smallest(model: bytes) -> bytes:
    """The file as it is, or compressed if that is smaller."""
    return model if model.startswith(b"\x1f\x8b") else min(model, gzipped(model), key=len)


def bundle(entry: str) -> str:
    """A module and all that it imports as one module, each before those that import it.

    Raises:
        IteraError: an import or export of another form, or text that would end the script.
    """
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in parts:
            return
        parts[name] = ""  # begun: modules that import each other have no order, and need none
        source = _source(name)
        for imported in _IMPORT.findall(source):
            add(imported)
        joined = _EXPORT.sub("", _IMPORT.sub("", source))
        if wrong := _LEFT_OVER.search(joined):
            raise IteraError(
                f"playground/{name}: '{wrong[0]}' can't be joined: expected declarations after "
                "`export`, and names imported from a module beside it"
            )
        if re.search(r"</script|<!--", joined, re.IGNORECASE):
            raise IteraError(f"playground/{name} holds text that would end the page's script")
        del parts[name]
        parts[name] = joined  # after what it imports

    add(entry)
    return "\n" + "\n".join(parts.values())


def _source(name: str) -> str:
    return _binary(name).decode("utf-8")


def _binary(name: str) -> bytes:
    return files("itera_lite.playground").joinpath(name).read_bytes()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _hash(text: str) -> str:
    """The source of a script or style in a Content-Security-Policy."""
    return "sha256-" + _base64(hashlib.sha256(text.encode()).digest())
