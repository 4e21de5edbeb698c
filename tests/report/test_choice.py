"""Which episodes a report shows: one of each kind that there is, none twice, always the same."""

from runs_on_disk import fork_join, parallel

from asyncthink_jax.report.choice import choose, typical_episode

RIGHT = [fork_join(wait=wait) for wait in (20, 24, 28, 30, 40)]
DENSE = fork_join(wait=26) | {"concurrency": 0.9}
WRONG = fork_join(accuracy=0.5, wait=50) | {"concurrency": 0.95}
MALFORMED = fork_join(error="no_answer", wait=60) | {"concurrency": 1.0}
ALL = [WRONG, *RIGHT, DENSE, MALFORMED]


def kinds(chosen):
    return [one.kind for one in chosen]


def test_a_report_shows_a_right_a_concurrent_a_wrong_and_a_malformed_one():
    chosen = choose(ALL, 4)
    assert kinds(chosen) == ["typical", "concurrent", "wrong", "malformed"]
    assert [one.episode for one in chosen] == [RIGHT[2], DENSE, WRONG, MALFORMED]
    assert [one.number for one in chosen] == [4, 7, 1, 8]


def test_no_episode_is_shown_twice():
    chosen = choose(ALL, 7)
    assert len({one.number for one in chosen}) == 7
    assert kinds(chosen)[4:] == ["longest", "forks", "further1"]


def test_all_there_are_is_all_that_is_shown():
    assert len(choose(ALL, 100)) == len(ALL)
    assert choose([], 4) == [] and choose(ALL, 0) == []


def test_a_rule_that_finds_none_gives_its_place_to_the_next():
    assert kinds(choose(RIGHT, 3)) == ["typical", "concurrent", "longest"]


def test_where_none_is_right_the_typical_one_is_of_all():
    (one,) = choose([WRONG, MALFORMED, WRONG], 1)
    assert one.why == "typical of all"


def test_an_episode_without_a_score_is_not_right():
    unscored = fork_join() | {"score": None}
    assert kinds(choose([unscored, RIGHT[0]], 3)) == ["typical", "wrong"]


def test_the_typical_episode_has_as_many_traces_as_most():
    assert typical_episode([parallel(), *RIGHT]) == RIGHT[2]
