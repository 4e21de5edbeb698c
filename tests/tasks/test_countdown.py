"""Countdown: the solver finds all there is, the splits are apart, demonstrations are legal, the scorer is exact."""

import random
import re
import time
from itertools import permutations

import numpy as np
import pytest

from asyncthink_jax.tasks import Countdown, expressions
from asyncthink_jax.tasks.countdown_scripts import (
    oracle_demonstration,
    random_demonstration,
    sequential_demonstration,
    two_shapes_demonstration,
)
from asyncthink_jax.tasks.countdown_search import (
    NONE,
    Problem,
    count_solutions,
    listing,
    pairs,
    sub_query,
    worker_text,
)

TASK = Countdown()
EXAMPLE = Problem((5, 6, 8, 10), 3)


@pytest.fixture(scope="module")
def splits():
    return TASK.splits()


def brute_force(problem, max_value=99):
    """All solutions of two or three numbers with whole positive intermediate values, by trying everything."""
    found = set()

    def step(values, used):
        for (left, left_tree), (right, right_tree) in permutations(values, 2):
            for operator in "+-*/":
                value = expressions.value((operator, left, right)) if right else None
                if value is None or value.denominator != 1 or not 0 < value <= max_value:
                    continue
                tree, rest = (
                    (operator, left_tree, right_tree),
                    [v for v in values if v[1] not in (left_tree, right_tree)],
                )
                if value == problem.target:
                    found.add(expressions.canonical(tree))
                if used == 2:
                    # The third number joins the pair's result; two separate pairs would use all four.
                    for third in rest:
                        step([(int(value), tree), third], 3)

    step([(n, n) for n in problem.numbers], 2)
    return found


def test_the_searches_of_all_pairs_find_every_solution_but_some_of_products_and_quotients_alone(splits):
    missed = total = 0
    for problem in splits["test"][:60] + splits["train_few"][:60]:
        # Where the pair's result equals the third number, a search writes one of the two quotients (both are 1).
        if problem.target == 1:
            continue
        found, every = set(TASK.solutions(problem)), brute_force(problem)
        assert found <= every
        assert all("/" in solution and not set("+-") & set(solution) for solution in every - found), problem
        missed, total = missed + len(every - found), total + len(every)
    assert 0 < missed < 0.06 * total


def test_no_two_searches_report_the_same_solution(splits):
    for problem in splits["test"][:100] + splits["train_few"][:100]:
        reported = [hit for pair in pairs(problem) for hit in TASK.search(problem, pair)[1]]
        assert len(reported) == len(set(reported)), problem


def test_counting_agrees_with_searching(splits):
    for problem in splits["train"][:50] + splits["train_few"][:50]:
        assert count_solutions(problem.numbers, 99)[problem.target] == len(TASK.solutions(problem))


def test_a_search_writes_each_operation_and_each_hit():
    text, hits = TASK.search(EXAMPLE, (5, 8))
    plus = " + 13 6 78 10 23 3 ! 5 + 8 - 10"  # 5 + 8 - 6 is left to the pair (5, 6): 6 is not the largest
    minus = " - 3 ! 8 - 5 6 18 2 10 13 7 30"
    times = " * 40 6 46 34 10 50 30 4"
    assert text == plus + minus + times
    assert hits == ("5 + 8 - 10", "8 - 5")
    assert worker_text(TASK.search(EXAMPLE, (5, 8))) == f"{text}<RETURN> 5 + 8 - 10 , 8 - 5</RETURN>"
    assert worker_text(TASK.search(EXAMPLE, (6, 10))).endswith("<RETURN> none</RETURN>")
    assert sub_query(EXAMPLE, (5, 8)) == " 5 8 6 10 = 3"


def test_a_search_writes_positive_whole_numbers_up_to_99_only(splits):
    for problem in splits["test"][:50]:
        for pair in pairs(problem):
            numbers = [int(word) for word in TASK.search(problem, pair)[0].split() if word.isdigit()]
            assert min(numbers) >= 1 and max(numbers) <= 99


