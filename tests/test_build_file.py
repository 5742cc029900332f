"""BUILD tells the truth about the sources, and rooms import only downward.

BUILD and the sources are read here independently of tools/update_build.py, which writes
BUILD (`make build-file`).
"""

import ast
import graphlib
import pathlib
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("dpf_tf", "official_models", "examples", "benchmarks", "tests", "tools")
RULES = ("py_library", "py_binary", "py_test")
IMPORT_TO_DISTRIBUTION = {
    "PIL": "pillow",
    "absl": "absl_py",
    "sklearn": "scikit_learn",
}
# pytest finds these by itself, without an import in the test.
GIVEN_TO_TESTS = {":tests", ":tests/conftest", "@pypi//pytest"}

# A room imports only from those on earlier lines.
ROOMS = (
    ("arguments", "config", "version"),
    ("feedback",),
    ("threshold",),
    ("threshold_xla",),
    ("allocation",),
    ("schedules", "keras_api"),
    ("prunable", "ranking"),
    ("structures",),
    ("methods",),
    ("settings",),
    ("eligible", "layer_call"),
    ("wrapper",),
    ("graph", "selection"),
    ("copies", "trace"),
    ("kinds",),
    ("carriers", "channels", "constants"),
    ("normalized", "ties"),
    ("batch_norm", "groups", "macs", "momentum", "plan"),
    ("contract", "filter_choice", "gradients", "mask_warnings", "silence"),
    ("masks", "model", "strip", "updater"),
    ("magnitude", "shrink"),
    ("callbacks",),
    ("cost", "text"),
    ("report",),
    ("export",),
    ("__init__",),
)
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}

SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
)


def read_targets(text):
    """Maps the name of each target to its attributes and its rule."""
    targets = {}
    for statement in ast.parse(text).body:
        call = statement.value
        if not isinstance(call, ast.Call) or call.func.id not in RULES:
            continue
        attributes = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        name = attributes.pop("name")
        assert name not in targets, f"two targets are named {name}"
        targets[name] = {"deps": [], **attributes, "rule": call.func.id}
    return targets


TARGETS = read_targets((ROOT / "BUILD").read_text(encoding="utf-8"))
OWNERS = {path: name for name, rule in TARGETS.items() for path in rule["srcs"]}


def module_file(dotted):
    """The source of a module in this repository, if there is one."""
    base = ROOT.joinpath(*dotted.split("."))
    for path in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if path.is_file():
            return path.relative_to(ROOT).as_posix()
    return None


def imports(path):
    """What a source imports at any depth: (files of this repository, outside names)."""
    files, outside = set(), set()

    def add(*candidates):
        top = candidates[-1].partition(".")[0]
        if top in FOLDERS:
            found = [file for file in map(module_file, candidates) if file]
            assert found, f"{path} imports {candidates[-1]}, which does not exist"
            files.add(found[0])
        elif top not in sys.stdlib_module_names:
            outside.add(top)

    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    add(alias.name)
            case ast.ImportFrom(level=0, module=module, names=names):
                for alias in names:
                    add(f"{module}.{alias.name}", module)
            case ast.ImportFrom():
                raise AssertionError(f"{path}:{node.lineno}: a relative import")
            case ast.Call(
                func=ast.Attribute(attr="import_module" | "importorskip")
                | ast.Name(id="import_module" | "importorskip"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                add(name)
    return files, outside


def room(path):
    """The room of a source of dpf_tf; None for other sources."""
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    return parts[1] if parts[0] == "dpf_tf" else None


def test_every_source_is_in_exactly_one_target():
    listed = [path for rule in TARGETS.values() for path in rule["srcs"]]
    assert sorted(listed) == SOURCES, "run `make build-file`"


@pytest.mark.parametrize("name", TARGETS)
def test_deps_are_the_imports(name):
    rule = TARGETS[name]
    expected = set(GIVEN_TO_TESTS) if rule["rule"] == "py_test" else set()
    for path in rule["srcs"]:
        files, outside = imports(path)
        expected |= {f":{OWNERS.get(file, file)}" for file in files}
        expected |= {
            "@pypi//" + IMPORT_TO_DISTRIBUTION.get(package, package.lower())
            for package in outside
        }
    expected.discard(f":{name}")
    assert len(set(rule["deps"])) == len(rule["deps"])
    assert set(rule["deps"]) == expected, "run `make build-file`"


def test_rules_fit_their_sources():
    for name, rule in TARGETS.items():
        is_test = pathlib.PurePosixPath(name).name.startswith("test_")
        assert (rule["rule"] == "py_test") == is_test, name
        if is_test:
            assert rule["args"] == [f"$(location {path})" for path in rule["srcs"]]
        if rule["rule"] == "py_binary":
            assert rule["srcs"] == [rule["main"]], name


def test_targets_depend_on_each_other_without_cycle():
    graph = {
        f":{name}": [label for label in rule["deps"] if label.startswith(":")]
        for name, rule in TARGETS.items()
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert sorted(order) == sorted(graph)


@pytest.mark.parametrize("path", [path for path in SOURCES if room(path)])
def test_rooms_import_only_downward(path):
    here = room(path)
    assert here in LEVELS, f"{path}: give its room a place in ROOMS"
    upward = [
        file
        for file in imports(path)[0]
        if room(file) != here
        and (room(file) is None or LEVELS[room(file)] >= LEVELS[here])
    ]
    assert not upward


def test_library_does_not_import_its_users():
    for path in SOURCES:
        if path.startswith(("dpf_tf/", "official_models/", "examples/")):
            files, _ = imports(path)
            assert not [file for file in files if file.startswith(("tests/", "tools/"))]


def test_make_build_file_would_change_nothing():
    program = runpy.run_path(str(ROOT / "tools" / "update_build.py"))
    assert (ROOT / "BUILD").read_text(encoding="utf-8") == program["build_file"]()
