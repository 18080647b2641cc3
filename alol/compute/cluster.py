"""Actors on a Ray cluster that compute pieces of tables, for `alol.compute.shards`.

Ray mends what dies: an actor is started again, on another machine if need be, and computes its piece once more. All
machines have to see this folder under the same name, which is checked, and its `.venv`.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alol.base import faults
from alol.base.errors import InputError, ParameterError, first_line
from alol.config import model_names
from alol.config.sections import Launch

AUTO, LOCAL = "auto", "local"
ADDRESS = re.compile(r"[^\s/:]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
KEYS = {"OMP_NUM_THREADS", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"}  # environment variables that actors get too
ROOT = Path(__file__).parents[2]  # where `alol` is imported from
TRY = 10.0  # seconds
AGAIN = "the same command goes on from there"


def check(launch: Launch) -> None:
    """Raises ParameterError for a cluster that cannot be meant, or without Ray; connects to nothing."""
    if launch.cluster is None:
        return
    if launch.cluster not in (AUTO, LOCAL) and not ADDRESS.fullmatch(launch.cluster):
        raise ParameterError(
            "launch.cluster",
            f"is '{launch.cluster}', but must be null, auto, local, or the host:port that `ray start --head` prints",
        )
    if importlib.util.find_spec("ray") is None:
        raise ParameterError("launch.cluster", f"is {launch.cluster}, but Ray is not installed; run `make ray`")


class Actors:
    """Actors that each load the models of `recipe`, one piece after another going to whichever is free."""

    def __init__(self, recipe: Callable[[], Any], launch: Launch, folder: Path) -> None:
        ray = _connected(launch)
        from ray.util import ActorPool

        self._ray, self._recipe, self._seconds = ray, recipe, 60 * launch.wait_minutes
        resources = ray.cluster_resources()
        accelerators = int(resources.get("GPU", 0)) if launch.device == "auto" else 0
        cores = max(1, int(resources.get("CPU", 1)))
        self.count = launch.actors or accelerators or cores
        if accelerators and self.count > accelerators:
            raise ParameterError(
                "launch.actors",
                f"is {self.count}, but each needs an accelerator and the cluster has {accelerators}; lower it",
            )
        self._token = folder.resolve() / f"shared-{secrets.token_hex(8)}"
        self._token.parent.mkdir(parents=True, exist_ok=True)
        self._token.write_text(self._token.name, encoding="utf-8")
        environment = {"OMP_NUM_THREADS": str(max(1, cores // self.count)), **_environment(recipe)}
        options = {"max_restarts": -1, "max_task_retries": -1, "runtime_env": {"env_vars": environment}}
        # where no cores are asked for, an actor needs one to be placed and none to run: a machine that stays has room
        # for those of one that leaves
        places = [{"num_gpus": 1, "num_cpus": 0}] * self.count if accelerators else _spread(ray, self.count)
        worker = ray.remote(_worker())
        self._actors = [
            worker.options(**options, **place).remote(str(Path.cwd()), str(self._token)) for place in places
        ]
        self._pool = ActorPool(self._actors)
        try:
            self._look()
        except BaseException:
            self.end()
            raise

    def _look(self) -> None:
        """Waits until all actors are placed; raises InputError where one of them does not see this folder."""
        asked = [actor.problem.remote() for actor in self._actors]
        there, absent = self._ray.wait(asked, num_returns=len(asked), timeout=self._seconds)
        if absent:
            raise InputError(
                f"the cluster had room for {len(there)} of {len(asked)} actors within launch.wait_minutes; lower "
                "launch.actors, or add machines to it"
            )
        for problem in self._got(lambda: self._ray.get(asked)):
            if problem:
                raise InputError(problem)

    @property
    def free(self) -> bool:
        """Whether an actor has nothing to do."""
        return self._pool.has_free()

    def submit(self, compute: Callable[..., Any], number: int, start: int, piece: Sequence[Any]) -> None:
        """Gives a piece to an actor that is free."""
        given = self._recipe, compute, number, start, piece
        self._pool.submit(lambda actor, _: actor.compute.remote(*given), None)

    def next(self) -> tuple[int, list[dict[str, Any]]]:
        """Waits for a piece that is done: its number and its rows."""
        return self._got(lambda: self._pool.get_next_unordered(timeout=self._seconds))

    def _got(self, get: Callable[[], Any]) -> Any:
        """What `get` returns; the user's mistakes, of an actor too, and a cluster that is lost are raised as such."""
        errors = self._ray.exceptions
        try:
            return get()
        except errors.RayTaskError as error:
            if faults.culprit(error.cause) is None:
                raise
            raise error.cause from None
        except TimeoutError:
            raise InputError(
                f"no piece came from the cluster within launch.wait_minutes ({self._seconds / 60:g}): its machines may "
                f"be gone, or their accelerators taken; see `ray status`, then run the same command again: {AGAIN}"
            ) from None
        except errors.RayError as error:
            raise InputError(
                f"the Ray cluster failed ({first_line(error)}); see to it, then run the same command again: {AGAIN}"
            ) from error

    def end(self) -> None:
        """Lets go of the actors, so that Ray ends them: what frees their memory and accelerators."""
        self._pool, self._actors = None, []  # not ray.kill, which speaks of a failure where one has still a piece
        self._token.unlink(missing_ok=True)


