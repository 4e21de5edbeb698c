"""results.json, which several runs may write."""

import threading
import time

from asyncthink_jax.storage import results as results_file


def test_runs_that_share_a_results_file_lose_no_row(tmp_path, monkeypatch):
    read = results_file.read_results

    def slowly(workdir):
        results = read(workdir)
        time.sleep(0.01)  # time for another one to read the same
        return results

    monkeypatch.setattr(results_file, "read_results", slowly)

    def add(name):
        with results_file.changing_results(tmp_path) as results:
            results["paradigms"][name] = {}

    names = [f"row{n}" for n in range(8)]
    writers = [threading.Thread(target=add, args=(name,)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(read(tmp_path)["paradigms"]) == names


def test_a_row_is_of_its_temperature_and_its_samples():
    assert results_file.measured_so({"temperature": 0.6, "samples": 4}, 0.6, 4)
    assert results_file.measured_so({"temperature": 0.0, "samples": 1}, 0.0, 4)  # greedy takes one
    assert not results_file.measured_so({"temperature": 0.6, "samples": 1}, 0.6, 4)
    assert not results_file.measured_so({"temperature": 0.6, "samples": 4}, 1.0, 4)
    assert not results_file.measured_so(None, 0.6, 1)
