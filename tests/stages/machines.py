"""Two "machines" on this one: network namespaces that a cable joins, each with a host name and mounts of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NAMES, ADDRESSES = ("alpha", "beta"), ("10.77.0.1", "10.77.0.2")
CABLE = "cable0"  # each machine's end of it
TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname")


def absent() -> str | None:
    """Why there can be no two machines here; None where there can."""
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"no {lacking[0]} here"
    if subprocess.run(["unshare", "-n", "-u", "-m", "true"], capture_output=True, check=False).returncode:
        return "this user may make no namespaces"
    return None


def enter(holder: int) -> list[str]:
    """What a command begins with that runs on the machine which this process holds."""
    return ["nsenter", "-t", str(holder), "-n", "-u", "-m"]


@contextlib.contextmanager
def two(folder: Path, *, known: bool = True) -> Iterator[list[int]]:
    """The processes that hold the two machines, which find each other by name where they are `known`."""
    hosts = folder / "hosts"
    lines = [f"{address} {name}\n" for address, name in zip(ADDRESSES, NAMES, strict=True)] if known else []
    hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
    held = [subprocess.Popen(["unshare", "-n", "-u", "-m", "sleep", "1000"]) for _ in NAMES]
    try:
        pids = [process.pid for process in held]
        while any("unshare" in Path(f"/proc/{pid}/cmdline").read_text() for pid in pids):
            time.sleep(0.01)  # until it is `sleep`, in its namespaces
        first, second = (["name", CABLE, "netns", f"/proc/{pid}/ns/net"] for pid in pids)
        subprocess.run(["ip", "link", "add", *first, "type", "veth", "peer", *second], check=True)
        for pid, name, address in zip(pids, NAMES, ADDRESSES, strict=True):
            script = (
                f"hostname {name}; ip link set lo up; ip addr add {address}/24 dev {CABLE}; ip link set {CABLE} up; "
                f"mount --bind {hosts} /etc/hosts"
            )
            subprocess.run([*enter(pid), "sh", "-ec", script], check=True)
        yield pids
    finally:
        for process in held:
            process.kill()
            process.wait()


def main(pids: str, *command: str) -> int:
    """Plays `srun --ntasks=2`: the command on each machine; it waits for both, and ends both when it is ended."""
    holders = pids.split(",")
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "10.77.0.[1-2]"}
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    started = []
    try:
        for rank, holder in enumerate(holders):
            environment = {**os.environ, **slurm, "SLURM_PROCID": str(rank)}
            started.append(subprocess.Popen([*enter(int(holder)), *command], env=environment))
        return max(abs(process.wait()) for process in started)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
