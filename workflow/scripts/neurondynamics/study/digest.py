"""A digest of the code that a rule runs, so that a change of code reruns the rules that use it."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

PACKAGE = "neurondynamics"
# what every script needs around its work, and no result depends on
AROUND = ("neurondynamics/runtime.py",)


def code_digest(script: str, root: str | Path) -> str:
    """Digest a script and the library modules that it imports, directly or through one another.

    `root` is the folder of the scripts, in which the library lies; `script` is a path in it,
    without its ending. Comments, docstrings and formatting do not count: only a change of code
    changes the digest.
    """
    digest = hashlib.sha256()
    for module, code in sorted(modules_of(f"{script}.py", root).items()):
        if module.as_posix() not in AROUND:
            digest.update(f"{module.as_posix()}\n{code}\n".encode())
    return digest.hexdigest()[:16]


def modules_of(script: str | Path, root: str | Path) -> dict[Path, str]:
    """Return a script and all library modules that it imports, as paths in `root`, with their code.

    Comments and docstrings are left out.
    """
    root = Path(root).resolve()
    modules: dict[Path, str] = {}
    waiting = {root / script}
    while waiting:
        module = waiting.pop()
        if module.relative_to(root) not in modules:
            seen = module.stat()
            imported, code = _read_code(module, seen.st_mtime_ns, seen.st_size)
            modules[module.relative_to(root)] = code
            waiting |= _module_files(imported, root)
    return modules


@functools.cache  # scripts share modules, and every cluster job digests all scripts
def _read_code(module: Path, changed: int, size: int) -> tuple[frozenset[str], str]:
    """Return the names of what code may import of this package, and the code without docstrings.

    The code is that of a file as it was `changed` last.
    """
    tree = ast.parse(module.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return frozenset(name for name in names if name.split(".")[0] == PACKAGE), ast.unparse(tree)


def _module_files(names: Iterable[str], root: Path) -> set[Path]:
    """Return the files of the modules among some names of this package."""
    bases = (os.path.join(root, *name.split(".")) for name in names)
    candidates = (base + end for base in bases for end in (".py", f"{os.sep}__init__.py"))
    return {Path(candidate) for candidate in candidates if os.path.isfile(candidate)}
