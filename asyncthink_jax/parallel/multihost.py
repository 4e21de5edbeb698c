"""Several processes as one program: how they start, end together, and exchange data.

Every process runs the same command. Arrays are global and jitted steps run on all devices, so most of the code need not
know of the others. Three things differ. Only process 0 ("the first") writes and prints. It also does first whatever
depends on files. Objects that only one process has (its episodes) are exchanged.

A process is one of several if JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID
are set, as launch/local.sh does, or if it is a worker of a TPU slice with more than one host.

Neither this code nor jax authenticates or encrypts anything: whoever reaches the ports of the processes can end the run
or give it false numbers. So the coordinator listens only on the address that the processes are given, messages can only
be JSON and arrays, and the network has to keep others out (launch/README.md).
"""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import sys
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

# The coordinator's key-value store has no public name. Unlike collectives it works before the devices are set up.
from jax._src import distributed
from jax.experimental import multihost_utils

from asyncthink_jax.shown import complain

T = TypeVar("T")

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT_S = 30  # a process without a heartbeat for this long is lost, and jax ends the others
_WAIT_MS = 3_600_000  # for another process that is busy; if it is lost, the heartbeats end the wait
_TOLD_LIMIT = 1 << 20  # bytes of a message through the coordinator
_MESSAGE_LIMIT = 1 << 30  # bytes of a process's message through the devices' network
_LOST = ("gloo", "connection", "unavailable", "heartbeat", "coordination", "barrier", "deadline_exceeded", "socket")

_calls = itertools.count()  # the same in all processes, since all make the same calls


class ProcessError(Exception):
    """The processes can't find each other, or another process has failed. The message is one line.

    `exit_code`: 2 if the same command would fail again, 1 if the cause may have been temporary.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


def start(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, if there are any. Call it before the first use of a device.

    Raises ProcessError for variables that contradict each other, and if the other processes can't be reached.
    """
    arguments = cluster(environment)
    if arguments is None or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT_S)
    except RuntimeError as error:
        raise ProcessError(_unjoined(error, arguments), exit_code=1) from error


def _unjoined(error: Exception, arguments: Mapping[str, Any]) -> str:
    where = arguments.get("coordinator_address", "the coordinator of the slice")
    line = f"can't join the other processes at {where}: {_line(error)}"
    if "coordinator_bind_address" in arguments and "start RPC server" in line:  # not an address of this machine
        line += f"; JAX_COORDINATOR_BIND_ADDRESS, now {arguments['coordinator_bind_address']}, is where it listens"
    return line


