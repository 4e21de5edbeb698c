"""What several processes have of each other; test_multihost.py runs this file in each of two or more.

Each writes lines `name value`, which the test compares, to `told.0`, `told.1`, .. in the folder given: on standard
output several threads of Gloo print into each other's lines.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax._src import distributed

from asyncthink_jax.parallel import multihost
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.parallel.preemption import Preemption
from asyncthink_jax.parallel.sharding import own_rows, replicated, row_spec, shard

SIGN = "written by the first"


def say(name, value):
    with open(f"{sys.argv[1]}/told.{os.environ['JAX_PROCESS_ID']}", "a") as file:
        print(name, str(value).replace("\n", " "), file=file)


def told(function, *arguments):
    """What it returns or raises."""
    try:
        return function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def listeners(port):
    """Addresses on which this machine listens at a port, as Linux writes them; nothing where it is another system."""
    lines = [line.split() for file in Path("/proc/net").glob("tcp*") for line in file.read_text().splitlines()[1:]]
    addresses = [line[1].split(":") for line in lines if line[3] == "0A"]  # listens
    return sorted(address for address, own in addresses if int(own, 16) == port)


def pack(items):
    return json.dumps(items).encode()


def unpack(message):
    return {int(n): text for n, text in json.loads(message).items()}


def fails(process):
    if os.environ["JAX_PROCESS_ID"] == str(process):
        raise ValueError("no such thing")
    return "done"


def main(folder):
    multihost.start()
    me = int(os.environ["JAX_PROCESS_ID"])
    say("count", multihost.count())
    say("first", multihost.is_first())
    say("listeners", listeners(int(os.environ["JAX_COORDINATOR_ADDRESS"].rpartition(":")[2])))

    say("from_first", multihost.on_first(lambda: {"me": me}))
    path = os.path.join(folder, "file")

    def write_or_read():
        if multihost.is_first():
            time.sleep(0.5)  # the others would look too early
            with open(path, "w") as file:
                file.write(SIGN)
        with open(path) as file:
            return file.read()

    say("file", multihost.first_goes_first(write_or_read))
    say("first_fails", told(multihost.on_first, lambda: fails(0)))
    say("second_fails", told(multihost.first_goes_first, lambda: fails(1)))

    own = {n: n * "x" for n in range(20) if n % multihost.count() == me}
    say("gathered", multihost.gathered(own, pack, unpack) == {n: n * "x" for n in range(20)})
    say("unreadable", told(multihost.gathered, own, pack if me else lambda items: b"no JSON", unpack))
    if me == 1:
        distributed.global_state.client.key_value_set("asyncthink/1000/1", "(dp0\n")  # somebody else might have
    say("not_told", told(multihost._heard, 1000, 1))

    devices = jax.device_count()
    rows = np.arange(2 * devices * 3).reshape(-1, 3)
    split = make_mesh(data=devices)
    placed = shard(rows, row_spec(split))
    say("local_rows", own_rows(placed)[:, 0].tolist())
    say("sum", int(jax.jit(lambda x: x.sum(), out_shardings=replicated(split))(placed)))
    # Every row has copies in all processes.
    copies = own_rows(shard(rows, row_spec(make_mesh(data=1, tensor=devices))))
    say("rows_with_copies", copies[:, 0].tolist())

    preemption = Preemption()
    preemption.listen()
    polls = 0
    deadline = time.monotonic() + 30
    while not preemption.reached() and time.monotonic() < deadline:
        polls += 1
        if me == multihost.count() - 1 and polls == 5:
            os.kill(os.getpid(), signal.SIGTERM)  # the last one alone
        time.sleep(0.002 * (me + 1))
        jax.block_until_ready(jax.jit(lambda x: x.sum(), out_shardings=replicated(split))(placed))  # in step
    say("stopped", time.monotonic() < deadline)
    say("polls", polls)
    say("exit_code", preemption.exit_code)


if __name__ == "__main__":
    main(sys.argv[1])
