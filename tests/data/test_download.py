"""Stage download without a network: copied files, safe archives, and one clear line for what is wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import socket
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from alol.base.errors import InputError
from alol.checks import parameters
from alol.config import paths
from alol.config.sections import Source
from alol.data import archive, download
from stages.download import main
from tests.raw_project import error_line, project, write_zip

RAW = Path("data/raw/mine")
HASH = "0" * 64


def source(**keys) -> Source:
    rest = dict.fromkeys(("location", "revision", "sha256", "origin"))
    return Source(**{"kind": "path", "options": {}, "max_gib": 1.0, "tries": 20, **rest, **keys})


def unpack(path: Path, limit: int = 1 << 30) -> dict[str, bytes]:
    """The archive's files, by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive.unpack(path, folder, path.name, limit, vouched=False)
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_missing_source_says_which_and_where_to_get_it(folder, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    origin = "https://example.org/data.zip"
    keys = {"kind": "path", "location": "$NOWHERE/data.zip", "origin": origin}
    project(folder, {"archive": keys}, {})
    line = error_line(main)
    assert "tasks/mine.yaml: source.archive.location" in line
    assert "NOWHERE is not set" in line
    assert origin in line
    monkeypatch.setenv("NOWHERE", str(folder))
    assert f"{folder}/data.zip does not exist" in error_line(main)
    project(folder, {"archive": {"kind": "path", "location": "data.zip"}}, {})
    assert "must be absolute" in error_line(main)
    assert not RAW.exists()


def test_files_are_copied_archives_unpacked_and_old_files_replaced(folder, monkeypatch):
    monkeypatch.setenv("SOURCES", str(folder / "sources"))
    (folder / "sources" / "deep").mkdir(parents=True)
    (folder / "sources" / "deep" / "table.csv").write_text("a,b\n")
    write_zip(folder / "sources" / "data.zip", {"data/one.json": "1", "data/two/two.json": "2"})
    with tarfile.open(folder / "sources" / "more.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("./x.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    (RAW / "old").mkdir(parents=True)
    names = {"zip": "data.zip", "tar": "more.tar.gz", "plain": "deep/table.csv", "all": "deep"}
    download.fetch("mine", {name: source(location=f"$SOURCES/{file}") for name, file in names.items()}, RAW, folder)
    files = sorted(str(path.relative_to(RAW)) for path in RAW.rglob("*") if path.is_file())
    assert files == ["all/table.csv", "plain/table.csv", "tar/x.txt", "zip/data/one.json", "zip/data/two/two.json"]
    assert not (RAW / "old").exists()


@pytest.fixture
def package(folder, monkeypatch) -> Path:
    """The folder of an installed package that must not be imported."""
    inside = folder / "site" / "carrier"
    (inside / "deep").mkdir(parents=True)
    (inside / "__init__.py").write_text("raise SystemExit('imported')\n")
    (inside / "table.csv").write_text("a,b\n")
    write_zip(inside / "deep" / "data.zip", {"one.json": "1"})
    monkeypatch.syspath_prepend(str(folder / "site"))
    return inside


def test_what_a_package_carries_is_copied_and_unpacked_without_importing_it(package, folder):
    actual = hashlib.sha256(b"a,b\n").hexdigest()
    sources = {
        "file": source(kind="package", location="carrier/table.csv", sha256=actual.upper()),
        "prefixed": source(kind="package", location="package:carrier/table.csv"),
        "zip": source(kind="package", location="carrier/deep/data.zip"),
        "all": source(kind="package", location="carrier/deep"),
    }
    for name, one in sources.items():
        download.check(one, f"source.{name}")
        download.check_presence(one, f"source.{name}")
    download.fetch("mine", sources, RAW, folder)
    files = sorted(str(path.relative_to(RAW)) for path in RAW.rglob("*") if path.is_file())
    assert files == ["all/data.zip", "file/table.csv", "prefixed/table.csv", "zip/one.json"]
    assert (RAW / "file" / "table.csv").read_text() == "a,b\n"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({}, "source.it.location is null, but a source of kind package needs one"),
        ({"location": "carrier"}, "source.it.location is carrier, but .package:carrier. is not of the form "),
        ({"location": "carrier/../x"}, "is not of the form package:NAME/path"),
        ({"location": "$CARRIER/x"}, "is not of the form package:NAME/path"),
        ({"location": "carrier/absent.csv"}, "carrier/absent.csv does not exist; or change source.it.location"),
        (
            {"location": "absent_one/x", "origin": "example.org"},
            "absent_one is installed.*; it can be had from example",
        ),
        ({"location": "carrier/table.csv", "sha256": HASH}, f"wrong sha256: expected {HASH}, actual "),
        ({"location": "carrier/deep", "sha256": HASH}, "is a folder, and sha256 is that of a file; set it to null"),
        ({"kind": "path", "location": "package:carrier/table.csv"}, "source.it.kind is path, but must be package for"),
        ({"kind": "hub", "location": "package:carrier/x", "revision": "main"}, "source.it.kind is hub, but must be"),
    ],
)
def test_what_a_package_does_not_carry_is_one_line(package, folder, keys, line):
    project(folder, {"it": {"kind": "package", **keys}}, {})
    assert re.search(line, error_line(main))
    assert not RAW.exists()


