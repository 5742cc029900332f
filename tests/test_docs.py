"""The examples in docstrings and in Markdown files run, and give what they say.

Docstrings: the doctests of every module of dpf_tf. Markdown: all ```python blocks of a
file, in order, in one namespace; a block right after the comment
`<!-- skip: the reason -->` is left out.
"""

import doctest
import importlib
import inspect
import pathlib
import re

import keras as keras_3
import pytest

import dpf_tf
from benchmarks import tables

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("dpf_tf", "official_models")
    for path in (ROOT / folder).rglob("*.py")
)
MARKDOWN = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(
    r"^(?:<!-- skip:(?P<reason>.*?)-->\n+)?^```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.fixture(autouse=True)
def fresh_session(tmp_path, monkeypatch):
    """Examples may write files, and name layers as in a new process."""
    monkeypatch.chdir(tmp_path)
    keras_3.backend.clear_session()
    keras_3.utils.set_random_seed(0)
    yield
    keras_3.mixed_precision.set_global_policy("float32")
    keras_3.backend.clear_session()


def executable_blocks(text):
    """Yields (number of the line before the code, code) of each block to run."""
    for match in BLOCK.finditer(text):
        if match["reason"] is None:
            yield text.count("\n", 0, match.start("code")), match["code"]
        elif not match["reason"].strip():
            raise ValueError("a skipped block needs a reason: <!-- skip: reason -->")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples failed"


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.name)
def test_markdown_examples(path):
    namespace = {"__name__": f"examples in {path.name}"}
    for line, code in executable_blocks(path.read_text(encoding="utf-8")):
        # Padded, so that a traceback gives the line in the Markdown file.
        exec(compile("\n" * line + code, str(path), "exec"), namespace)


@pytest.mark.parametrize("path", tables.FILES, ids=lambda path: path.name)
def test_tables_are_those_of_the_committed_results(path):
    text = path.read_text(encoding="utf-8")
    assert tables.fill(text) == text, "run `python -m benchmarks.tables`"


def test_every_table_is_shown_once():
    texts = "".join(path.read_text(encoding="utf-8") for path in tables.FILES)
    assert sorted(re.findall("<!-- table: (.*) -->", texts)) == sorted(tables.TABLES)


def test_names_in_markdown_exist():
    for path in MARKDOWN:
        if path.name == "CHANGELOG.md":
            continue  # Tells of names that are gone, too.
        for name in re.findall(r"`dpf_tf\.(\w+)", path.read_text(encoding="utf-8")):
            assert hasattr(dpf_tf, name) or f"dpf_tf.{name}" in MODULES, (path, name)


def test_every_public_name_has_an_example():
    documents = [path.read_text(encoding="utf-8") for path in MARKDOWN]
    shown = "\n".join(code for text in documents for _, code in executable_blocks(text))
    without = []
    public = [(name, getattr(dpf_tf, name)) for name in dpf_tf.__all__]
    for name in dpf_tf.methods.__all__:
        public.append((f"methods.{name}", getattr(dpf_tf.methods, name)))
    for name, value in public:
        if not callable(value) or re.search(rf"\bdpf_tf\.{name}\b", shown):
            continue
        members = inspect.getmembers(value) if inspect.isclass(value) else []
        docs = [value.__doc__, *(member.__doc__ for _, member in members)]
        if not any(">>> " in (doc or "") for doc in docs):
            without.append(name)
    assert not without


def test_blocks_are_found_in_order_with_their_lines():
    text = "one\n\n```python\na = 1\n```\n\n```bash\nls\n```\n\n```python\nb = 2\n```\n"
    assert list(executable_blocks(text)) == [(3, "a = 1\n"), (11, "b = 2\n")]


def test_block_after_a_skip_comment_is_left_out():
    text = "<!-- skip: needs a network -->\n```python\na = 1\n```\n"
    assert not list(executable_blocks(text))


@pytest.mark.parametrize("comment", ["<!-- skip: -->", "<!-- skip:-->"])
def test_skip_without_reason_is_an_error(comment):
    with pytest.raises(ValueError, match="needs a reason"):
        list(executable_blocks(f"{comment}\n```python\na = 1\n```\n"))


def test_failing_block_fails(tmp_path):
    path = tmp_path / "wrong.md"
    path.write_text("```python\nassert 1 == 2\n```\n")
    with pytest.raises(AssertionError):
        test_markdown_examples(path)