def test_every_hit_is_a_solution_by_the_scorer(splits):
    for problem in splits["test"]:
        found = TASK.solutions(problem)
        assert TASK.score(problem, listing(found))["correct"] == len(found) >= 4


def test_splits_are_disjoint_by_number_set(splits):
    sets = {name: {problem.numbers for problem in problems} for name, problems in splits.items()}
    train = sets["train"] | sets["train_few"]
    assert not train & sets["test"] and not train & sets["validation"] and not sets["test"] & sets["validation"]
    assert len(splits["test"]) == 600 and len(splits["validation"]) == 200 and len(splits["train"]) > 4900
    assert all(len(TASK.solutions(problem)) < 4 for problem in splits["train_few"][:200])


def test_problems_keep_the_rules(splits):
    for problem in splits["train"] + splits["test"]:
        assert list(problem.numbers) == sorted(set(problem.numbers)) and len(problem.numbers) == 4
        assert min(problem.numbers) >= 2 and max(problem.numbers) <= 20
        assert 1 <= problem.target <= 99 and problem.target not in problem.numbers


def test_splits_depend_on_the_seed_alone(splits):
    assert Countdown().splits() == splits
    assert Countdown(split_seed=1).splits()["test"] != splits["test"]


def test_rules_that_give_too_few_problems_are_refused():
    with pytest.raises(ValueError, match="test split: 600 problems asked"):
        Countdown(max_number=6).splits()


def test_problem_survives_json():
    assert TASK.from_json(EXAMPLE.to_json()) == EXAMPLE
    assert EXAMPLE.to_json() == {"numbers": [5, 6, 8, 10], "target": 3, "n_solutions": 4}


# Demonstrations. That they break no rule of the protocol is checked where they meet it: tests/data/test_pipeline.py.


def actions(script):
    return [piece for piece in script.organizer if piece.startswith(("<FORK", "<JOIN", "<ANSWER"))]


def pairs_of(script):
    """How many pairs are taken up, own searches included."""
    return len(script.workers) + script.organizer.count(" :")


def test_random_demonstrations_take_every_structure():
    rng = np.random.default_rng(0)
    scripts = [random_demonstration(EXAMPLE, TASK.search, rng, agents=3, self_search=0.2) for _ in range(4000)]
    # Every legal order of two forks and their joins occurs, those with unjoined workers included.
    two_forks = {tuple(a for a in actions(s) if a != "<ANSWER>") for s in scripts if set(s.workers) == {1, 2}}
    f1, f2, j1, j2 = "<FORK-1>", "<FORK-2>", "<JOIN-1>", "<JOIN-2>"
    assert two_forks == {(f1, f2, j1, j2), (f1, f2, j2, j1), (f1, j1, f2, j2)} | {
        (f1, f2),
        (f1, f2, j1),
        (f1, f2, j2),
        (f1, j1, f2),
    }
    assert {pairs_of(s) for s in scripts} == {1, 2, 3, 4, 5, 6}


def test_pairs_go_by_the_larger_number():
    expected = [(2, 6), (2, 16), (6, 16), (2, 18), (6, 18), (16, 18)]
    assert pairs(Problem((2, 6, 16, 18), 1)) == tuple(expected)


def test_demonstrations_of_fewer_pairs_are_likelier():
    rng = np.random.default_rng(4)
    scripts = [random_demonstration(EXAMPLE, TASK.search, rng) for _ in range(6000)]
    counts = np.bincount([pairs_of(s) for s in scripts], minlength=7)[1:]
    np.testing.assert_allclose(counts / counts.sum(), np.array([8, 7, 6, 5, 4, 3]) / 33, atol=0.02)


