"""A worker's share of each global batch, cut into the batches of its replicas."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Share:
    """Which examples of a global batch one input pipeline delivers.

    Replica r of all replicas gets the r-th of as many equal, contiguous parts. So a
    global batch consists of the same examples, however many share it.

    Attributes:
        pipelines: The number of pipelines, one per worker.
        pipeline: The index of this one.
        replicas: The number of replicas that it feeds, in turn.
        batch: The number of examples that each replica gets.
    """

    pipelines: int
    pipeline: int
    replicas: int
    batch: int

    @property
    def size(self) -> int:
        """The number of examples of a step that this pipeline delivers."""
        return self.replicas * self.batch

    @property
    def start(self) -> int:
        """The position of the first of them in the global batch."""
        return self.pipeline * self.size


def share_of(global_batch: int, context: tf.distribute.InputContext | None) -> Share:
    """Returns the share of a pipeline; without a context, the whole batch."""
    context = context or tf.distribute.InputContext()
    replicas, pipelines = context.num_replicas_in_sync, context.num_input_pipelines
    if global_batch < 1 or global_batch % replicas:
        raise ValueError(
            f"global_batch={global_batch} must be a multiple of the number of "
            f"replicas, {replicas}"
        )
    if replicas % pipelines:
        raise ValueError(
            f"{replicas} replicas cannot be shared equally by {pipelines} input "
            "pipelines"
        )
    return Share(
        pipelines,
        context.input_pipeline_id,
        replicas // pipelines,
        global_batch // replicas,
    )
