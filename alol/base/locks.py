"""Files that one process at a time holds; the system lets go of them when the process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of a file system without locks: there, nothing is held


class Lock:
    """A lock file, which is there while it is held; one that a killed process left behind holds nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = -1  # its descriptor, which a child process may inherit to hold the lock too
        self._shared = False

    @classmethod
    def of(cls, path: Path) -> Lock:
        """The lock that lies beside a file or a folder, whatever dots its name has."""
        return cls(path.with_name(f"{path.name}.lock"))

    def take(self, *, wait: bool = False, shared: bool = False) -> bool:
        """Whether this process holds the lock now; with `wait`, once the one before has let go.

        Those who share it hold it together, and nobody holds it alone meanwhile.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(file)
                return False
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    os.close(file)
                    raise
            except BaseException:  # a signal while waiting
                os.close(file)
                raise
            if self._is_at_its_path(file):
                self.file, self._shared = file, shared
                return True
            os.close(file)  # the one before removed the file after it was opened here

    def release(self) -> None:
        if not self._shared:
            self.path.unlink(missing_ok=True)
        os.close(self.file)

    def _is_at_its_path(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False