def test_a_demonstration_takes_its_pairs_in_order_half_of_the_time():
    rng = np.random.default_rng(3)
    ranks = {sub_query(EXAMPLE, pair): i for i, pair in enumerate(pairs(EXAMPLE))}
    six = [s for s in (random_demonstration(EXAMPLE, TASK.search, rng) for _ in range(12000)) if pairs_of(s) == 6]
    ordered = [taken == sorted(taken) for taken in ([ranks[p] for p in s.organizer if p in ranks] for s in six)]
    assert 0.45 < np.mean(ordered) < 0.55
    assert len({tuple(p for p in s.organizer if p in ranks) for s in six}) > 300  # of 720 orders


@pytest.mark.parametrize("orderly", [True, False])
def test_an_organizer_that_has_no_free_worker_searches_itself_three_times_in_four_or_joins(orderly):
    rng = np.random.default_rng(7)
    own, join, in_a_row = 0, 0, 0
    for _ in range(4000):
        script = random_demonstration(EXAMPLE, TASK.search, rng, 3, self_search=0.0, early=0.0, in_order=float(orderly))
        taken, unjoined, searched = 0, 0, False
        n_pairs = pairs_of(script)
        for piece in script.organizer:
            chooses = unjoined == 2 and taken < n_pairs and not (orderly and searched)
            if piece == " :":
                assert chooses  # nothing else makes this organizer search; an orderly one joins after a search
                own, taken, in_a_row, searched = own + 1, taken + 1, in_a_row + searched, True
            elif piece.startswith("<JOIN"):
                join, unjoined, searched = join + chooses, unjoined - 1, False
            elif piece.startswith("<FORK"):
                taken, unjoined = taken + 1, unjoined + 1
        assert unjoined == 0
    assert own > 500 and 0.7 < own / (own + join) < 0.8
    assert (in_a_row > 0) != orderly


@pytest.mark.parametrize("orderly", [True, False])
def test_an_orderly_demonstration_joins_the_oldest_worker_first(orderly):
    rng = np.random.default_rng(11)
    joins = []
    for _ in range(300):
        script = random_demonstration(EXAMPLE, TASK.search, rng, in_order=float(orderly))
        joins.append([int(piece[6:-1]) for piece in script.organizer if piece.startswith("<JOIN")])
    assert all(ids == sorted(ids) for ids in joins) == orderly


def test_an_organizer_without_workers_searches_all_its_pairs_itself():
    rng = np.random.default_rng(12)
    for _ in range(100):
        script = random_demonstration(EXAMPLE, TASK.search, rng, agents=1, in_order=1.0)
        assert not script.workers and " :" in script.organizer


def test_a_forks_id_is_its_pairs_place_among_those_taken_up_own_searches_included():
    rng = np.random.default_rng(9)
    for _ in range(300):
        script = random_demonstration(EXAMPLE, TASK.search, rng)
        taken = [piece for piece in script.organizer if piece == " :" or piece.startswith("<FORK")]
        assert all(piece in (" :", f"<FORK-{place}>") for place, piece in enumerate(taken, 1))
        assert list(script.workers) == [place for place, piece in enumerate(taken, 1) if piece != " :"]


def test_demonstrations_are_of_all_degrees_of_eagerness():
    rng = np.random.default_rng(8)
    before_a_join = []
    for _ in range(12000):
        script = random_demonstration(EXAMPLE, TASK.search, rng, agents=7, self_search=0.0, early=0.0)
        if len(script.workers) == 6:
            before_a_join.append(actions(script).index(next(a for a in actions(script) if a.startswith("<JOIN"))))
    # Of an eagerness e, the first join stands behind n forks with probability e^(n-1) (1-e): over all e, 1 / n (n+1).
    shares = np.bincount(before_a_join, minlength=7)[1:] / len(before_a_join)
    np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 12, 1 / 20, 1 / 30, 1 / 6], atol=0.05)


def test_a_demonstration_leaves_a_worker_unjoined_one_time_in_ten():
    rng = np.random.default_rng(1)
    scripts = [random_demonstration(EXAMPLE, TASK.search, rng, self_search=0.0) for _ in range(4000)]
    share = np.mean([len(s.workers) > sum(a.startswith("<JOIN") for a in actions(s)) for s in scripts])
    assert 0.08 < share < 0.12


