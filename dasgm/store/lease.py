"""A run's folder that this process holds: no other works on it, all files are here, and news is sent meanwhile."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from dasgm.store.bucket import Storage, place_file
from dasgm.store.replica import ABOUT, CLAIMS, PAUSE, SESSION, Replica, age, held, of, text


def holding(folder: Path) -> Held | None:
    """The holder of a folder that stands for object storage, or None."""
    found = of(folder)
    return Held(folder, found.storage, found.prefix) if found else None


class Held(Replica):
    """A folder and its copy in the storage, which this process holds between `hold` and `let_go`."""

    def __init__(self, folder: Path, storage: Storage, prefix: str):
        super().__init__(folder, storage, prefix)
        self.session, self.lost, self._signed = uuid.uuid4().hex, "", 0.0
        self._news, self._over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._live, self._send)]

    def hold(self) -> str:
        """Take it and bring it up to date; returns '', or the holder. ValueError: the storage cannot be used."""
        with self.storage.needed():
            last = text(self.folder / SESSION)
            if holder := self._claim(last):
                return holder
            try:
                self._meet(last)
            except BaseException:
                self._leave()
                raise
        held[self.folder.absolute()] = self
        for thread in self._threads:
            thread.start()
        return ""

    def _meet(self, last: str) -> None:
        found = self.manifest()
        if found and found["session"] != last:  # else this folder has all that, and perhaps what was never sent
            self.pull(found["files"], light=False)
        self.fetch(ABOUT)
        place_file(self.folder / SESSION, self.session.encode())
        self.push()
        for name in self.storage.list(f"{self.prefix}checkpoints"):
            if not (self.folder / "checkpoints" / name).exists():  # sent by one that was killed
                self.storage.remove(f"{self.prefix}checkpoints/{name}")

    def news(self) -> str:
        """Announces that there is something to send; returns '', or the process that has taken the folder."""
        self._news.set()
        return self.lost

    def let_go(self) -> None:
        """Send what is left, and say what could not be sent."""
        held.pop(self.folder.absolute())
        self._over.set()
        self._news.set()
        for thread in self._threads:
            thread.join()
        end = time.monotonic() + age() / 2
        while not self.lost and not self.storage.attempt(self.push, patient=True):
            if time.monotonic() > end:
                where = f"{socket.gethostname()}, in {self.folder}"
                why = f"storage {self.storage.uri}: {self.storage.away}"
                self.storage.say(f"{why}; what is new lies only on {where}; the same command there sends it")
                return
            time.sleep(1)
        self._leave()

    def _claim(self, last: str) -> str:
        """Returns '', or the holder. A process that writes a claim and then sees no other holds the folder.

        Of two at once, both may give way.
        """
        for pause in (0.3, 1.0, 0.0):
            self._sign()
            others = self.claims(self.session, last)
            if not others:
                for name in self.storage.list(
                    self.prefix + CLAIMS
                ):  # claims of dead processes, and the last one of this folder
                    if name != self.session:
                        self.storage.remove(f"{self.prefix}{CLAIMS}/{name}")
                return ""
            holder = self._who(others[0])
            self.storage.remove(f"{self.prefix}{CLAIMS}/{self.session}")
            time.sleep(pause * random.random())
        return holder

    def offer(self, name: str, once: bool = False) -> None:
        """Send a file, after the files that it describes."""
        self.storage.attempt(self.push)
        if not self.lost:
            super().offer(name, once)

    def push(self) -> None:
        """Send what is new, unless another has taken the folder while the storage was out of reach."""
        if time.monotonic() - self._signed > age() / 2:
            self._stay()
        if not self.lost:
            super().push()

    def _sign(self) -> None:
        me = f"process {os.getpid()} on {socket.gethostname()}"
        self.storage.write(f"{self.prefix}{CLAIMS}/{self.session}", me.encode())
        self._signed = time.monotonic()

    def _stay(self) -> None:
        """Go on holding it, unless another took it: he has removed the claim, and may have ended since."""
        if self.session not in self.storage.list(self.prefix + CLAIMS):
            if others := self.claims():
                self.lost = self._who(others[0])
            elif (found := self.manifest()) and found["session"] != self.session:
                self.lost = "another process, which went on with it and has ended"
        if not self.lost:
            self._sign()

    def _leave(self) -> None:
        with suppress(OSError):
            self.storage.remove(f"{self.prefix}{CLAIMS}/{self.session}")

    def _who(self, session: str) -> str:
        return (self.storage.read(f"{self.prefix}{CLAIMS}/{session}") or b"another process").decode()

    def _live(self) -> None:
        while not self.lost and not self._over.wait(age() / 4):
            with suppress(OSError):  # said by who sends
                self._stay()

    def _send(self) -> None:
        while not self.lost and not self._over.is_set():
            self._news.wait(PAUSE)
            self._news.clear()
            self.storage.attempt(self.push)
            self._over.wait(0.5)
