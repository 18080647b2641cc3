"""Archives that are damaged, hostile or too large: one line each, and nothing lost in silence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from alol.base.errors import InputError
from alol.data import archive, room, tar_files
from tests.data import fuzz

CONTENT = fuzz.files()


def unpack(folder: Path, kind: str, data: bytes, limit: int = 1 << 24, vouched: bool = True) -> dict[str, bytes]:
    path, target = folder / f"data.{kind}", folder / "out"
    path.write_bytes(data)
    shutil.rmtree(target, ignore_errors=True)
    archive.unpack(path, target, path.name, limit, vouched=vouched)
    return {str(file.relative_to(target)): file.read_bytes() for file in target.rglob("*") if file.is_file()}


def refused(folder: Path, kind: str, data: bytes, message: str, **keys) -> None:
    with pytest.raises(InputError, match=message) as caught:
        unpack(folder, kind, data, **keys)
    assert str(caught.value).isprintable()


def tar(*members: tarfile.TarInfo | str, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of empty files of these names, or of these headers with zeros for content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form, encoding="utf-8", errors="surrogateescape") as made:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            made.addfile(info, io.BytesIO(b"\0" * info.size))
    return buffer.getvalue()


def info(name: str, **keys) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in keys.items():
        setattr(made, key, value)
    return made


def header(name: str = "a", size: bytes = b"00000000000\0", kind: bytes = b"0") -> bytes:
    """A header whose checksum is right, whatever else it says."""
    block = bytearray(info(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157], block[148:156] = size.ljust(12, b"\0"), kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def records(content: bytes, then: bytes | None = None) -> bytes:
    """An extended header of these records and a file behind it."""
    padded = content + b"\0" * (-len(content) % 512)
    return header("x", b"%011o" % len(content), b"x") + padded + (then or header()) + b"\0" * 1024


def zipped(*names: str, **keys) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **keys) as made:
        for name in names:
            made.writestr(zipfile.ZipInfo(name), b"content")
    return buffer.getvalue()


def changed(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_no_changed_byte_gives_other_files(kind):
    found = fuzz.fuzz(kind, 60, seed=2)
    assert found["other"] == 0
    assert found["refused"] + found["equal"] + found["content"] == 60
    assert found["refused"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_no_changed_byte_of_many_gives_other_files(kind):
    assert fuzz.fuzz(kind, 1000)["other"] == 0


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_an_archive_that_is_cut_anywhere_or_has_more_behind_it_is_refused(tmp_path, kind):
    whole = fuzz.make(kind, CONTENT)
    end = len(whole.rstrip(b"\0")) if kind == "tar" else len(whole)
    for count in range(0, end, max(1, end // 40)):
        refused(tmp_path, kind, whole[:count], f"data.{kind}")
    for more in (b"x", b"PK", b"\0" * 512 + b"x", whole[:600]):
        refused(tmp_path, kind, whole + more, "cut off or damaged")
    refused(tmp_path, kind, b"x" * 512 + whole, "cut off or damaged")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
def test_streams_one_after_the_other_are_one_archive(tmp_path, kind):
    pack = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}[kind]
    whole = fuzz.make("tar", CONTENT)
    parts = b"".join(pack(whole[start : start + 3000]) for start in range(0, len(whole), 3000))
    assert unpack(tmp_path, kind, parts) == CONTENT


def test_zips_of_other_makers_are_read(tmp_path):
    class Pipe(io.BytesIO):
        def tell(self):
            raise OSError

        def seek(self, *args):
            raise OSError

    streamed, large = Pipe(), io.BytesIO()
    with zipfile.ZipFile(streamed, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in CONTENT.items():
            made.writestr(name, data)
    with zipfile.ZipFile(large, "w", zipfile.ZIP_DEFLATED) as made:
        made.comment = b"made by hand"
        made.writestr("data/", b"")
        for name, data in CONTENT.items():
            with made.open(name, "w", force_zip64=True) as file:
                file.write(data)
    assert unpack(tmp_path, "zip", streamed.getvalue()) == CONTENT
    assert unpack(tmp_path, "zip", large.getvalue()) == CONTENT


def test_tars_of_other_makers_are_read(tmp_path):
    names = ["./", "./a", "./a/b", "c" * 120, "d/" + "é" * 60]
    members = [info(name, type=tarfile.DIRTYPE if name in ("./", "./a") else tarfile.REGTYPE) for name in names]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        kept = [member for member in members if form != tarfile.USTAR_FORMAT or len(member.name) < 60]
        found = unpack(tmp_path, "tar", tar(*kept, form=form))
        assert set(found) == {str(Path(member.name)) for member in kept if member.isfile()}


def test_a_plain_tar_without_sha256_says_that_nothing_vouches_for_it(tmp_path, caplog):
    for kind in fuzz.KINDS:
        unpack(tmp_path, kind, fuzz.make(kind, CONTENT), vouched=False)
    assert [record.getMessage()[:46] for record in caplog.records] == ["data.tar: nothing vouches for its content, sin"]
    caplog.clear()
    unpack(tmp_path, "tar", fuzz.make("tar", CONTENT), vouched=True)
    assert not caplog.records


SPARSE = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.name": "a",
    "GNU.sparse.realsize": "68719476736",
}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar(), "holds no files"),
        (tar(info("a", type=tarfile.DIRTYPE)), "holds no files"),
        (b"", "cut off or damaged"),
        (tar("a")[:1024], "the end of the archive is missing"),
        (tar(info("a", type=tarfile.FIFOTYPE)), "'a' is a link or a special file"),
        (tar(info("a", type=tarfile.CHRTYPE)), "'a' is a link or a special file"),
        (tar(info("a", type=tarfile.LNKTYPE, linkname="b")), "'a' is a link or a special file"),
        (header(kind=b"S") + b"\0" * 1024, "'a' is a sparse file"),
        (tar(info("a", pax_headers=SPARSE)), "damaged"),
        (
            tar(info("a", pax_headers={"GNU.sparse.map": "0,1,68719476736,1", "GNU.sparse.size": "99"})),
            "sparse|damaged",
        ),
        (records(b"22 GNU.sparse.size=99\n"), "sparse|damaged"),
        (records(b"11 size=-1\n"), "damaged"),
        (records(b"12 size=abc\n"), "damaged|cut off"),
        (records(b"20 size=99999999999\n"), "more than|damaged"),
        (records(b"19 size=9999999999\n"), "more than|damaged"),
        (records(b"99 path=b\n"), "a damaged extended header"),
        (records(b"8 path=b\n9 path=c\n"), "a damaged extended header"),
        (records(b"0 path=b\n"), "a damaged extended header"),
        (records(b"11 pbth=bb\n"), "an unknown record in an extended header"),
        (records(b"8 path=\n"), "a file without a name"),
        (records(b"12 path=b\0c\n"), "no name for a file"),
        (records(b"10 path=\xff\n"), "no name for a file"),
        (header("x", b"%011o" % (1 << 30), b"x") + b"\0" * 2048, "a header of 1073741824 bytes"),
        (header("x", b"%011o" % (1 << 30), b"L") + b"\0" * 2048, "a header of 1073741824 bytes"),
        (header(size=b"\xff" * 12) + b"\0" * 1024, "cut off or damaged"),
        (header(size=b"\x80" + b"\x7f" * 11) + b"\0" * 1024, "more than"),
        (header(size=b"zzzzzzzzzzz\0") + b"\0" * 1024, "cut off or damaged"),
        ((header(kind=b"g", size=b"0" * 11) * 3000), "cut off or damaged"),
        (tar(info("a", size=20))[:1100] + b"x" * 500, "cut off or damaged"),
    ],
)
def test_a_bad_tar_is_one_line(tmp_path, data, message):
    refused(tmp_path, "tar", data, message)
    refused(tmp_path, "tar.gz", gzip.compress(data), message)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.stat().st_size > 1000]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["/".join("a" * 1500)], "a name of 1500 levels"),
        (["a" * 256], "at most 64 levels, 255 bytes each"),
        (["/".join(["a" * 200] * 6)], "too long"),
        (["."], "a file without a name"),
        (["a", "a"], "has 'a' twice"),
        (["a", "./a"], "has 'a' twice"),
        (["a", "a/b"], "has 'a' twice"),
        (["a/b/c", "a/b"], "has 'a/b' twice"),
        (["a\nb"], r"'a\\nb' is no name for a file"),
        (["a\x1b[31m"], "no name for a file"),
        (["/a"], "outside its folder"),
        (["a/../../b"], "outside its folder"),
    ],
)
def test_names_that_no_file_should_have_are_refused(tmp_path, names, message):
    for kind, data in (("tar", tar(*names)), ("zip", zipped(*names))):
        refused(tmp_path, kind, data, message)
    assert not list(tmp_path.parent.glob("b"))


def test_names_in_a_zip_with_a_nul_or_of_nothing_are_refused(tmp_path):
    data = zipped("a?b")
    refused(tmp_path, "zip", data.replace(b"a?b", b"a\0b"), "no name for a file|damaged")
    refused(tmp_path, "zip", zipped(""), "a file without a name")
    refused(tmp_path, "tar", tar("a\udcff", form=tarfile.GNU_FORMAT), "not UTF-8")


def test_what_is_beyond_the_bound_or_the_free_space_is_refused_before_it_is_written(tmp_path, monkeypatch):
    large = tar(info("a", size=1 << 20), info("b", size=1 << 20))
    message = "more than 1,500,000 bytes, which is what max_gib of the source allows"
    for kind, data in (("tar", large), ("tar.gz", gzip.compress(large))):
        refused(tmp_path, kind, data, message, limit=1_500_000)
        assert not (tmp_path / "out" / "b").exists()
    whole = fuzz.make("zip", {"a": b"\0" * (1 << 20), "b": b"\0" * (1 << 20)})
    refused(tmp_path, "zip", whole, message, limit=1_500_000)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    refused(tmp_path, "zip", whole, r"needs 2,097,152 bytes in .*out, where 1,000 are free")
    assert not list((tmp_path / "out").iterdir())


def test_zeros_without_end_behind_an_archive_are_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_files, "HEADERS", 1 << 20)
    refused(tmp_path, "tar.gz", gzip.compress(tar("a") + b"\0" * (1 << 25)), "far more bytes than its files have")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_unpacking_takes_little_memory(tmp_path, kind):
    data = fuzz.make(kind, {"a": b"\0" * (48 << 20)})
    tracemalloc.start()
    try:
        assert len(unpack_sizes(tmp_path, kind, data)) == 1
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def unpack_sizes(folder: Path, kind: str, data: bytes) -> list[int]:
    path = folder / f"data.{kind}"
    path.write_bytes(data)
    archive.unpack(path, folder / "out", path.name, 1 << 30, vouched=True)
    return [file.stat().st_size for file in (folder / "out").rglob("*")]


TWO = zipped("a", "b")  # two files of 7 bytes: 38 bytes each, then 47 bytes each in the directory, then the end
END = len(TWO) - 22


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(TWO, END + 8, struct.pack("<HH", 1, 1)), "2 entries where its end says 1"),
        (changed(TWO, END + 8, struct.pack("<HH", 3, 3)), "2 entries where its end says 3"),
        (TWO[:76] + TWO[76 + 47 : END] + changed(TWO[END:], 8, struct.pack("<HHL", 1, 1, 47)), "belong to no file"),
        (TWO[:76] + TWO[76 : 76 + 47] + changed(TWO[END:], 8, struct.pack("<HHL", 1, 1, 47)), "belong to no file"),
        (changed(TWO, 76 + 47 + 42, struct.pack("<L", 0)), "to two|damaged"),
        (changed(TWO, 22, struct.pack("<L", 8)), "header differs from the directory"),
        (changed(TWO, 14, struct.pack("<L", 8)), "header differs from the directory"),
        (changed(TWO, 7, b"\x08"), "flags differ"),
        (changed(TWO, 30, b"c"), "damaged"),
        (changed(TWO, 76 + 24, struct.pack("<L", 6)), "header differs|damaged"),
        (changed(TWO, 76 + 41, bytes([0o120000 >> 8])), "'a' is a link or a special file"),
        (changed(changed(TWO, 8, b"\x63"), 76 + 10, b"\x63"), "the compression method 99 of 'a' is not supported"),
        (changed(changed(TWO, 6, b"\x01"), 76 + 8, b"\x01"), "'a' is encrypted"),
        (changed(changed(TWO, 4, b"\x63"), 76 + 6, b"\x63"), r"zip file version 9\.9; unpack it by hand"),
        (changed(changed(TWO, 6, b"\x20"), 76 + 8, b"\x20"), "compressed patched data .*; unpack it by hand"),
        (changed(changed(TWO, 6, b"\x40"), 76 + 8, b"\x40"), "strong encryption .*; unpack it by hand"),
        (changed(TWO, END + 4, b"\1"), "entries where|damaged"),
        (zipped(), "holds no files"),
        (zipped("a/"), "content|holds no files"),
        (b"", "cut off or damaged"),
        (b"PK\x05\x06", "cut off or damaged"),
        (b"PK\x05\x06" + b"\xff" * 18, "cut off or damaged"),
    ],
)
def test_a_bad_zip_is_one_line(tmp_path, data, message):
    refused(tmp_path, "zip", data, message)


def test_the_kind_of_a_tar_is_told_by_its_content(tmp_path, caplog):
    assert unpack(tmp_path, "tar", gzip.compress(fuzz.make("tar", CONTENT)), vouched=False) == CONTENT
    assert not caplog.records


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_of_a_zip_is_unpacked(tmp_path, method):
    buffer = io.BytesIO()
    content = random.Random(0).randbytes(50_000) + b"\0" * 50_000
    with zipfile.ZipFile(buffer, "w", compression=method) as made:
        made.writestr("a", content)
    assert unpack(tmp_path, "zip", buffer.getvalue()) == {"a": content}


def test_a_zip_of_a_method_without_a_bound_is_unpacked_a_little_at_a_time(tmp_path, monkeypatch):
    asked = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, size=-1: asked.append(size) or read(self, size))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_BZIP2) as made:
        made.writestr("a", b"\0" * 100_000)
    assert unpack(tmp_path, "zip", buffer.getvalue()) == {"a": b"\0" * 100_000}
    assert set(asked) == {4096}
