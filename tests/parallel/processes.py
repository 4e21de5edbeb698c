"""Starts one program in several real processes on this machine, as launch/local.sh does."""

import os
import socket
import subprocess
import sys


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(count, program, *arguments, devices=2, folder, env=()):
    """`count` processes of `python program arguments`; process i writes to `folder/out.i` and `folder/err.i`."""
    port, started = free_port(), []
    for process in range(count):
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        if count > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(process),
            }
        environment |= {"JAX_PLATFORMS": "cpu", **dict(env)}
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}"
        with open(folder / f"out.{process}", "w") as out, open(folder / f"err.{process}", "w") as error:
            command = [sys.executable, *program, *map(str, arguments)]
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=error, text=True))
    return started


def codes(processes, timeout=300):
    """Their exit codes, when all have ended; one that has not by then is killed."""
    try:
        return [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def said(folder, what, count):
    """What processes 0, 1, .. have written."""
    return [(folder / f"{what}.{process}").read_text() for process in range(count)]