def test_the_check_names_a_package_that_is_not_there(package, folder):
    for location, found in (("carrier/table.csv", 0), ("carrier/absent.csv", 1)):
        project(folder, {"it": {"kind": "package", "location": location}}, {})
        lines = [
            line for line in parameters.problems(root=folder) if line.startswith("tasks/mine.yaml: source.it.location")
        ]
        assert len(lines) == found


def test_a_truncated_zip_is_one_line_and_leaves_the_earlier_files(folder):
    write_zip(folder / "data.zip", {"a.json": "x" * 5000})
    content = (folder / "data.zip").read_bytes()
    (folder / "data.zip").write_bytes(content[: len(content) // 2])
    project(folder, {"archive": {"location": str(folder / "data.zip")}}, {})
    line = error_line(main)
    assert "data.zip cannot be unpacked, cut off or damaged" in line
    assert not RAW.exists()
    RAW.mkdir(parents=True)
    error_line(main)
    assert RAW.exists()


def test_a_flipped_byte_in_a_zip_is_found(folder):
    write_zip(folder / "data.zip", {"a.json": "x" * 5000})
    content = bytearray((folder / "data.zip").read_bytes())
    content[2000] ^= 1
    (folder / "data.zip").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        unpack(folder / "data.zip")


def test_a_method_of_compression_that_is_not_known_is_not_called_damage(folder):
    write_zip(folder / "data.zip", {"a.json": "x" * 5000})
    content = bytearray((folder / "data.zip").read_bytes())
    for header, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(header) + offset] = 97
    (folder / "data.zip").write_bytes(content)
    expected = (
        r"^data\.zip cannot be unpacked: the compression method 97 of 'a.json' is not supported; unpack it by hand"
    )
    with pytest.raises(InputError, match=expected):
        unpack(folder / "data.zip")


def test_a_full_disk_is_not_blamed_on_the_archive(folder, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_zip(folder / "data.zip", {"a.json": "x"})
    monkeypatch.setattr(archive, "_write", full)
    with pytest.raises(InputError, match=r"data\.zip cannot be unpacked into .*: .*No space left on device$"):
        unpack(folder / "data.zip")


@pytest.mark.parametrize("member", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_a_zip_member_outside_the_folder_is_refused(folder, member):
    write_zip(folder / "data.zip", {"good.txt": "1", member: "2"})
    project(folder, {"archive": {"location": str(folder / "data.zip")}}, {})
    line = error_line(main)
    assert "outside its folder" in line
    assert not RAW.exists()
    assert not list(folder.rglob("evil.txt"))


def test_links_in_archives_are_refused(folder):
    with tarfile.open(folder / "data.tar", "w") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "data.zip", "w") as zipped:
        zipped.writestr(info, "/etc/passwd")
    for name in ("data.tar", "data.zip"):
        with pytest.raises(InputError, match="link"):
            unpack(folder / name)


def test_an_archive_larger_than_the_bounds_is_refused(folder, monkeypatch):
    write_zip(folder / "data.zip", {"a": "x" * 100, "b": "y" * 100})
    with pytest.raises(InputError, match=r"data\.zip: more than 150 bytes, which is what max_gib of the source allows"):
        unpack(folder / "data.zip", limit=150)
    monkeypatch.setattr(archive, "MAX_FILES", 1)
    with pytest.raises(InputError, match="more than 1 files"):
        unpack(folder / "data.zip")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "url"}, "location is null, but a source of kind url needs one"),
        ({"kind": "hub", "location": "owner/name"}, "revision"),
        ({"location": "/tmp", "sha256": HASH}, "is a folder"),
        ({"location": "/tmp", "options": {"seed": 1}}, "options"),
        ({"kind": "demo", "options": {"sed": 1}}, "source.corpus.options.sed is unknown"),
    ],
)
def test_a_source_with_wrong_keys_is_refused_by_name(folder, keys, message):
    project(folder, {"corpus": keys}, {})
    assert message in error_line(main)
    assert not RAW.exists()


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device"])
def test_a_source_that_is_no_file_is_refused_and_not_waited_for(folder, kind):
    place = folder / "place" / "source.jsonl"
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "a socket":
            bound.bind(str(place))
        elif kind == "a device":
            place.symlink_to("/dev/zero")
        else:
            os.mkfifo(place)
        for sha256 in (None, HASH):
            project(folder, {"archive": {"location": str(place), "sha256": sha256}}, {})
            assert f"{place} is {kind}, not a file or a folder" in error_line(main)
        project(folder, {"archive": {"location": str(place.parent)}}, {})
        assert f"{place} is {kind}, not a file or a folder; remove it" in error_line(main)
    assert not RAW.exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (".", "link is a link to a folder, which is not copied; put the folder itself there"),
        ("link", "link: Too many levels of symbolic links; remove it, or mend the link"),
        ("nowhere", "link: No such file or directory; remove it, or mend the link"),
    ],
)
def test_links_that_lead_nowhere_or_round_are_refused(folder, target, message):
    place = folder / "place"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "link").symlink_to(target)
    project(folder, {"archive": {"location": str(place)}}, {})
    assert message in error_line(main)
    assert not RAW.exists()