def test_a_demonstration_that_stops_at_enough_answers_at_the_first_moment_it_has_all_solutions():
    rng = np.random.default_rng(4)
    stopped, all_pairs = 0, len(pairs(EXAMPLE))
    for _ in range(1000):
        script = random_demonstration(EXAMPLE, TASK.search, rng, agents=7, self_search=0.0, early=0.0, enough=1.0)
        joined = [int(piece[6:-1]) for piece in script.organizer if piece.startswith("<JOIN")]
        found = [_found(script, joined[:n]) for n in range(len(joined) + 1)]
        assert all(count < 4 for count in found[:-1])
        # Whatever is forked is joined, but for those behind the last moment.
        assert found[-1] >= 4 or len(joined) == len(script.workers)
        stopped += len(joined) < len(script.workers) or (found[-1] >= 4 and len(joined) < all_pairs)
    assert 300 < stopped < 700  # of the others, most took too few pairs to find four


def _found(script, joined):
    texts = (script.returns[i] for i in joined if script.returns[i] != NONE)
    return len({expression.strip() for text in texts for expression in text.split(",")})


def test_sequential_demonstrations_stop_at_enough_too():
    rng = np.random.default_rng(5)
    for _ in range(300):
        script = sequential_demonstration(EXAMPLE, TASK.search, rng, enough=1.0)
        before_last = "".join(script.organizer[: -3 - 4])  # without the answer's and the last search's pieces
        assert len({s for s in TASK.solutions(EXAMPLE) if f"! {s}" in before_last}) < 4


def test_a_pool_of_one_searches_everything_itself():
    script = random_demonstration(EXAMPLE, TASK.search, np.random.default_rng(0), agents=1)
    assert not script.workers and actions(script) == ["<ANSWER>"]


@pytest.mark.parametrize("agents", [2, 4, 8])
def test_two_shapes_are_all_that_is_shown_where_they_are_asked_for(splits, agents):
    task, rng, seen = Countdown(shapes="two"), np.random.default_rng(0), set()
    for _ in range(300):
        shape = re.sub(r"<(F|J).*?>", r"\1", "".join(actions(task.script(splits, "random", agents, rng))[:-1]))
        turns = re.fullmatch(r"(FJ)+", shape)
        rounds = re.fullmatch(rf"((F{{{agents - 1}}}J{{{agents - 1}}})*)(F*)(J*)", shape)
        assert turns or (rounds and len(rounds[3]) == len(rounds[4]) < agents), shape
        seen.add("turns" if turns else "rounds")
    assert seen == ({"turns", "rounds"} if agents > 2 else {"turns"})


def test_two_shapes_stop_at_enough_and_leave_what_is_unjoined():
    rng = np.random.default_rng(0)
    scripts = [two_shapes_demonstration(EXAMPLE, TASK.search, rng, 4, enough=1.0) for _ in range(300)]
    for script in scripts:
        joined = [int(action[6:-1]) for action in actions(script) if action.startswith("<JOIN")]
        assert _found(script, joined[:-1]) < EXAMPLE.n_solutions
    assert any(len(script.workers) > sum(a.startswith("<JOIN") for a in actions(script)) for script in scripts)


def test_the_oracle_forks_as_early_as_the_pool_allows():
    order = ["F1", "F2", "F3", "J1", "F4", "J2", "F5", "J3", "F6", "J4", "J5", "J6", "A"]
    names = {"F": "<FORK-{}>", "J": "<JOIN-{}>", "A": "<ANSWER>"}
    assert actions(oracle_demonstration(EXAMPLE, TASK.search)) == [names[a[0]].format(a[1:]) for a in order]


