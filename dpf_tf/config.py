"""`Configured`: what a Keras file says of a schedule, a structure or a scheme."""

from __future__ import annotations

import dataclasses
from typing import Any


class Configured:
    """Base of dataclasses that are saved with a model by their arguments."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal one."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes one from `get_config`'s dictionary."""
        return cls(**config)
