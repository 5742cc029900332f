"""The tests, as a package: `tests.conftest` and shared helpers can be imported."""