def test_an_answer_is_the_first_four_solutions_that_came_into_the_context():
    script = oracle_demonstration(EXAMPLE, TASK.search)
    assert script.organizer[-2] == " 5 + 6 - 8 , 5 * 6 / 10 , 5 + 8 - 10 , 8 - 5"
    rng = np.random.default_rng(2)
    for _ in range(300):
        script = random_demonstration(EXAMPLE, TASK.search, rng)
        context = "".join(  # as if a mark stood before all that a Join inserts, as it does in a search
            " ! " + script.returns[int(piece[6])].replace(",", "!").strip() if piece.startswith("<JOIN") else piece
            for piece in script.organizer[:-3]
        )
        seen = [s for s in TASK.solutions(EXAMPLE) if f"! {s}" in context]
        seen.sort(key=lambda s: context.index(f"! {s}"))
        assert script.organizer[-2] == listing(seen[:4])


def test_a_tally_stands_behind_whatever_may_have_brought_solutions():
    rng = np.random.default_rng(6)
    tallies = set()
    for _ in range(300):
        script = random_demonstration(EXAMPLE, TASK.search, rng)
        seen: set[str] = set()
        for piece, following in zip(script.organizer, script.organizer[1:], strict=False):
            if piece.startswith("<JOIN"):
                seen |= {text.strip() for text in script.returns[int(piece[6:-1])].split(",")} - {"none"}
            elif piece.startswith(" +"):  # an own search
                seen |= {s for s in TASK.solutions(EXAMPLE) if f"! {s}" in piece}
            else:
                assert following[:2] != " #"
                continue
            assert following == f" #{min(len(seen), 4)}"
            tallies.add(following)
    assert tallies >= {" #0", " #4"}  # the first before anything is found, the last for four and more


def test_sequential_demonstrations_search_one_to_six_pairs():
    rng = np.random.default_rng(0)
    scripts = [sequential_demonstration(EXAMPLE, TASK.search, rng) for _ in range(200)]
    assert {script.organizer.count(" :") for script in scripts} == {1, 2, 3, 4, 5, 6}
    assert not any(script.workers or "<FORK" in "".join(script.organizer) for script in scripts)


def test_demonstrations_depend_on_the_generator_alone():
    one, two = (random_demonstration(EXAMPLE, TASK.search, np.random.default_rng(7)) for _ in range(2))
    assert one == two


# Scoring.


