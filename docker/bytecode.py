"""Which modules does the container load, and where is their bytecode? Compiles them while the image is built.

Law: the base's own modules are compiled, too, as far as ours import them. Slim images come without bytecode, and a read-only root file
system would have them compiled anew at every start. What is compiled is never checked against its source: neither can change in an image.
"""

# ruff: noqa: INP001  # a script of the Dockerfile, no part of a package
from __future__ import annotations

import contextlib
import importlib
import pkgutil
import py_compile
import sys
from pathlib import Path

LAZY = (
    "anyio._backends._asyncio",
    "asyncio",
    "concurrent.futures.thread",
    "encodings.idna",
    "httpx",
    "locust.main",
    "prometheus_client",
    "ssl",
    "uvloop",
)
"""What a running program loads besides what importing it does."""


def main(lib: Path, bytecode: Path) -> None:
    """Compile everything below ``lib``, and what the package and its programs import from the base, to ``bytecode``."""
    sys.path.insert(0, str(lib))
    sys.pycache_prefix = str(bytecode)
    package = importlib.import_module("loadgen")
    for name in (*LAZY, *(each.name for each in pkgutil.walk_packages(package.__path__, "loadgen."))):
        with contextlib.suppress(ImportError):  # the other extras' packages are not in the image
            importlib.import_module(name)
    loaded = {
        Path(path) for name, module in list(sys.modules.items()) if name != "__main__" and (path := getattr(module, "__file__", None))
    }
    for source in {*lib.rglob("*.py"), *(path for path in loaded if path.suffix == ".py")}:
        py_compile.compile(str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
