import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def metadata():
    """The arguments with which setup.py calls setup()."""
    setuptools = pytest.importorskip("setuptools")
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", seen.update)
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    return seen


def lower_bounds(requirements):
    return dict(
        re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:,!=[\d.]+)?", line).groups()
        for line in requirements
    )


def release(version):
    """1.26 and 1.26.0 are one version."""
    return re.sub(r"(\.0)+$", "", version)


def test_oldest_constraints_are_the_lower_bounds(metadata):
    lines = (ROOT / "constraints" / "oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = metadata["extras_require"]
    required = metadata["install_requires"] + extras["demo"] + extras["export"]
    bounds = lower_bounds(required)
    assert {name: release(pin) for name, pin in pins.items()} == {
        name: release(bound) for name, bound in bounds.items()
    }


def test_every_requirement_has_a_lower_bound(metadata):
    for extra in metadata["extras_require"].values():
        assert len(lower_bounds(extra)) == len(extra)


def test_every_imported_package_is_required(metadata):
    def names(*lists):
        bounds = (name for lines in lists for name in lower_bounds(lines))
        return {name.lower().replace("-", "_") for name in bounds}

    required = names(metadata["install_requires"])
    extras = names(*metadata["extras_require"].values())
    # The third-party labels in BUILD are the imports, see test_build_file.py.
    for target in (ROOT / "BUILD").read_text().split("\n)\n"):
        imported = set(re.findall(r"@pypi//(\w+)", target))
        package = 'name = "dpf_tf' in target and "dpf_tf/export" not in target
        assert imported <= (required if package else required | extras), target


def test_the_package_imports_nothing_that_only_some_users_have():
    for target in (ROOT / "BUILD").read_text().split("\n)\n"):
        if 'name = "dpf_tf' in target:
            imported = set(re.findall(r"@pypi//(\w+)", target))
            if 'name = "dpf_tf/export"' in target:  # Inside functions only.
                imported -= {"ai_edge_litert", "tensorflow_model_optimization"}
            assert imported <= {"tensorflow", "keras", "tf_keras", "numpy"}, target


def test_version_is_read_without_importing_the_package(metadata):
    version = {}
    exec((ROOT / "dpf_tf" / "version.py").read_text(), version)
    assert metadata["version"] == version["__version__"]


def test_changelog_tells_of_the_version(metadata):
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(.+)\]", changelog, re.MULTILINE).group(1)
    assert newest in ("Unreleased", metadata["version"])


def test_python_versions_are_those_of_the_classifiers(metadata):
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(metadata["classifiers"]))
    assert metadata["python_requires"] == f">={versions[0]}"
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    matrix = re.search(r"^ *python: \[(.*)\]$", workflow, re.MULTILINE).group(1)
    assert re.findall(r'"(.+?)"', matrix) == versions