@pytest.mark.parametrize(
    ("answer", "correct", "answered", "wrong"),
    [
        (" 8 - 5 , 5 + 8 - 10 , 5 + 6 - 8 , 5 * 6 / 10", 4, 4, 0),
        ("8-5,(8+10)/6", 2, 2, 0),
        ("8 - 5 , 8 - 5", 1, 2, 1),  # a repetition
        ("5 + 8 - 10 , 8 + 5 - 10 , 8 - (10 - 5)", 1, 3, 2),  # the same up to order and grouping
        ("8 - 5 + 6 - 6", 0, 1, 1),  # a number twice
        ("7 - 4 , 3 , 9 / 3", 0, 3, 3),  # numbers that are not there
        ("8 - 6", 0, 1, 1),  # another value
        ("6 / ( 8 - 8 )", 0, 1, 1),
        ("8 - 5 = 3", 1, 1, 0),
        ("8 - 5 = 4", 0, 1, 1),  # what it says is wrong
        ("8 - 6 = 3", 0, 1, 1),
        ("3 = 8 - 5", 0, 1, 1),
        ("8 - 5 =", 0, 1, 1),
        ("8 - 5 ,", 1, 1, 0),
        ("8 - 5, , 5 + 6 - 8", 2, 3, 1),  # nothing, between two
        ("8 - 5,\n5 + 6 - 8,\n", 2, 2, 0),
        ("5 + 6 - 8, 8 - 5.", 2, 2, 0),
        ("5 + 6 - 8; 8 - 5", 2, 2, 0),
        ("5 + 6 \N{MINUS SIGN} 8, 8 \N{EN DASH} 5", 2, 2, 0),
        ("5 \N{MULTIPLICATION SIGN} 6 \N{DIVISION SIGN} 10, 5 \N{MIDDLE DOT} 6 / 10", 1, 2, 1),
        (r"\boxed{5 \times 6 \div 10, 8 - 5}", 2, 2, 0),
        ("8\N{NO-BREAK SPACE}- 5", 1, 1, 0),
        ("\uff18 - \uff15", 1, 1, 0),  # full width
        ("- 5 + 6 - 8\n- 8 - 5", 2, 2, 0),
        ("\N{BULLET} 5 + 6 - 8\n\N{BULLET} 8 - 5", 2, 2, 0),
        ("- 8 - 5", 0, 1, 1),  # a sign, not a bullet
        ("* 8 - 5", 1, 1, 0),
        ("\N{BULLET} 8 - 5", 1, 1, 0),
        ("- 5 + 8\n8 - 5", 1, 2, 1),
        ("1. 5 + 6 - 8\n2. 8 - 5", 2, 2, 0),
        ("(1) 5 + 6 - 8\n(2) 8 - 5", 2, 2, 0),
        ("3. 5 + 6 - 8\n5. 8 - 5", 0, 2, 2),  # no numbering
        ("```\n5 + 6 - 8\n8 - 5\n```", 2, 2, 0),
        ("**5 + 6 - 8**, **8 - 5**", 2, 2, 0),
        ("The answer is: 5 + 6 - 8, 8 - 5", 2, 2, 0),
        ("5 + 6 - 8 and 8 - 5", 2, 2, 0),
        ("5 + 6 - 8, and 8 - 5", 2, 2, 0),
        ('["5 + 6 - 8", "8 - 5"]', 2, 2, 0),
        ("5 x 6 / 10, 8 - 5 (= 3)", 2, 2, 0),
        ("$5 + 6 - 8$, $8 - 5$", 2, 2, 0),
        (r"\(5 + 6 - 8\) or `8 - 5`", 2, 2, 0),
        (r"\frac{5 * 6}{10}", 1, 1, 0),
        (r"\{5 + 6 - 8, 8 - 5\}", 2, 2, 0),
        ("[5 + 6 - 8], [8 - 5]", 2, 2, 0),
        ("[5 + 6 - 8, 8 - 5", 1, 2, 1),  # no list
        ("5 + 6 - 8 = 3 \N{CHECK MARK}\n8 - 5 \N{WHITE HEAVY CHECK MARK}", 2, 2, 0),
        ("There is no solution.", 0, 0, 0),
        ("(none)", 0, 0, 0),
        ("N/A", 0, 0, 0),
        ("8 - 5 (= 4)", 0, 1, 1),
        ("No solution.", 0, 0, 0),
        ("`none`", 0, 0, 0),
        ("None.", 0, 0, 0),
        ("-5 + 8", 0, 1, 1),
        ("\n5 + 6 - 8, 8 - 5\n", 2, 2, 0),
        ("\t5 + 6 - 8,\r\n8 - 5", 2, 2, 0),
        ("5 + 6 - 8 \n\n 8 - 5", 2, 2, 0),
        ("5\n+ 3 - 5", 0, 2, 2),  # a line break is between expressions
        ("\nnone\n", 0, 0, 0),
        (" none", 0, 0, 0),
        ("", 0, 0, 0),
        (None, 0, 0, 0),
        ("none , 8 - 5", 1, 2, 1),
    ],
)
def test_scores(answer, correct, answered, wrong):
    expected = {"accuracy": correct / 4, "correct": correct, "answered": answered, "wrong": wrong}
    assert TASK.score(EXAMPLE, answer) == expected


def test_accuracy_stops_at_what_was_asked():
    answer = listing(TASK.solutions(EXAMPLE))
    assert TASK.score(EXAMPLE, answer) == {"accuracy": 1.0, "correct": 6, "answered": 6, "wrong": 0}


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("8 / ( 3 - 8 / 3 )", 1),
        ("3 * 8", 1),
        ("8 + 8 + 8", 0),  # of two
        ("8 * 3 * 3 / 3", 0),
        ("3 * 8, 8 * 3", 1),  # whichever 3 and 8 they are
    ],
)
def test_a_number_is_used_at_most_as_often_as_it_is_there(answer, correct):
    assert TASK.score(Problem((3, 3, 8, 8), 24), answer)["correct"] == correct


