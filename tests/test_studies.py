"""The registry of studies: what it names exists, what one needs stands before it, and it takes as long as it says."""

import re

import pytest

from asyncthink_jax.config import experiment_file, load
from experiments import studies
from experiments.studies import BY_NAME, PARTS, STUDIES, runs_of


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_config_of_a_study_loads_with_its_overrides_and_differs_by_them(study):
    changed = load(study.config_file, study.overrides)
    if study.overrides:
        assert changed != experiment_file(study.config_file)
    # The first temperature of the scores is the one that rows without a suffix are of.
    assert changed.eval.temperatures[0] == changed.rl.temperature


def test_what_a_study_needs_runs_before_it_with_the_same_seed():
    for names in (*PARTS, *BY_NAME):
        runs = runs_of([names])
        assert len(set(runs)) == len(runs)
        for place, (study, seed) in enumerate(runs):
            assert not study.needs or (BY_NAME[study.needs], seed) in runs[:place], (names, study.name)


def test_a_study_that_takes_a_cold_start_has_the_model_the_words_and_the_cold_start_of_the_other():
    for study in (study for study in STUDIES if study.cold_start):
        own, other = (load(one.config_file, one.overrides) for one in (study, BY_NAME[study.cold_start]))
        assert (own.model, own.sft, own.pool.max_forks) == (other.model, other.sft, other.pool.max_forks)
        assert own.task.tokenizer_texts() == other.task.tokenizer_texts()


def test_a_study_that_scores_another_has_its_model_and_its_training():
    for study in (study for study in STUDIES if study.scores):
        other = BY_NAME[study.scores]
        assert study.config == other.config and not other.overrides
        own, trained = (load(one.config_file, one.overrides) for one in (study, other))
        assert (own.model, own.sft, own.rl) == (trained.model, trained.sft, trained.rl)


def test_reproduce_tiny_takes_the_minutes_that_it_says_and_less_than_three_hours():
    said = int(re.search(r"take (\d+) minutes", studies.__doc__)[1])
    assert said == sum(study.minutes for study, _ in runs_of(["tiny"])) < 180


def test_the_most_telling_runs_come_first():
    runs = [(study.name, seed) for study, seed in runs_of(["tiny"])]
    parallel = ["parallel", "parallel_2", "parallel_cut"]
    several = ["async", "async_without_concurrency", "sequential", *parallel, "async_without_cold_start"]
    assert runs == [(name, seed) for seed in range(3) for name in several] + [
        (name, 0) for name in ("pool_2", "pool_8", "parallel_8")
    ]


def test_fewer_seeds_or_a_single_one_can_be_asked_for_and_what_is_needed_has_no_more():
    def names(*arguments, **options):
        return [(study.name, seed) for study, seed in runs_of(*arguments, **options)]

    assert names(["parallel"], seeds=1) == [("sequential", 0), ("parallel", 0)]
    assert names(["oracle"], seed=2) == [("oracle", 2)]
    assert [seed for name, seed in names(["studies"]) if name == "async"] == [0]


def test_a_name_that_is_neither_a_study_nor_a_part_is_a_key_error():
    with pytest.raises(KeyError, match="nothing"):
        runs_of(["nothing"])


def test_without_cold_start_no_demonstration_of_the_protocol_is_ever_shown():
    config = load(BY_NAME["async_without_cold_start"].config_file)
    shown = load(BY_NAME[BY_NAME["async_without_cold_start"].cold_start].config_file)
    assert config.paradigm == "async" and config.rl.concurrency_weight > 0
    assert config.rl.imitated_demonstrations == 0 and shown.paradigm == "sequential"


def test_pools_differ_in_agents_and_have_the_rows_of_the_demo():
    rows = set()
    for name, agents in (("pool_2", 2), ("async", 4), ("pool_8", 8)):
        config = load(BY_NAME[name].config_file)
        assert config.pool.agents == agents
        rows.add(config.rollout.slots * min(config.pool.agents, 1 + config.rollout.worker_rows))
    assert rows == {72}
