"""A run in a bucket belongs to one machine at a time: the object LOCK beside its files says to which.

It is made only where there is none, which the store does for one of many who try. It names its holder, and the holder
writes it anew every BEAT_S. No clocks are compared. Who finds the lock of another machine watches it for SILENCE_S: if
it changes, its holder lives, and the newcomer is refused. Otherwise the holder was killed, and the newcomer goes on in
its place. What a killed run of the same machine has left is taken at once: the newcomer has the lock of the local copy,
so nobody else here can be alive. A holder that was only cut off finds before its next checkpoint that the run is
another's, and ends.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from asyncthink_jax.config import ConfigError
from asyncthink_jax.files import replace_text
from asyncthink_jax.shown import complain

LOCK = "LOCK"
MACHINE = ".machine"  # the file of a local copy that tells copies of one bucket on several machines apart
BEAT_S = 20.0
SILENCE_S = 120.0  # without a beat: its holder is dead
LOOK_S = 5.0  # between two looks at it meanwhile
_MOST = 4096  # bytes that are read of a lock
_ROUNDS = 5  # of finding it gone and then taken again


class BucketError(ConfigError):
    """A bucket that can't be used now, which may be passing."""

    exit_code = 1


class BucketLock:
    """The lock of one run, taken by `take` and given back by `release`.

    Args:
        bucket: the address of the run, for messages.
        filesystem: of fsspec. path: of LOCK in it.
        copy: the local copy, whose own lock the caller has.
        patiently: calls a function again after errors that may be passing.
    """

    def __init__(
        self, bucket: str, filesystem: Any, path: str, copy: Path, patiently: Callable[[Callable[[], Any]], Any]
    ):
        self._bucket, self._filesystem, self._path, self._patiently = bucket, filesystem, path, patiently
        machine = copy / MACHINE
        if not machine.exists():
            replace_text(machine, secrets.token_hex(16))
        self._own = {
            "machine": machine.read_text(encoding="utf-8"),
            "run": secrets.token_hex(16),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        }
        self._beats = 0
        self._ended = threading.Event()
        self._writing = threading.Lock()  # else a beat in the middle could make anew what `release` has removed

    def take(self) -> None:
        """Raises BucketError if another machine has it."""
        for _ in range(_ROUNDS):
            if self._patiently(self._create):
                break
            found = self._patiently(self._read)
            if found is not None and self._is_left_over(found):
                self._patiently(partial(self._remove, found))
        else:
            raise BucketError(f"{self._bucket} is taken and left again and again by other machines; try again later")
        threading.Thread(target=self._beat_on, daemon=True).start()

    def check(self) -> None:
        """Raises BucketError if the run has become another machine's."""
        found = self._patiently(self._read)
        if not self._is_own(found):
            by = "nobody" if found is None else _holder(found)
            raise BucketError(f"{self._bucket} is no longer this process's but held by {by}; this one ends here")

    def release(self) -> None:
        """Lets others in. A bucket that can't be reached now keeps the lock, which others then find dead."""
        self._ended.set()
        try:
            with self._writing:
                found = self._read()
                if found is not None and self._is_own(found):
                    self._remove(found)
        except Exception:  # each kind of bucket has its own
            complain(f"{self._bucket}/{LOCK} could not be removed; the next machine waits {SILENCE_S:.0f} s for it")

    def _is_left_over(self, found: bytes) -> bool:
        """Whether its holder is dead, after a wait if need be; False if the lock is gone. Raises BucketError."""
        if _said(found).get("machine") == self._own["machine"]:
            return True
        complain(
            f"{self._bucket} was taken by {_holder(found)}; without a sign of life within {SILENCE_S:.0f} s this run "
            "goes on in its place"
        )
        for _ in range(round(SILENCE_S / LOOK_S)):
            time.sleep(LOOK_S)
            now = self._patiently(self._read)
            if now is None:
                return False
            if now != found:
                raise BucketError(
                    f"{self._bucket} is in use by {_holder(now)}; wait for it, stop it there, or name another folder"
                )
        return True

    def _create(self) -> bool:
        try:
            self._filesystem.pipe_file(self._path, self._content(), mode="create")
        except FileExistsError:
            return self._is_own(self._read())  # a try that was taken for failed may have made it
        return True

    def _read(self) -> bytes | None:
        try:
            return self._filesystem.cat_file(self._path, start=0, end=_MOST)
        except FileNotFoundError:
            return None

    def _remove(self, found: bytes) -> None:
        """Removes what was found, unless it is another by now."""
        if self._read() == found:
            self._filesystem.rm_file(self._path)

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                if not self._beat():
                    return
            except Exception:  # each kind of bucket has its own; perhaps the next one arrives
                continue

    def _beat(self) -> bool:
        """Gives a sign of life; False if the lock is not this run's, which `check` tells."""
        with self._writing:
            if self._ended.is_set() or not self._is_own(self._read()):
                return False
            self._beats += 1
            self._filesystem.pipe_file(self._path, self._content())
            return True

    def _content(self) -> bytes:
        return json.dumps(self._own | {"beats": self._beats}).encode()

    def _is_own(self, content: bytes | None) -> bool:
        return content is not None and _said(content).get("run") == self._own["run"]


def _said(content: bytes) -> dict[str, Any]:
    """What a lock says; nothing if it is damaged, or was written by hand."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _holder(content: bytes) -> str:
    said = {name: re.sub(r"[^\w.: -]", "?", str(value))[:64] for name, value in _said(content).items()}
    if not {"pid", "host", "since"} <= said.keys():
        return "somebody who does not say so"
    return f"process {said['pid']} on {said['host']}, since {said['since']}"
