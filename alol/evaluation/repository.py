"""What Git has of a project's versions: the workspace, every commit on a branch, every experiment of DVC.

DVC's own table of experiments (`dvc.api.exp_show`) has the same and takes a tenth of a second for each commit, most of
it to format cells that nobody sees; here two processes of Git read the files of all commits.
"""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alol.base.errors import InputError

WORKSPACE = "workspace"
EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")  # the commit it started from, and its name
UNFINISHED = {"queued": "refs/exps/celery/stash", "failed": "refs/exps/celery/failed"}  # of DVC's queue
TAB = "%09"


@dataclass(frozen=True)
class Version:
    """What the user calls it, its commit (or WORKSPACE) and date, and the content of the files that it has."""

    name: str
    revision: str
    date: str
    files: Mapping[str, bytes]


def git(*arguments: str) -> str | None:
    """A Git command's output; None when it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def versions(files: Sequence[str]) -> list[Version]:
    """The workspace, then the commits, newest first, each followed by the experiments that start from it.

    `files` are paths from here. Raises InputError outside of a Git repository.
    """
    if git("rev-parse", "--git-dir") is None:
        raise InputError("there is no Git repository here; run from a Git repository with DVC")
    named = list(_named())
    contents = _contents([(revision, file) for _, revision, _ in named for file in files])
    own = {file: Path(file).read_bytes() for file in files if Path(file).exists()}
    return [
        Version(WORKSPACE, WORKSPACE, "", own),
        *(
            Version(name, revision, date, {file: text for file in files if (text := contents[revision, file])})
            for name, revision, date in named
        ),
    ]


def _named() -> Iterator[tuple[str, str, str]]:
    """Name, commit and date of each version but the workspace."""
    names = dict(_branches_and_tags())
    experiments: dict[str, list[tuple[str, str, str]]] = {}
    for revision, date, ref in _refs("refs/exps", "%(objectname)", "%(committerdate:iso-strict)", "%(refname)"):
        if match := EXPERIMENT.fullmatch(ref):
            experiments.setdefault(match[1] + match[2], []).append((match[3], revision, date))
    for line in (git("log", "--format=%H %cI", "HEAD", "--branches") or "").splitlines():
        revision, date = line.split()
        yield names.get(revision, revision[:7]), revision, date
        yield from experiments.pop(revision, [])
    for left in experiments.values():  # of commits that no branch has any more
        yield from left


def _branches_and_tags() -> Iterator[tuple[str, str]]:
    """Commit and name; where one has several, that of a branch comes last."""
    for kind in ("refs/tags", "refs/heads"):
        for revision, tagged, name in _refs(kind, "%(objectname)", "%(*objectname)", "%(refname:short)"):
            yield tagged or revision, name


def _refs(pattern: str, *fields: str) -> Iterator[list[str]]:
    listed = git("for-each-ref", f"--format={TAB.join(fields)}", pattern) or ""
    return (line.split("\t") for line in listed.splitlines())


def unfinished() -> list[tuple[str, str]]:
    """Name and state of each experiment that DVC's queue holds."""
    found = []
    for state, ref in UNFINISHED.items():
        for line in (git("reflog", "show", "--format=%gs", ref) or "").splitlines():
            found.append((line.rpartition(":")[2] or line, state))
    return found


def _contents(wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes | None]:
    """(commit, file) -> its content, None where there is none; each content is read and kept once."""
    keys = list(wanted)
    ids = dict(zip(keys, _objects(keys), strict=True))
    texts = _blobs(list(dict.fromkeys(one for one in ids.values() if one)))
    return {key: texts.get(one) if one else None for key, one in ids.items()}


def _objects(keys: Sequence[tuple[str, str]]) -> list[str | None]:
    """The id of the blob that each (commit, file) names."""
    asked = "".join(f"{revision}:./{file}\n" for revision, file in keys)
    lines = _cat_file("--batch-check", asked).decode().splitlines()
    fields = [line.split() for line in lines]
    return [found[0] if len(found) == 3 and found[1] == "blob" else None for found in fields]


def _blobs(ids: Sequence[str]) -> dict[str, bytes]:
    stream = io.BytesIO(_cat_file("--batch", "".join(f"{one}\n" for one in ids)))
    found = {}
    for one in ids:
        size = int(stream.readline().split()[2])
        found[one] = stream.read(size)
        stream.read(1)  # the line's end behind it
    return found


def _cat_file(mode: str, asked: str) -> bytes:
    return subprocess.run(["git", "cat-file", mode], input=asked.encode(), capture_output=True, check=True).stdout
