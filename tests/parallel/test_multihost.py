"""When there are several processes, and what they have of each other."""

import ast
import http.server
import pathlib
import sys
import threading

import jax.numpy as jnp
import numpy as np
import processes
import pytest

from asyncthink_jax.parallel import multihost
from asyncthink_jax.parallel.multihost import (
    ProcessError,
    cluster,
    first_goes_first,
    gathered,
    leaving_together,
    on_first,
)
from asyncthink_jax.parallel.sharding import own_rows

GIVEN = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_the_variables_of_jax_say_who_is_who():
    assert cluster(GIVEN) == {
        "coordinator_address": "10.0.0.1:1234",
        "coordinator_bind_address": "10.0.0.1:1234",
        "num_processes": 4,
        "process_id": 3,
        "cluster_detection_method": "deactivate",
    }
    assert cluster(GIVEN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None
    assert cluster({}) is None
    behind_another_address = cluster(GIVEN | {"JAX_COORDINATOR_BIND_ADDRESS": "0.0.0.0:1234"})
    assert behind_another_address["coordinator_bind_address"] == "0.0.0.0:1234"


def test_where_it_cannot_listen_the_variable_for_that_is_named():
    line = multihost._unjoined(RuntimeError("UNKNOWN: Failed to start RPC server"), cluster(GIVEN))
    assert line.endswith("; JAX_COORDINATOR_BIND_ADDRESS, now 10.0.0.1:1234, is where it listens")
    assert "BIND" not in multihost._unjoined(RuntimeError("DEADLINE_EXCEEDED"), cluster(GIVEN))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES without JAX_PROCESS_ID"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_NUM_PROCESSES=4 and JAX_PROCESS_ID=4: processes are numbered from 0 to N - 1"),
        ({"JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES=many and"),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "JAX_COORDINATOR_ADDRESS=10.0.0.1 is not host:port"),
    ],
    ids=str,
)
def test_variables_that_make_no_sense_are_refused(change, says):
    with pytest.raises(ProcessError) as error:
        cluster(GIVEN | change)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def tpu(monkeypatch):
    """A machine with libtpu."""
    monkeypatch.setattr(multihost.importlib.util, "find_spec", lambda name: name == "libtpu")


@pytest.fixture
def metadata():
    """A metadata server that knows the attributes which the test gives it; yields its address and these."""
    attributes: dict[str, str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.path.rpartition("/attributes/")[2]
            known = asked in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            if known:
                self.wfile.write(attributes[asked].encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}, attributes
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "a"}, True),
        ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "a"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),  # Colab
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_SKIP_MDS_QUERY": "1"}, False),
    ],
    ids=str,
)
def test_workers_of_a_slice_find_each_other_by_themselves(tpu, environment, several):
    assert cluster(environment) == ({} if several else None)


def test_a_tpu_vm_asks_its_metadata_server(tpu, metadata):
    environment, attributes = metadata
    assert cluster(environment) is None  # it does not say
    attributes["worker-network-endpoints"] = "unknown:unknown:10.0.0.1"
    assert cluster(environment) is None
    attributes["tpu-env"] = "ACCELERATOR_TYPE: 'v5litepod-8'\nMEGASCALE_NUM_SLICES: '2'\n"  # of one host each
    assert cluster(environment) == {}
    attributes["tpu-env"] = "ACCELERATOR_TYPE: 'v5litepod-16'\n"
    attributes["worker-network-endpoints"] += ",unknown:unknown:10.0.0.2"
    assert cluster(environment) == {}
    assert cluster({"GCE_METADATA_IP": "127.0.0.1:1"}) is None  # there is none


