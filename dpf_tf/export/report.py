"""`ExportReport`: what was exported, how large it is, and that it was run."""

from __future__ import annotations

import json
import os
import pathlib

from dpf_tf.text import table


class ExportReport(dict):
    """A plain dict that prints as a text. See `export_tflite`."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON."""
        text = json.dumps(self, indent=2) + "\n"
        pathlib.Path(path).write_text(text, encoding="utf-8")

    def __str__(self) -> str:
        """Returns the report as a text."""
        blocks = [
            [f"{self['path']}: {self['weights']}, {self['encoding']} encoding"],
            self._sizes(),
            self._parity(),
            self._latency(),
            self._tensors(),
            [f"Note: {note}" for note in self["notes"]],
        ]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def _sizes(self) -> list[str]:
        bound = self["bound_bytes"]
        rows = [["encoding", "bytes", "gzip", "/ bound", "gzip / bound", "memory"]]
        for encoding, file in self["files"].items():
            if "bytes" not in file:
                continue
            memory = file.get("memory_bytes")
            rows.append(
                [
                    f"{encoding}{' *' if encoding == self['encoding'] else ''}",
                    f"{file['bytes']:,}",
                    f"{file['gzip_bytes']:,}",
                    f"{file['bytes'] / bound:.2f}",
                    f"{file['gzip_bytes'] / bound:.2f}",
                    "" if memory is None else f"{memory:,}",
                ]
            )
        lines = table(rows, rules=(1,))
        lines.append(
            f"* the file. Information bound: {bound:,} bytes (the weights that are not "
            "zero, and which they are)."
        )
        lines += [
            f"No {encoding} file: {file['refused']}."
            for encoding, file in self["files"].items()
            if "refused" in file
        ]
        return lines

    def _parity(self) -> list[str]:
        parity = self["parity"]
        errors = parity["max_relative_error"]
        found = ", ".join(f"{error:.1e} {name}" for name, error in errors.items())
        return [
            f"Largest difference from the Keras model on {parity['samples']} "
            f"{parity['source']} samples, relative to the outputs' scale: {found} "
            f"(tolerance {parity['tolerance']:.0e})."
        ]

    def _latency(self) -> list[str]:
        latency, machine = self["latency"], self["machine"]
        times = ", ".join(f"{name} {ms:.3g} ms" for name, ms in latency["ms"].items())
        ratio = ""
        if "dense_to_sparse" in latency:
            ratio = (
                f"; dense / sparse {latency['dense_to_sparse']:.2f}"
                f" (dense / dense again {latency['dense_to_dense_again']:.2f})"
            )
        return [
            f"One sample, one thread, median of {latency['rounds']} rounds: {times}"
            f"{ratio}. {machine['processor']} ({', '.join(machine['features'])})."
        ]

    def _tensors(self) -> list[str]:
        kernels = [t for t in self["tensors"] if len(t["shape"]) > 1]
        rows = [["kernel", "shape", "type", "weights", "zeros", "encoding"]]
        for tensor in kernels:
            rows.append(
                [
                    tensor["name"][:60],
                    "x".join(map(str, tensor["shape"])),
                    tensor["type"].lower(),
                    f"{tensor['weights']:,}",
                    f"{tensor['zeros'] / tensor['weights']:.4f}",
                    tensor["encoding"],
                ]
            )
        return table(rows, rules=(1,), last_left=True)
