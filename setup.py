"""Packaging of dpf_tf: its metadata and the only list of its requirements."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent

# Each lower bound is tested: constraints/oldest.txt pins exactly these versions, and
# `make test-oldest` runs the tests with them.
REQUIREMENTS = [
    "tensorflow>=2.19",
    "keras>=3.11",  # With older ones steps_per_execution does not pass the tests.
    "tf_keras>=2.19",  # The Keras 2 whose models train under distribution strategies.
    "tensorflow-model-optimization>=0.8.0",  # Its schedules and models are accepted.
    "tensorflow-datasets>=4.9.7",  # The data of official_models.
    "tensorboard>=2.19",  # They log for it.
    "absl-py>=1.2",  # tensorflow-model-optimization itself pins ~=1.2.
    "numpy>=1.26",
    # Needed by tensorflow-datasets, which declares it for old Pythons only.
    "importlib_resources>=6.0",
    # Needed by it, too. 1.21.0 accepts protobuf 5, which TensorFlow 2.19 asks for, and
    # fails beside it (github.com/tensorflow/metadata/issues/68).
    "tensorflow-metadata>=1.17,!=1.21.0",
    # tensorflow-model-optimization imports distutils, which Python 3.12 dropped.
    "setuptools>=68.0",
]

DEMO = ["scikit-learn>=1.4", "matplotlib>=3.8"]
EXPORT = ["ai-edge-litert>=2.1"]  # TFLite's runtime: every exported file is run.
TEST = [
    *DEMO,
    *EXPORT,
    "pytest>=8.0",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
]
DEV = [*TEST, "ruff>=0.9", "mypy>=1.14", "build>=1.2"]


def version():
    """Returns the package's version, read as text so that nothing is imported."""
    source = (ROOT / "dpf_tf" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE).group(1)


def long_description():
    """Returns the README, or nothing where it is absent."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="dpf_tf",
    version=version(),
    description="Dynamic Model Pruning with Feedback for Keras on TensorFlow",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The dpf_tf authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(
        include=["dpf_tf", "dpf_tf.*", "official_models", "official_models.*"]
    ),
    package_data={"dpf_tf": ["py.typed"]},
    install_requires=REQUIREMENTS,
    extras_require={"demo": DEMO, "export": EXPORT, "test": TEST, "dev": DEV},
    zip_safe=False,
    keywords="keras tensorflow pruning sparsity model-compression",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
