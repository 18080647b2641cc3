"""Actors on a Ray cluster of two machines (two raylets here): order, mistakes, and what dies on the way."""

from __future__ import annotations

import dataclasses
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from alol.base.errors import InputError, ParameterError
from alol.base.work import Work
from alol.compute import cluster, shards
from alol.config import params
from alol.data.parts import Parts, pieces
from tests import small
from tests.compute import recipes

ray = pytest.importorskip("ray", reason="Ray is not installed: `make ray`")
LAUNCH = dataclasses.replace(params.load("demo", root=small.ROOT).launch, cluster="auto", actors=2, wait_minutes=5.0)


def test_a_cluster_that_is_not_there_is_one_line():
    launch = dataclasses.replace(LAUNCH, cluster="127.0.0.1:9")
    assert not ray.is_initialized()
    with pytest.raises(
        InputError, match=r"launch\.cluster is 127\.0\.0\.1:9, but there is no connection to it \(.*\); start it "
    ):
        cluster._connected(launch)


@pytest.fixture(scope="module")
def machines():
    """The cluster, and its second machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made, second
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def here(machines, tmp_path, monkeypatch):
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for name in ("loads", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def pool(folder: Path) -> shards.Pool:
    return shards.Pool.of(partial(recipes.noted, folder / "loads"), LAUNCH, Work(folder / "work", 0))


def mapped(by: shards.Pool, work: Path, compute=recipes.doubled, count: int = 40, source=None):
    store = Parts(Work(work, 0), recipes.COLUMNS)
    source = source or (lambda: pieces([range(count)], 2))
    return by.map(source, compute, store, shards.Bar(count, "rows", "row"))


def numbers(found) -> list[int]:
    return [row["double"] for _, rows in found for row in rows]


DOUBLES = [2 * i for i in range(40)]


def test_two_actors_do_what_one_process_does_and_load_their_models_once(here):
    with pool(here) as by:
        found = list(mapped(by, here / "work/one", partial(recipes.doubled, seconds=0.02)))
        assert [list(piece) for piece, _ in found] == [[i, i + 1] for i in range(0, 40, 2)]
        assert numbers(found) == DOUBLES
        assert len({row["by"] for _, rows in found for row in rows}) == 2
        assert numbers(mapped(by, here / "work/two")) == DOUBLES
        assert len(list((here / "loads").iterdir())) == 2
        environment = {row["by"] for _, rows in mapped(by, here / "work/said", recipes.said) for row in rows}
        assert environment == {str(here), "3 threads", "no token"}
    assert not list((here / "work").glob("shared-*"))


def test_few_pieces_are_on_their_way_at_once(here):
    drawn = [0]

    def source():
        for i in range(10_000):
            drawn[0] += 1
            yield [i]

    with pool(here) as by:
        through = mapped(by, here / "work", source=source, count=10_000)
        assert [next(through)[1][0]["double"] for _ in range(3)] == [0, 2, 4]
        assert drawn[0] <= 3 + 2 * shards.WINDOW + 1


def test_a_later_run_computes_the_rest(here):
    whole = Parts(Work(here / "work", 0), recipes.COLUMNS)
    for number in (0, 3, 17):
        whole.add(number, [{"double": -number, "by": ""}] * 2)
    whole.write()
    with pool(here) as by:
        found = numbers(mapped(by, here / "work"))
    assert [found[2 * i] for i in (0, 3, 17)] == [0, -3, -17]
    assert [one for i, one in enumerate(found) if i // 2 not in (0, 3, 17)] == [
        one for i, one in enumerate(DOUBLES) if i // 2 not in (0, 3, 17)
    ]


def test_an_actors_mistake_is_the_users_and_a_bug_shows_where_it_was(here):
    """And nothing of what was on its way comes with what is computed later."""
    with pool(here) as by:
        with pytest.raises(InputError, match=r"^row \d+ is wrong$"):
            list(mapped(by, here / "work", recipes.mistaken))
        with pytest.raises(ParameterError) as found:
            list(mapped(by, here / "work", recipes.misset))
        assert (found.value.key, found.value.reason) == ("generate.stop", "is wrong")
        with pytest.raises(ZeroDivisionError, match=r"recipes\.py.*line \d+, in buggy"):
            list(mapped(by, here / "work", recipes.buggy))
        assert numbers(mapped(by, here / "work")) == DOUBLES


@pytest.mark.parametrize("_", range(3))
def test_each_machine_has_an_actor(here, _):
    with pool(here) as by:
        through = mapped(by, here / "work", partial(recipes.doubled, seconds=0.05))
        assert numbers([next(through), *through]) == DOUBLES
        actors = [name.name.partition("-")[0] for name in (here / "loads").iterdir()]
        above = {Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1] for pid in actors}
        assert len(actors) == len(above) == 2  # each machine has a raylet, which starts its actors


def test_a_killed_actor_is_started_again_and_its_piece_computed(here):
    with pool(here) as by:
        through = mapped(by, here / "work", partial(recipes.doubled, seconds=0.05))
        first = next(through)
        os.kill(int(next((here / "loads").iterdir()).name.partition("-")[0]), signal.SIGKILL)
        assert numbers([first, *through]) == DOUBLES
    assert len(list((here / "loads").iterdir())) == 3


def test_what_does_not_come_in_time_is_said(here):
    with pool(here) as by:
        assert numbers(mapped(by, here / "work/one")) == DOUBLES
        by._actors._seconds = 0.5
        with pytest.raises(InputError, match=r"^no piece came from the cluster within launch\.wait_minutes"):
            list(mapped(by, here / "work/two", partial(recipes.doubled, seconds=5)))


def test_a_machine_that_leaves_takes_nothing_with_it(here, machines):
    made, second = machines
    with pool(here) as by:
        through = mapped(by, here / "work", partial(recipes.doubled, seconds=0.1))
        first = next(through)
        made.remove_node(second, allow_graceful=False)
        assert numbers([first, *through]) == DOUBLES


def test_a_machine_without_the_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(small.ROOT))
    monkeypatch.chdir(tmp_path)
    token = tmp_path / "shared-1"
    token.write_text("shared-1")
    worker = cluster._worker()
    assert worker(str(tmp_path), str(token)).problem() is None
    for folder, name in ((tmp_path / "absent", token), (tmp_path, tmp_path / "shared-2")):
        assert worker(str(folder), str(name)).problem() == (
            f"the machine {os.uname().nodename} of the Ray cluster does not see {folder} as this one does; "
            "launch.cluster needs a file system that all its machines share, under the same name"
        )


@pytest.mark.parametrize("given", ["10.0.0.1", "ray://10.0.0.1:10001", "yes"])
def test_an_address_that_cannot_be_one_is_refused(given):
    with pytest.raises(
        ParameterError, match=f"launch.cluster is '{given}', but must be null, auto, local, or the host:port"
    ):
        cluster.check(dataclasses.replace(LAUNCH, cluster=given))


def test_without_ray_the_cluster_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"launch\.cluster is auto, but Ray is not installed; run `make ray`"):
        cluster.check(LAUNCH)
    cluster.check(dataclasses.replace(LAUNCH, cluster=None))
