"""Writes BUILD, the Bazel file, anew from the sources: `make build-file`.

One target for each room of dpf_tf (a module, or a folder of modules) and for each other
file; deps are what the sources import. The result depends on the sources alone.
tests/test_build_file.py checks BUILD without the help of this program.
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("dpf_tf", "official_models", "examples", "benchmarks", "tests", "tools")

# Distributions whose name is not that of the package that they install.
DISTRIBUTIONS = {"PIL": "pillow", "absl": "absl_py", "sklearn": "scikit_learn"}
# These read files of the checkout, or start processes in it: they are for `make test`.
NEEDS_CHECKOUT = {
    "tests/test_build_file",
    "tests/test_distribution",
    "tests/test_docs",
    "tests/test_examples",
    "tests/test_import",
    "tests/test_input_pipelines",
    "tests/test_official_distribution",
    "tests/test_packaging",
    "tests/test_saving",
    "tests/test_schedules",
    "tests/test_train_program",
}

HEADER = '''\
"""Bazel targets of dpf_tf. Made by `make build-file`; do not edit.

For a workspace that has rules_python 1.3 or newer and a pip hub named `pypi`.
"""

load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:private"])

licenses(["notice"])

exports_files(["LICENSE"])
'''


def target_of(path: str) -> str:
    """Returns the name of the target that holds a source file."""
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    if parts[0] == "dpf_tf":
        parts = parts[:2]  # A folder in dpf_tf is one room.
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return "/".join(parts)


def imported_modules(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Yields (module, name imported from it or None), lazy imports included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: import from the full path")
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            # importlib.import_module("x") and pytest.importorskip("x")
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            argument = node.args[0]
            if (
                name in ("import_module", "importorskip")
                and isinstance(argument, ast.Constant)
                and isinstance(argument.value, str)
            ):
                yield argument.value, None


def source_of(module: str) -> str | None:
    """Returns the source file of a module of this repository, or None."""
    stem = module.replace(".", "/")
    for path in (f"{stem}.py", f"{stem}/__init__.py"):
        if (ROOT / path).is_file():
            return path
    return None


def label(module: str, name: str | None) -> str | None:
    """Returns the label of the target that an import needs; None: Python itself."""
    top = module.split(".")[0]
    if top in FOLDERS:
        path = source_of(f"{module}.{name}") if name else None
        path = path or source_of(module)
        if path is None:
            wanted = f"{module}.{name}" if name else module
            raise ValueError(f"no source file for the import of {wanted}")
        return f":{target_of(path)}"
    if top == "__future__" or top in sys.stdlib_module_names:
        return None
    return f"@pypi//{DISTRIBUTIONS.get(top, top.lower())}"


def has_main(tree: ast.Module) -> bool:
    """Tells a program from a library by its `if __name__ == "__main__"`."""
    return any(
        isinstance(node, ast.If) and "'__main__'" in ast.unparse(node.test)
        for node in tree.body
    )


def format_list(values: list[str]) -> str:
    """Formats a list as buildifier does."""
    if len(values) == 1:
        return f'["{values[0]}"]'
    return "[\n" + "".join(f'        "{value}",\n' for value in values) + "    ]"


def format_target(name: str, paths: list[str]) -> str:
    """Returns the text of one target."""
    trees = {path: ast.parse((ROOT / path).read_text("utf-8"), path) for path in paths}
    labels = set()
    for path, tree in trees.items():
        try:
            labels |= {label(*imported) for imported in imported_modules(tree)}
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    is_test = name.startswith("tests/test_")
    if is_test:
        # pytest runs the file, and finds conftest.py and its settings by itself.
        labels |= {":tests", ":tests/conftest", "@pypi//pytest"}
    labels -= {None, f":{name}"}

    is_program = not is_test and len(paths) == 1 and has_main(trees[paths[0]])
    attributes: dict[str, str] = {"srcs": format_list(paths)}
    if is_test:
        kind = "py_test"
        attributes["args"] = format_list([f"$(location {paths[0]})"])
        attributes["data"] = format_list(["pyproject.toml"])
        attributes["main_module"] = '"pytest"'
        if name in NEEDS_CHECKOUT:
            attributes["tags"] = format_list(["manual"])
    elif is_program:
        kind = "py_binary"
        attributes["main"] = f'"{paths[0]}"'
    else:
        kind = "py_library"
    if name == "dpf_tf":
        attributes["data"] = format_list(["dpf_tf/py.typed"])
        attributes["visibility"] = format_list(["//visibility:public"])
    if labels:
        attributes["deps"] = format_list(sorted(labels, key=lambda x: (x[0] != ":", x)))

    order = (
        "srcs",
        "args",
        "data",
        "main",
        "main_module",
        "tags",
        "visibility",
        "deps",
    )
    lines = [f'    name = "{name}",\n']
    lines += [f"    {key} = {attributes[key]},\n" for key in order if key in attributes]
    return f"{kind}(\n{''.join(lines)})\n"


def build_file() -> str:
    """Returns the text of BUILD for the present sources."""
    targets: dict[str, list[str]] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT).as_posix()
            targets.setdefault(target_of(relative), []).append(relative)
    return "\n".join([HEADER, *(format_target(*item) for item in targets.items())])


if __name__ == "__main__":
    try:
        text = build_file()
    except ValueError as error:
        sys.exit(str(error))
    (ROOT / "BUILD").write_text(text, encoding="utf-8")