def _spread(ray: Any, count: int) -> list[dict[str, Any]]:
    """Options that place actors on each machine in turn, up to its cores; elsewhere where it is full or gone.

    Ray itself might give one machine all of them, since they keep no core.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [(node["NodeID"], int(node["Resources"].get("CPU", 0))) for node in ray.nodes() if node["Alive"]]
    turns = [name for turn in range(max(cores for _, cores in nodes)) for name, cores in nodes if cores > turn]
    places = itertools.islice(itertools.cycle(turns or [nodes[0][0]]), count)
    return [
        {"scheduling_strategy": NodeAffinitySchedulingStrategy(name, soft=True, _spill_on_unavailable=True)}
        for name in places
    ]


def _connected(launch: Launch) -> Any:
    """Ray, connected to the cluster that is meant; raises InputError where that cannot be."""
    check(launch)
    import ray

    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS", "") if launch.cluster == AUTO else launch.cluster
    given = {"num_gpus": 0} if launch.device == "cpu" else {}
    new = {"include_dashboard": False, **given} if launch.cluster == LOCAL else {}
    heard = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        if ADDRESS.fullmatch(address):
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), TRY).close()  # Ray itself would try for minutes
        ray.init(launch.cluster, **new, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise InputError(
            f"launch.cluster is {launch.cluster}, but there is no connection to it ({first_line(error)}); start it "
            "with `ray start --head`, with this .venv on every machine, or correct the address"
        ) from error
    finally:
        for one, handler in heard.items():
            signal.signal(one, handler)  # Ray sets its own, which would leave partial outputs
    return ray


def _environment(recipe: Callable[[], Any]) -> dict[str, str]:
    """The environment of actors: where our code is, and the variables that models are named with. No secrets."""
    named = {name for match in model_names.VARIABLE.finditer(repr(recipe)) for name in match.groups() if name}
    path = [str(Path.cwd()), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    passed = {name: value for name, value in os.environ.items() if name in KEYS | named}
    return {**passed, "PYTHONPATH": os.pathsep.join(path), "TQDM_DISABLE": "1"}


def _worker() -> type:
    """The class of actors. It is sent as it stands here, so that it can speak where our folder is not to be seen."""

    class Worker:
        def __init__(self, folder: str, token: str) -> None:
            self._models, self._problem = None, None
            try:
                os.chdir(folder)
                with open(token, encoding="utf-8") as file:  # noqa: PTH123
                    shared = token.endswith(file.read() or "nothing")
            except OSError:
                shared = False
            if not shared:
                host = os.uname().nodename
                self._problem = (
                    f"the machine {host} of the Ray cluster does not see {folder} as this one does; launch.cluster "
                    "needs a file system that all its machines share, under the same name"
                )
            sys.path[:0] = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path not in sys.path]

        def problem(self) -> str | None:
            return self._problem

        def compute(
            self, recipe: Callable[[], Any], compute: Callable[..., Any], number: int, start: int, piece: Sequence[Any]
        ) -> tuple[int, Any]:
            if self._models is None:
                self._models = recipe()
            return number, compute(self._models, start, piece, lambda count: None)

    return Worker
