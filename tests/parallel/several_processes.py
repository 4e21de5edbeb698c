"""What several processes have of each other; test_multihost.py runs this file in each of two or more.

Each writes lines `name value`, which the test compares, to `told.0`, `told.1`, .. in the folder given: on standard
output several threads of Gloo print into each other's lines.
"""

import os
import signal
import sys
import time

import jax
import numpy as np

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


def fails(process):
    if os.environ["JAX_PROCESS_ID"] == str(process):
        raise ValueError("no such thing")
    return "done"


def main(folder):
    multihost.start()
    me = int(os.environ["JAX_PROCESS_ID"])
    say("count", multihost.count())
    say("first", multihost.is_first())

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

    own = {n: np.full(n, n) for n in range(20) if n % multihost.count() == me}
    items = multihost.gathered(own)
    say("gathered", all(np.array_equal(items[n], np.full(n, n)) for n in range(20)) and len(items) == 20)

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