def test_intermediate_values_may_be_fractions_and_negative():
    assert TASK.score(Problem((3, 4, 6, 8), 8), "6 / (3 / 4)")["correct"] == 1
    assert TASK.score(EXAMPLE, "5 - 10 + 8")["correct"] == 1


def hostile_answers(n):
    rng = random.Random(0)
    fixed = [
        "9**9**9",
        "(" * 10_000 + "5" + ")" * 10_000,
        "__import__('os').system('false')",
        "8 - \u0665",
        "8 - \uff15" * 99,
        "9" * 10**6,
    ]
    fixed += ["8 = " + "9" * 4_000, "*".join(["9999"] * 51) + " = " + "9" * 204, "`" * 4_095, "**" * 2_000, "1. " * 999]
    fixed += ["(" * 4_000, "," * 4_096, ",".join(["8-5"] * 1_000), "1" * 4_096, " " * 4_096, "8 - 5" + "\x00", "\ud800"]
    fixed += [
        ",".join(["(" * 15 + "8-5" + ")" * 15] * 100),
        "/".join("5" * 120),
        "5/0",
        "5%0",
        "lambda: 0",
        "8 - 5 # x",
    ]
    alphabet = "0123456789+-*/() ,.=^e_none\u0663\u00b2\n\t<ANSWER>"
    for i in range(n):
        yield fixed[i % len(fixed)] if i % 2 else "".join(rng.choices(alphabet, k=rng.randrange(200)))


def test_hostile_answers_do_no_harm_and_cost_little():
    answers = list(hostile_answers(10_000))
    start = time.process_time()
    scores = [TASK.score(EXAMPLE, answer) for answer in answers]
    seconds = time.process_time() - start
    assert seconds / len(answers) < 1e-3
    assert all(score["wrong"] <= score["answered"] and 0 <= score["accuracy"] <= 1 for score in scores)
    assert TASK.score(EXAMPLE, "9" * 10**6) == {"accuracy": 0.0, "correct": 0, "answered": 1, "wrong": 1}


def test_what_is_beyond_the_bounds_is_wrong_unread():
    assert TASK.score(EXAMPLE, "8 - 5," + "," * 4090)["correct"] == 1  # 4,096 characters
    assert TASK.score(EXAMPLE, "8 - 5," + "," * 4091) == {"accuracy": 0.0, "correct": 0, "answered": 1, "wrong": 1}
    assert TASK.score(EXAMPLE, "5," * 63 + "8 - 5") == {
        "accuracy": 0.25,
        "correct": 1,
        "answered": 64,
        "wrong": 63,
    }
    assert TASK.score(EXAMPLE, "5," * 64 + "8 - 5") == {"accuracy": 0.0, "correct": 0, "answered": 65, "wrong": 65}


# The parallel paradigm.


def test_merging_ranks_by_votes_then_by_first_appearance():
    answers = [" 8 - 5 , 5 * 6 / 10", " 6 / ( 10 - 8 ) , 6 * 5 / 10", None, " none", " 5 + 6 - 8 , 8 - 5 , 8 - 5"]
    assert TASK.merge(answers) == " 8 - 5 , 5 * 6 / 10 , 6 / ( 10 - 8 ) , 5 + 6 - 8"
    assert Countdown(n_solutions=1).merge(answers) == " 8 - 5"
    assert TASK.merge([" 9 - 5 , 8 - 5", " 8 - 5"]) == " 8 - 5 , 9 - 5"


def test_merging_does_not_look_at_the_problem_and_drops_what_is_no_expression():
    assert TASK.merge([" 7 + 7 , what , 9 **9", " 7 + 7"]) == " 7 + 7"
    assert TASK.merge([None, " none", "9" * 10**6]) == " none"
