"""One-byte changes to archives: `python -m tests.data.fuzz [changes of each kind]` prints what became of them.

A changed archive is refused with one line, or gives the same files; `other` counts those that gave others. In a plain
tar only headers have a checksum: the content of files has none, nor have names that are not ASCII or longer than 100
bytes, which stand in records beside the header. What differs in these alone is counted as `content`.
"""

from __future__ import annotations

import io
import random
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from alol.base.errors import InputError
from alol.data import archive

KINDS = {"zip": "", "tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
OUTCOMES = ("changes", "refused", "equal", "content", "other")
Files = dict[str, bytes]


def files() -> Files:
    """Text, noise, an empty file, and the names that tar writes in records beside the header."""
    noise = random.Random(0)
    rows = "".join(f'{{"q": "question {i}", "a": "answer {i * i}"}}\n' for i in range(60))
    return {
        "data/train.jsonl": rows.encode(),
        "data/noise.bin": noise.randbytes(700),
        "data/deep/empty.txt": b"",
        "data/déjà vu.txt": b"non-ASCII name",
        "second.csv": b"a,b\n1,2\n" * 30,
    }


def make(kind: str, content: Files) -> bytes:
    """An archive of that kind, as Python writes it."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in content.items():
                zipped.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED if len(data) != 700 else 0)
    else:
        with tarfile.open(fileobj=buffer, mode=KINDS[kind], format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1_700_000_000.25
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpack(path: Path) -> Files:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive.unpack(path, folder, path.name, 1 << 24, vouched=True)
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def fuzz(kind: str, count: int, seed: int = 1, read: Callable[[Path], Files] = unpack) -> Counter[str]:
    """What becomes of `count` archives of which one byte has another value. Anything but InputError passes through."""
    generator, content, found = random.Random(seed), files(), Counter({"changes": count})
    whole = make(kind, content)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"data.{kind}"
        path.write_bytes(whole)
        assert read(path) == content
        for _ in range(count):
            place, change = generator.randrange(len(whole)), generator.randrange(1, 256)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            try:
                given = read(path)
            except InputError:
                found["refused"] += 1
                continue
            unvouched = kind == "tar" and _headers(given) == _headers(content)
            found["equal" if given == content else "content" if unvouched else "other"] += 1
    return found


def _headers(given: Files) -> list[tuple[str, int]]:
    """What the headers of a tar say of its files: their sizes, and the names that they have room for."""
    return sorted((name if name.isascii() else "", len(data)) for name, data in given.items())


def main(count: int = 1000) -> None:
    lines = [f"{'kind':10}" + "".join(f"{name:>10}" for name in OUTCOMES)]
    for kind in KINDS:
        found = fuzz(kind, count)
        lines.append(f"{kind:10}" + "".join(f"{found[name]:10}" for name in OUTCOMES))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
