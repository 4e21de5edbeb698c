"""The table of the paper's tables and figures."""

import re

from experiments import paper, table
from experiments.studies import BY_NAME


def row(value, commit="a" * 40, date="2026-01-01"):
    numbers = {"all_correct": value, "accuracy": value, "critical_path": 100 * value, "concurrency": value, "forks": 1}
    numbers |= {"format_error": 0.0, "tokens": 200.0, "temperature": 0.6, "stderr": {"all_correct": 0.01}}
    return numbers | {"at_least": {str(k): value for k in range(1, 5)}, "commit": commit, "date": date}


def results(**studies):
    """By seed: studies whose rows after RL have these values, one a seed."""
    seeds = range(max(len(values) for values in studies.values()))
    return {
        seed: {"paradigms": {name: {"after_rl": row(v[seed])} for name, v in studies.items() if seed < len(v)}}
        for seed in seeds
    }


def line(text, what):
    return next(one for one in text.splitlines() if one.startswith(f"| {what} |"))


def test_every_study_that_a_row_shows_exists_and_is_run_by_its_command():
    parts = {"make reproduce-tiny": "tiny", "make studies": "studies"}
    for one in paper.ROWS:
        for shown in one.shown:
            study = BY_NAME[shown.study]
            if one.command in parts:
                assert parts[one.command] == study.part or study.part == "tiny", (one.what, study.name)
            assert study.config in one.configs or study.overrides, (one.what, study.name)


def test_a_row_says_what_it_needs_has_numbers_or_a_figure():
    for one in paper.ROWS:
        assert sum(map(bool, (one.chip_hours, one.shown, one.drawn))) == 1, one.what


def test_means_and_spreads_over_seeds_stand_with_date_and_commit():
    text = paper.markdown(results(**{"async": [0.8, 0.9, 1.0], "sequential": [0.5]}))
    shown = line(text, "MCD, in shape")
    assert "all correct, critical path: async (3) 90.0 ± 5.8, 90 ± 5.8; parallel not run; " in shown
    assert shown.endswith("; sequential (1) 50.0 ± 1.0, 50. 2026-01-01, `aaaaaaaaaa` |")


def test_what_was_not_run_says_what_it_would_take():
    text = paper.markdown({})
    assert line(text, "MCD, in shape").endswith("not run: needs 2 CPU cores, 1:30 h |")
    assert "not run: needs 512 chip-hours" in line(text, "Multi-solution Countdown (MCD), all 4 correct")
    assert re.findall(r"± ", text) == []


def test_the_studies_have_a_row_each_and_the_demo_one_before_rl():
    found = results(**{"async": [0.8, 0.9], "pool_2": [0.7]})
    found[0]["paradigms"]["async"]["after_sft"] = row(0.2)
    lines = paper.studies_markdown(found).splitlines()[2:]
    assert [one.split(" | ")[0] for one in lines] == ["| async, no RL", "| async", "| async, c = 2"]
    assert lines[1].startswith("| async | 0.6 | 2 | 85.0 ± 5.0 |")


def test_tables_are_written_between_their_markers_and_nowhere_else(tmp_path):
    originals = sorted({path for path, _, _ in table.blocks()})
    assert len(originals) == 5
    for original in originals:
        text = original.read_text(encoding="utf-8")
        emptied = re.sub(r"(<!-- (\w+):begin -->\n).*?(<!-- \2:end -->)", r"\1\3", text, flags=re.DOTALL)
        assert len(emptied) < len(text)
        copied = tmp_path / original.relative_to(table.ROOT)
        copied.parent.mkdir(exist_ok=True)
        copied.write_text(emptied, encoding="utf-8")
    written = table.write(tmp_path)
    assert [path.relative_to(tmp_path) for path in written] == [path.relative_to(table.ROOT) for path in originals]
    for path, original in zip(written, originals, strict=True):
        assert path.read_text(encoding="utf-8") == original.read_text(encoding="utf-8")
