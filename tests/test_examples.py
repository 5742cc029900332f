"""The examples run as a newcomer runs them, and do what they say."""

import json
import os
import pathlib
import re
import subprocess
import sys

import matplotlib.image
import pytest

from tests.helpers import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[1]
READ_KERAS_FILE = """
import json, sys
import keras
model = keras.models.load_model(sys.argv[1])
kernels = [x.numpy() for x in model.weights if x.path.endswith("/kernel")]
print(json.dumps({
    "modules": list(sys.modules),
    "sizes": [x.size for x in kernels],
    "zeros": [int((x == 0).sum()) for x in kernels],
}))
"""


def run(*arguments, folder=ROOT):
    """Runs Python in a process of its own and returns what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """What `examples/digits.py` prints, and the folder that it writes to."""
    out = tmp_path_factory.mktemp("demo") / "made" / "here"
    printed = run("examples/digits.py", f"--out={out}", "--epochs=3", "--sparsity=0.75")
    return printed, out


def test_digits_prints_both_accuracies_well_above_chance(digits):
    printed, _ = digits
    for model in ("dense", "sparse"):
        found = re.findall(
            rf"^{model} accuracy: ([01]\.\d\d\d)$", printed, re.MULTILINE
        )
        assert len(found) == 1
        assert 0.5 < float(found[0]) <= 1.0


def test_digits_shows_progress_report_and_where_its_files_are(digits):
    printed, out = digits
    logged = re.findall(r"sparsity: ([\d.]+) - mask_flips: (\d+)", printed)
    assert [float(sparsity) for sparsity, _ in logged][-1] == 0.75
    assert any(int(flips) > 0 for _, flips in logged)
    assert re.search(r"^pruned layers' kernels .* 0\.7500$", printed, re.MULTILINE)
    for name in ("sparse.keras", "pruning.png"):
        assert str(out / name) in printed


def test_digits_draws_an_image(digits):
    _, out = digits
    image = matplotlib.image.imread(out / "pruning.png")
    height, width, _ = image.shape
    assert height > 200 and width > 200
    assert image[..., :3].std() > 0


def test_digits_file_loads_without_dpf_tf_and_has_the_asked_zeros(digits, tmp_path):
    _, out = digits
    found = json.loads(
        run("-c", READ_KERAS_FILE, out / "sparse.keras", folder=tmp_path)
    )
    assert "dpf_tf" not in found["modules"]
    *pruned_zeros, head_zeros = found["zeros"]
    assert sum(pruned_zeros) == round(0.75 * sum(found["sizes"][:-1]))
    assert head_zeros == 0


@pytest.mark.parametrize("keras_name", ["keras", "tf_keras"])
def test_custom_loop_learns_while_it_prunes(keras_name):
    printed = run("examples/custom_loop.py", f"--keras={keras_name}", "--epochs=4")
    epochs = re.findall(
        r"^epoch \d: loss=([\d.]+) sparsity=([\d.]+) mask flips=(\d+)$",
        printed,
        re.MULTILINE,
    )
    losses, sparsities, flips = zip(*epochs, strict=True)
    assert len(epochs) == 4
    assert float(losses[-1]) < float(losses[0])
    assert float(sparsities[-1]) == 0.9
    assert all(int(number) > 0 for number in flips)
    accuracy = re.search(r"^sparse accuracy: ([01]\.\d\d\d)$", printed, re.MULTILINE)
    assert float(accuracy[1]) > 0.5


def test_a_scheme_of_ones_own_takes_turns_and_is_short():
    printed = run("examples/own_scheme.py")
    sparsities = re.search(r"^sparsity by epoch: \[(.*)\]$", printed, re.MULTILINE)[1]
    expected = [*[0.0, 0.9] * 5, 0.9, 0.9]
    assert [float(each) for each in sparsities.split(", ")] == expected
    accuracy = re.search(r"^sparse accuracy: ([01]\.\d\d\d)$", printed, re.MULTILINE)
    assert float(accuracy[1]) > 0.8
    source = (ROOT / "examples" / "own_scheme.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 100