def test_without_libtpu_a_slice_is_none_of_ours(monkeypatch):
    monkeypatch.setattr(multihost.importlib.util, "find_spec", lambda name: None)
    assert cluster({"TPU_WORKER_HOSTNAMES": "a,b"}) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"(dp0\n",
        b"\xff",
        b"[]",
        b"{}",
        b'{"value": 1, "more": 2}',
        b'{"error": 1, "exit_code": 2}',
        b'{"error": "x"}',
        b'{"error": "\\u001b[2J", "exit_code": 2}',
        b"[" * 10**5,
        b'{"value": "' + b"x" * (1 << 20) + b'"}',
    ],
    ids=range(11),
)
def test_what_is_no_message_through_the_coordinator_is_known(message):
    assert multihost._told(message) is None
    assert multihost._told(b'{"value": null}') == {"value": None}
    assert multihost._told(b'{"error": "no", "exit_code": 2}') == {"error": "no", "exit_code": 2}


def test_messages_that_contradict_each_other_are_refused():
    def unpack(message):
        return {int(number): "" for number in message.split()}

    assert multihost.merged([b"1 3", b"2"], unpack) == {1: "", 2: "", 3: ""}
    with pytest.raises(ProcessError, match="process 1 repeats an item of another process"):
        multihost.merged([b"1 3", b"3"], unpack)
    with pytest.raises(ProcessError, match="the items of process 1 can't be read: invalid literal") as raised:
        multihost.merged([b"1", b"x"], unpack)
    assert raised.value.exit_code == 1


def test_a_process_alone_is_the_first_and_has_everything():
    assert multihost.count() == 1 and multihost.is_first()
    assert on_first(lambda: 3) == first_goes_first(lambda: 3) == 3
    assert gathered({2: "two"}, bytes, dict) == {2: "two"}
    np.testing.assert_array_equal(own_rows({"x": jnp.arange(4)})["x"], np.arange(4))
    with pytest.raises(KeyError), leaving_together():
        raise KeyError


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_what_processes_have_of_each_other(count, tmp_path):
    program = pathlib.Path(__file__).with_name("several_processes.py")
    started = processes.start(count, [program], tmp_path, folder=tmp_path)
    assert processes.codes(started) == [0] * count, processes.said(tmp_path, "err", count)
    lines = [dict(line.split(" ", 1) for line in text.splitlines()) for text in processes.said(tmp_path, "told", count)]
    by_name = {name: [line[name] for line in lines] for name in lines[0]}
    same = {name: values[0] for name, values in by_name.items() if len(set(values)) == 1}
    assert same.items() >= {
        ("count", str(count)),
        ("from_first", "{'me': 0}"),
        ("file", "written by the first"),
        ("gathered", "True"),
        (
            "unreadable",
            "ProcessError: the items of process 0 can't be read: Expecting value: line 1 column 1 (char 0)",
        ),
        ("not_told", "ProcessError: the message of process 1 can't be read: b'(dp0\\n'"),
        ("sum", str(sum(range(2 * 2 * count * 3)))),
        ("stopped", "True"),
        ("exit_code", "0"),
    }
    assert "polls" in same, "all stop at the same poll"
    if sys.platform == "linux":
        [listener] = ast.literal_eval(same["listeners"])
        assert listener.endswith("0100007F"), "127.0.0.1, perhaps mapped into IPv6, and not all addresses"
    assert by_name["first"] == ["True"] + ["False"] * (count - 1)
    first_fails, second_fails = by_name["first_fails"], by_name["second_fails"]
    assert first_fails == ["ValueError: no such thing"] + ["ProcessError: in process 0: no such thing"] * (count - 1)
    assert second_fails.pop(1) == "ValueError: no such thing"
    assert set(second_fails) == {"ProcessError: in process 1: no such thing"}
    # Each has the rows of its own devices, four; of those that all have copies of, the first has all.
    assert by_name["local_rows"] == [str([3 * (4 * process + n) for n in range(4)]) for process in range(count)]
    everything = [3 * n for n in range(4 * count)]
    assert by_name["rows_with_copies"] == [str(everything)] + ["[]"] * (count - 1)