def test_a_link_to_a_file_is_copied_as_the_file(folder):
    (folder / "place").mkdir()
    (folder / "table.csv").write_text("a,b\n")
    (folder / "place" / "link.csv").symlink_to(folder / "table.csv")
    download.fetch("mine", {"all": source(location=str(folder / "place"))}, RAW, folder)
    assert (RAW / "all" / "link.csv").read_text() == "a,b\n"
    assert not (RAW / "all" / "link.csv").is_symlink()


@pytest.mark.parametrize("location", ["/" + "a" * 5000, "/a\0b", "/dev/null/x"])
def test_a_path_that_no_file_can_have_does_not_exist(folder, location):
    with pytest.raises(InputError, match="does not exist"):
        download.expand(source(location=location), "source.archive")


def test_a_sparse_file_is_bounded_before_it_is_copied(folder):
    (folder / "place").mkdir()
    with (folder / "place" / "large.bin").open("wb") as file:
        file.truncate(3 << 30)
    for place in (folder / "place", folder / "place" / "large.bin"):
        with pytest.raises(InputError, match="more than 1,073,741,824 bytes, which is what max_gib"):
            download.fetch("mine", {"all": source(location=str(place))}, RAW, folder)
    assert not RAW.exists()


def test_no_source_and_a_name_that_climbs_are_refused(folder):
    project(folder, {}, {})
    assert "tasks/mine.yaml: source names nothing" in error_line(main)
    project(folder, {"../up": {"location": "/tmp"}}, {})
    assert "source is wrong: the name '../up' must begin with a letter" in error_line(main)


def test_an_experiments_copy_shares_the_main_checkouts_work_folder(folder, monkeypatch):
    copy = folder / ".dvc" / "tmp" / "exps" / "standalone" / "copy"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert paths.work("downloads") == folder / ".cache" / "alol" / "downloads"
