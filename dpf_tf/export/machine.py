"""What the machine is on which a file was timed, as far as that matters here."""

from __future__ import annotations

import os
import pathlib
import platform
from typing import Any

# Of all features of a processor, those by which the runtime chooses its kernels.
_FEATURES = {
    *("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni"),
    *("amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "sve", "sme"),
}


def describe() -> dict[str, Any]:
    """Returns the processor, its features, and the number of cores.

    The features are known on Linux alone; elsewhere the list is empty.
    """
    found: dict[str, str] = {}
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    flags = set((found.get("flags") or found.get("Features") or "").split())
    return {
        "architecture": platform.machine(),
        "processor": found.get("model name") or platform.processor() or "unknown",
        "features": sorted(flags & _FEATURES),
        "cores": os.cpu_count(),
    }


def hides_sparse_convolutions(machine: dict[str, Any]) -> bool:
    """Tells whether XNNPACK has its sparse convolutions switched off here.

    It does on every x86 processor with AVX.
    """
    x86 = machine["architecture"].lower() in ("x86_64", "amd64", "i386", "i686", "x86")
    return x86 and ("avx" in machine["features"] or not machine["features"])
