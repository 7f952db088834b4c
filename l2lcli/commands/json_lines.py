"""What keepers and workers say to each other: JSON, a line each, over a socket."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import Any


class Line:
    """One connection: JSON lines in and out, and when anything was last heard of the other side."""

    def __init__(self, connection: socket.socket) -> None:
        """Of a connected socket."""
        self.socket, self.heard, self.closed, self._held = connection, time.monotonic(), False, b""
        self.process: int | None = None  # who is there, once it has said so
        self.entered, self.since = 0, time.monotonic()  # how often it came to where all have to come, and when last
        self.done = False  # its worker has ended as agreed

    def send(self, **message: Any) -> None:
        """Say something; to one that is gone, nothing."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """What has come; sets `closed` at the end."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            data = b""
        self.closed = self.closed or not data
        self.heard = time.monotonic()
        *lines, self._held = (self._held + data).split(b"\n")
        try:
            found: list[Any] = [json.loads(line) for line in lines]
        except ValueError:  # nobody of ours
            found = [None]
        if not all(isinstance(message, dict) for message in found):
            self.closed = True
            return []
        return found
