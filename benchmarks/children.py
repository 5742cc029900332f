"""Programs that this one starts, and that end with it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import threading


class Children:
    r"""Runs programs, from several threads, until it is told to end them.

    Example:

        >>> import pathlib, tempfile
        >>> log = pathlib.Path(tempfile.mkdtemp()) / "log"
        >>> Children().run(["echo", "done"], {}, log)
        (0, 'done\n')
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(
        self, command: list[str], environment: dict[str, str], log: pathlib.Path
    ) -> tuple[int, str]:
        """Runs a program to its end.

        Args:
            command: the program and its arguments.
            environment: what is set beside this program's own.
            log: where what it prints is appended.

        Returns:
            Its exit status, and what it has printed.

        Raises:
            KeyboardInterrupt: if programs are no longer started.
        """
        with log.open("ab") as output:
            before = output.tell()
            with self._lock:
                if self._ended:
                    raise KeyboardInterrupt
                child = subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                self._running.add(child)
            status = child.wait()
            with self._lock:
                self._running.discard(child)
        printed = log.read_bytes()[before:]
        return status, printed.decode("utf-8", errors="replace")

    def end(self) -> None:
        """Ends those that run; no other is started."""
        with self._lock:
            self._ended = True
            for child in self._running:
                child.terminate()