def cluster(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize` (empty: jax finds them itself), or None for a single process."""
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if not given:
        return {} if _on_tpu_pod(environment) else None
    if missing := [name for name in VARIABLES if name not in given]:
        raise ProcessError(f"{', '.join(given)} without {', '.join(missing)}: several processes need all three")
    address, *numbers = given.values()
    if not all(number.isdecimal() for number in numbers) or not int(numbers[1]) < int(numbers[0]):
        raise ProcessError(
            f"JAX_NUM_PROCESSES={numbers[0]} and JAX_PROCESS_ID={numbers[1]}: processes are numbered from 0 to N - 1"
        )
    if not address.rpartition(":")[2].isdecimal() or ":" not in address:
        raise ProcessError(f"JAX_COORDINATOR_ADDRESS={address} is not host:port")
    if int(numbers[0]) == 1:
        return None
    return {
        "coordinator_address": address,
        # jax would listen on all addresses of the machine.
        "coordinator_bind_address": environment.get("JAX_COORDINATOR_BIND_ADDRESS") or address,
        "num_processes": int(numbers[0]),
        "process_id": int(numbers[1]),
        "cluster_detection_method": "deactivate",
    }


def _on_tpu_pod(environment: Mapping[str, str]) -> bool:
    """Whether this is a worker of a TPU slice with several hosts, or of several slices."""
    if "tpu" not in (environment.get("JAX_PLATFORMS") or "tpu") or not importlib.util.find_spec("libtpu"):
        return False
    if int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return True
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if not workers:
        # Importing jax sets this variable where there is no TPU. A TPU VM knows of its slice from the metadata server.
        if "TPU_SKIP_MDS_QUERY" in environment:
            return False
        workers = _metadata("worker-network-endpoints", environment)
        if workers and "," not in workers:  # of one host, but perhaps of several slices
            slices = re.search(r"^MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata("tpu-env", environment), re.MULTILINE)
            return slices is not None and int(slices[1]) > 1
    return len(workers.split(",")) > 1


def _metadata(key: str, environment: Mapping[str, str]) -> str:
    """The value of `key` on the VM's metadata server; "" without such a server."""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    with contextlib.suppress(OSError):
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    return ""


# ---------------------------------------------------------------------------------------------- who does what, and when


def count() -> int:
    """The number of processes. Unlike `jax.process_count` it does not start the devices."""
    return distributed.global_state.num_processes


def is_first() -> bool:
    """Whether this is process 0, which prints and writes."""
    return distributed.global_state.process_id == 0


def number() -> int:
    """The index of this process, from 0."""
    return distributed.global_state.process_id


def on_first(function: Callable[[], T]) -> T:
    """Calls `function` in the first process only and returns its result (JSON) in all. An error is raised in all."""
    return _in_all(function, others=lambda value: value)


def first_goes_first(function: Callable[[], T]) -> T:
    """Calls `function` in the first process and then in the others, which find the files that the first has written.

    An error in one process is raised in all, in the others as ProcessError.
    """
    made: list[T] = []

    def make() -> None:
        made.append(function())

    _in_all(make, others=lambda _: make())
    return made[0]


def _in_all(function: Callable[[], T], others: Callable[[T], Any]) -> T:
    """Calls `function` in the first process, then `others` with its result in the others. All raise an error of any."""
    if count() == 1:
        return function()
    call, own = next(_calls), distributed.global_state.process_id
    value: Any = None
    try:
        value = function() if is_first() else _heard(call, 0)
        if not is_first():
            others(value)
    except ProcessError:
        _tell(call, own, value=None)
        raise
    except Exception as error:
        _tell(call, own, error=_line(error), exit_code=getattr(error, "exit_code", 2))
        raise
    _tell(call, own, value=value if is_first() else None)
    for other in range(count()):
        _heard(call, other)
    return value


def _store() -> Any:
    """The coordinator's key-value store, which works before the devices do."""
    return distributed.global_state.client


def _tell(call: int, process: int, **what: Any) -> None:
    _store().key_value_set(f"asyncthink/{call}/{process}", json.dumps(what))


def _heard(call: int, process: int) -> Any:
    """Waits for a process's message about a call. Raises ProcessError if it reports an error or can't be read."""
    key = f"asyncthink/{call}/{process}"
    message = _store().blocking_key_value_get_bytes(key, _WAIT_MS)
    told = _told(message)
    if told is None:
        raise ProcessError(f"the message of process {process} can't be read: {message[:40]!r}", exit_code=1)
    if "error" in told:
        raise ProcessError(f"in process {process}: {told['error']}", told["exit_code"])
    return told["value"]


def _told(message: bytes) -> dict[str, Any] | None:
    """The message of `_tell`; None for anything else."""
    if len(message) > _TOLD_LIMIT:
        return None
    try:
        told = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    if told.keys() == {"value"}:
        return told
    is_error = told.keys() == {"error", "exit_code"} and type(told["exit_code"]) is int
    return told if is_error and isinstance(told["error"], str) and told["error"].isprintable() else None


def told_by_all(own: T) -> list[T]:
    """The value (JSON) of each process, in their order. All processes call it."""
    if count() == 1:
        return [own]
    call = next(_calls)
    _tell(call, number(), value=own)
    return [_heard(call, other) for other in range(count())]


def gathered(
    own: dict[int, T], pack: Callable[[dict[int, T]], bytes], unpack: Callable[[bytes], dict[int, T]]
) -> dict[int, T]:
    """Gives every process the items of all processes, by their number. No two processes have the same numbers.

    The items travel over the devices' network, as the bytes that `pack` makes of them. `unpack` has to accept any bytes
    and to raise ValueError if they are no such message.

    Raises ProcessError for a message that can't be read, is too long, or repeats a number of another process.
    """
    if count() == 1:
        return own
    message = np.frombuffer(pack(own), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([min(len(message), _MESSAGE_LIMIT + 1)])).reshape(-1)
    if not 0 <= lengths.min() <= lengths.max() <= _MESSAGE_LIMIT:  # seen by all of them
        raise ProcessError(f"processes have messages of {lengths.tolist()} bytes; {_MESSAGE_LIMIT} at most")
    # Sizes are powers of two, so that few programs are compiled.
    padded = np.zeros(1 << (int(lengths.max()) - 1).bit_length(), np.uint8)
    padded[: len(message)] = message
    return merged(
        [
            one[:length].tobytes()
            for one, length in zip(multihost_utils.process_allgather(padded), lengths, strict=True)
        ],
        unpack,
    )


def merged(messages: Sequence[bytes], unpack: Callable[[bytes], dict[int, T]]) -> dict[int, T]:
    """The items in the messages of processes 0, 1, ..; raises ProcessError as `gathered` does."""
    items: dict[int, T] = {}
    for process, message in enumerate(messages):
        try:
            found = unpack(message)
        except ValueError as error:
            raise ProcessError(f"the items of process {process} can't be read: {_line(error)}", exit_code=1) from None
        if items.keys() & found.keys():
            raise ProcessError(f"process {process} repeats an item of another process", exit_code=1)
        items |= found
    return items


# ------------------------------------------------------------------------------------------------------- ended together


@contextlib.contextmanager
def leaving_together(*shared: type[BaseException], refusals: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """With several processes, ends this one at once, with one line, at an error that the others may not have.

    A normal exit would wait for the other processes, which would wait for this one in the middle of a step. After an
    immediate exit they notice a failing collective or a missing heartbeat, and end too.

    Args:
        shared: errors that all processes have; they are raised.
        refusals: errors whose message is enough for the user; the exit code is the error's own, or 2.
    """
    try:
        yield
    except shared:
        raise
    except BaseException as error:
        if count() == 1:
            raise
        _end(error, refusals)


def _end(error: BaseException, refusals: tuple[type[BaseException], ...]) -> None:
    """Prints the reason and exits without waiting for the other processes."""
    this = f"process {distributed.global_state.process_id} of {count()}"
    if isinstance(error, KeyboardInterrupt):
        line, code = f"{this} interrupted; the same command goes on from the last checkpoint", 130
    elif any(sign in f"{error} {error.__cause__}".lower() for sign in _LOST):
        line, code = f"error: {this} ends, for another has ended or can't be reached: {_line(error)}", 1
        line += "; the same command in all of them goes on from the last checkpoint"
    elif isinstance(error, (ProcessError, *refusals)):
        line, code = f"error: {this}: {_line(error)}", getattr(error, "exit_code", 2)
    else:
        line, code = f"error: {this} ends, and with it the others: {_line(error)}", 1
        traceback.print_exception(error)
    sys.stdout.flush()
    complain(line)
    os._exit(code)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return "".join(one if one.isprintable() else "\ufffd" for one in text[:300]) or type(error).__name__
