"""Multi-solution Countdown, small enough to learn from scratch (paper.md section 5: MCD).

A problem: distinct numbers and a target; find `n_solutions` different expressions that reach the target, each number
used at most once. In the demo the numbers are four of 2..20, the target is at most 99, and every solution that is
looked for uses two or three of the numbers with positive whole intermediate values of at most 99.

The work divides into pairs: an expression of two or three numbers starts with an operation on some pair, whose result
may be combined with one of the remaining numbers. Searching all six pairs of four numbers finds everything, and each
search is independent of the others. So a sub-query is a pair (with all that a worker needs to search it, since it sees
nothing else), and what the organizer has to learn is which pairs to hand out, when, and when to wait for them.

All texts are words separated by single spaces, one token a word (data/tokenizer.py):

    problem          5 6 8 10 = 3                   (numbers ascending, the target)
    sub-query       " 5 8 6 10 = 3"                 (the pair, the rest, the target)
    search          " + 13 6 19 7 78 10 23 3 ! 5 + 8 - 10 130 .." (see `search`)
    worker trace    the search, then `<RETURN> 5 + 8 - 10 , 8 - 5</RETURN>`, or `<RETURN> none</RETURN>`
    own search      " 5 8 6 10 = 3 :" + the search  (by an organizer that does a pair itself)
    tally           " #2"                           (after a Join or own search: solutions there are, at most 4)
    answer          `<ANSWER> E1 , E2 , E3 , E4</ANSWER>`, or `<ANSWER> none</ANSWER>`

Demonstrations are scripts, that is, texts, so that they can be read and checked as text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import combinations

import numpy as np

from asyncthink_jax.tasks import expressions

NAME = "countdown_tiny"
OPERATORS = ("+", "-", "*", "/")
NONE = " none"
HIT = "!"  # stands after a value that is the target
MAX_ANSWER_CHARACTERS = 4096  # a longer answer counts as one wrong expression and is not looked at
MAX_ANSWER_EXPRESSIONS = 64  # of one answer; those beyond count as wrong and are not looked at


@dataclass(frozen=True)
class Rules:
    """Which problems there are. `n_solutions` solutions are asked for; a test problem has at least as many."""

    numbers: int = 4  # numbers of a problem
    min_number: int = 2
    max_number: int = 20
    max_target: int = 99  # also the largest value a search writes
    n_solutions: int = 4


DEMO = Rules()


@dataclass(frozen=True)
class Problem:
    numbers: tuple[int, ...]  # ascending
    target: int
    n_solutions: int = 4

    @property
    def query(self) -> str:
        return f"{' '.join(map(str, self.numbers))} = {self.target}"

    def to_json(self) -> dict:
        return {**asdict(self), "numbers": list(self.numbers)}

    @classmethod
    def from_json(cls, record: dict) -> "Problem":
        return cls(tuple(int(n) for n in record["numbers"]), int(record["target"]), int(record["n_solutions"]))


@dataclass(frozen=True)
class Script:
    """A demonstration as text: what the roles write, without what a Join inserts.

    `organizer` is in pieces whose concatenation is the organizer's decoded text; every tag and every stretch of words
    is a piece of its own. `work` holds the places of those that don't organize: own searches, tallies, the answer (its
    tags are no work). `workers[i]` is the whole text that the worker of FORK-i writes, in the order of the forks.
    """

    problem: Problem
    organizer: tuple[str, ...]
    work: frozenset[int] = frozenset()
    workers: dict[int, str] = field(default_factory=dict)
    returns: dict[int, str] = field(default_factory=dict)  # what the worker of FORK-i returns: its text inside RETURN


# --------------------------------------------------------------------------------------------------------------- search


def pairs(problem: Problem) -> list[tuple[int, int]]:
    """The pairs of numbers, C(numbers, 2) of them, in ascending order of the larger number, then of the smaller.

    In this order the long searches come first, more or less: the best schedule that was found for four agents takes as
    many steps as in the order of the smaller number, but keeps them busier (eta/c 0.564, there 0.551).
    """
    return sorted(combinations(problem.numbers, 2), key=lambda pair: pair[::-1])


def sub_query(problem: Problem, pair: tuple[int, int]) -> str:
    """What a worker is told: the pair, the other numbers, the target."""
    rest = " ".join(str(n) for n in problem.numbers if n not in pair)
    return f" {pair[0]} {pair[1]} {rest} = {problem.target}"


def results(a: int, b: int, max_value: int) -> list[tuple[str, int, bool]]:
    """(operator, value, whether b is the left operand) of the operations on two numbers, in the order + - * /.

    Only positive whole values of at most `max_value`. Of the two differences and the two quotients at most one is such
    a value; where a = b the quotient is written a / b.
    """
    found = [("+", a + b, False), ("-", abs(a - b), a < b), ("*", a * b, False)]
    if a % b == 0:
        found.append(("/", a // b, False))
    elif b % a == 0:
        found.append(("/", b // a, True))
    return [one for one in found if 0 < one[1] <= max_value]


def second_results(
    operator: str, subtotal: int, larger: int, third: int, max_value: int
) -> list[tuple[str, int, bool]]:
    """`results` of a pair's value (by `operator`) and a third number, as far as that pair is the one to look at them.

    Two operations of one kind (both of + and -, or both of * and /) are combined only if the third number is above the
    `larger` of the pair: a + b - c can be reached from every pair of its three numbers, and so it is found just once.
    Workers' findings never repeat then, and an organizer need not compare them. (Of products and quotients it costs
    those that the two smaller numbers do not lead to, like 20 / 4 * 6: one solution in forty.)
    """
    found = results(subtotal, third, max_value)
    if third > larger:
        return found
    return [one for one in found if (one[0] in "+-") != (operator in "+-")]


@lru_cache(maxsize=1 << 15)
def _search(a: int, b: int, rest: tuple[int, ...], target: int, max_value: int) -> tuple[str, tuple[str, ...]]:
    words, hits = [], []
    for operator, subtotal, b_first in results(a, b, max_value):
        left, right = (b, a) if b_first else (a, b)
        words += [operator, str(subtotal)]
        if subtotal == target:
            hits.append(expressions.canonical((operator, left, right)))
            words += [HIT, hits[-1]]
        for third in rest:
            words.append(str(third))
            for second, total, third_first in second_results(operator, subtotal, b, third, max_value):
                words.append(str(total))
                if total == target:
                    hits.append(expressions.canonical_of_three(left, operator, right, second, third, third_first))
                    words += [HIT, hits[-1]]
    return " " + " ".join(words), tuple(dict.fromkeys(hits))


def search(problem: Problem, pair: tuple[int, int], max_value: int = 99) -> tuple[str, tuple[str, ...]]:
    """The text of the search of one pair, and the distinct solutions found, in the order in which they were found.

    For each operation on the pair: the operator and its value, then for each other number that number and the values
    of its combinations with it (`second_results`). A value equal to the target is followed at once by "!" and the
    whole expression: a small model needs the expression written while it is at hand (exact searches went from 0.906 to
    0.977).
    """
    a, b = pair
    return _search(a, b, tuple(n for n in problem.numbers if n not in pair), problem.target, max_value)


def worker_text(problem: Problem, pair: tuple[int, int]) -> str:
    """The whole trace of a worker that searches a pair."""
    text, hits = search(problem, pair)
    return f"{text}<RETURN>{listing(hits)}</RETURN>"


def tokenizer_texts(rules: Rules = DEMO) -> list[str]:
    """Texts that hold every word of the task, to train a tokenizer on: each becomes one token."""
    words = [str(n) for n in range(1, max(rules.max_target, rules.max_number) + 1)]
    words += [*OPERATORS, "(", ")", "=", ":", HIT, ",", "none"]
    words += [f"#{count}" for count in range(rules.n_solutions + 1)]
    return ["".join(f" {word}" for word in words), "solve", "work"] * 20


def instructions(rules: Rules = DEMO) -> str:
    """The task in words, for a model that reads (`protocol/prompts.py`)."""
    n = rules.n_solutions
    return (
        "Task: a question is some numbers, then = and a target, like 5 6 8 10 = 3. Find "
        f"{'an expression' if n == 1 else f'{n} different expressions'} with the value of the target, made of two or "
        "three of the numbers, each used at most once, with + - * / and brackets. Expressions that differ only in the "
        "order or grouping of sums or products count as one. The answer is the expressions with commas between, like "
        "<ANSWER> 5 + 6 - 8 , 8 - 5</ANSWER>, or <ANSWER> none</ANSWER>. A sub-query is two of the numbers to start "
        "with, the other numbers, = and the target, like <FORK-1> 5 8 6 10 = 3</FORK-1>."
    )


def listing(solutions: Sequence[str]) -> str:
    """ " E1 , E2", or " none"."""
    return " " + " , ".join(solutions) if solutions else NONE


def solutions(problem: Problem) -> list[str]:
    """All distinct solutions that the searches of all pairs find, in that order."""
    return list(dict.fromkeys(hit for pair in pairs(problem) for hit in search(problem, pair)[1]))


# ------------------------------------------------------------------------------------------------------------- problems


def count_solutions(numbers: tuple[int, ...], rules: Rules = DEMO) -> dict[int, int]:
    """For every target that can be asked of these numbers: how many distinct solutions the searches find."""
    found: dict[int, set[str]] = {}
    for a, b in combinations(numbers, 2):
        for operator, subtotal, b_first in results(a, b, rules.max_target):
            left, right = (b, a) if b_first else (a, b)
            found.setdefault(subtotal, set()).add(expressions.canonical((operator, left, right)))
            for third in numbers:
                if third in (a, b):
                    continue
                for second, total, third_first in second_results(operator, subtotal, b, third, rules.max_target):
                    solution = expressions.canonical_of_three(left, operator, right, second, third, third_first)
                    found.setdefault(total, set()).add(solution)
    return {target: len(found[target]) for target in sorted(found) if target not in numbers}


def splits(
    rules: Rules = DEMO, validation_problems: int = 200, test_problems: int = 600, seed: int = 0
) -> dict[str, list[Problem]]:
    """All problems, split by number set: no two of train, validation and test share the numbers of a problem.

    `train`, `validation` and `test` hold problems with at least `rules.n_solutions` solutions; `train_few` those with
    fewer (of the training number sets), from which demonstrations may learn too. Validation and test have exactly the
    number asked for; each split is in a random order that `seed` fixes. Raises ValueError if there are too few.
    """
    number_sets = list(combinations(range(rules.min_number, rules.max_number + 1), rules.numbers))
    rng = np.random.default_rng(seed)
    rng.shuffle(number_sets)
    wanted = {"test": test_problems, "validation": validation_problems}
    found: dict[str, list[Problem]] = {"train": [], "train_few": [], "validation": [], "test": []}
    for number_set in number_sets:
        numbers = tuple(int(n) for n in number_set)
        split = next((name for name, n in wanted.items() if len(found[name]) < n), "train")
        for target, count in count_solutions(numbers, rules).items():
            problem = Problem(numbers, target, rules.n_solutions)
            if count >= rules.n_solutions:
                found[split].append(problem)
            elif split == "train":
                found["train_few"].append(problem)
    for name, n in wanted.items():
        if len(found[name]) < n:
            raise ValueError(f"{name} split: {n} problems asked, the rules give {len(found[name])}: ask for fewer")
        found[name] = found[name][:n]
    if not found["train"]:
        raise ValueError("train split: no problem left beside validation and test: ask for fewer there")
    for problems in found.values():
        rng.shuffle(problems)
    return found


# ------------------------------------------------------------------------------------------------------- demonstrations


def random_demonstration(
    problem: Problem,
    rng: np.random.Generator,
    agents: int = 4,
    self_search: float = 0.15,
    early: float = 0.1,
    in_order: float = 0.5,
    enough: float = 0.0,
) -> Script:
    """A legal interleaving of fork, own search and join over some of the pairs, at random (paper.md section 3).

    Of six pairs, 1 to 6 with weights 8, 7, 6, 5, 4, 3: sampling below temperature 1 takes all of them more often than
    it was shown, and falling weights leave that to be learned by RL. At each point either the next pair is taken up or
    a worker is joined. Where a worker is free, the next pair is taken up with a probability that is the demonstration's
    own, its eagerness, uniform from 0 to 1, and handed out, but with probability `self_search` for the organizer's own
    search. Where the pool is full (agents - 1 unjoined workers), the organizer searches it itself three times in four,
    else it joins. With probability `early` the answer comes while a random number of workers is unjoined; otherwise all
    are joined. With probability `enough` it comes as soon as all solutions asked for are there, whatever was still
    planned.

    With probability `in_order` it is an orderly one: the pairs in the order of `pairs`, as someone who counts them off
    would take them, the oldest worker joined first, and a join after every own search in a full pool. The others take
    pairs and join workers in any order, so that every legal interleaving can occur.
    """
    orderly = rng.random() < in_order
    order = _some_pairs(problem, rng, orderly)
    writer = _Organizer(problem)
    unjoined: list[int] = []
    left_behind = -1
    must_join = False
    eagerness, leaves_early, stops = rng.random(), rng.random() < early, rng.random() < enough
    while (order or unjoined) and not (stops and writer.has_enough):
        if not order and left_behind < 0:
            left_behind = int(rng.integers(1, len(unjoined) + 1)) if leaves_early else 0
        if left_behind >= 0 and len(unjoined) <= left_behind:
            break
        full = len(unjoined) == agents - 1
        chance = 0.75 if full else eagerness
        if order and (not unjoined or (not must_join and rng.random() < chance)):
            pair = order.pop(0)
            if full or rng.random() < self_search:
                writer.search(pair)
                must_join = full and orderly
            else:
                unjoined.append(writer.fork(pair))
        else:
            writer.join(unjoined.pop(0 if orderly else int(rng.integers(len(unjoined)))))
            must_join = False
    return writer.answer()


def oracle_demonstration(problem: Problem, agents: int = 4) -> Script:
    """The best organization: every pair forked as early as the pool allows, the oldest worker joined first."""
    writer = _Organizer(problem)
    unjoined: list[int] = []
    for pair in pairs(problem):
        if len(unjoined) == agents - 1:
            writer.join(unjoined.pop(0))
        unjoined.append(writer.fork(pair))
    for fork_id in unjoined:
        writer.join(fork_id)
    return writer.answer()


def sequential_demonstration(
    problem: Problem, rng: np.random.Generator, in_order: float = 0.5, enough: float = 0.0
) -> Script:
    """One trace, no forks: some pairs, drawn as for `random_demonstration`, searched one after the other.

    The baseline's traces: the same searches under the same headers as the workers', so that everything which makes a
    worker's search easy to learn helps here too. The parallel paradigm uses them as well.
    """
    writer = _Organizer(problem)
    stops = rng.random() < enough
    for pair in _some_pairs(problem, rng, rng.random() < in_order):
        if stops and writer.has_enough:
            break
        writer.search(pair)
    return writer.answer()


def _some_pairs(problem: Problem, rng: np.random.Generator, in_order: bool) -> list[tuple[int, int]]:
    """Any of the pairs, from one to all, fewer likelier: weights 8, 7, 6, 5, 4, 3 for 1 to 6 of six."""
    candidates = pairs(problem)
    weights = np.arange(len(candidates) + 2, 2, -1)
    count = 1 + rng.choice(len(candidates), p=weights / weights.sum())
    chosen = rng.permutation(len(candidates))[:count]
    return [candidates[i] for i in (sorted(chosen) if in_order else chosen)]


class _Organizer:
    """Writes an organizer's script and keeps the solutions it has seen, in the order in which they came."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.pieces: list[str] = []
        self.work: list[int] = []  # places of the pieces that don't organize
        self.workers: dict[int, str] = {}
        self.found: dict[int, tuple[str, ...]] = {}
        self.seen: dict[str, None] = {}  # an ordered set
        self.taken = 0  # pairs taken up, own searches included: a fork's id is its pair's place among them

    def fork(self, pair: tuple[int, int]) -> int:
        fork_id = self._take_up()
        self.pieces += [f"<FORK-{fork_id}>", sub_query(self.problem, pair), f"</FORK-{fork_id}>"]
        self.workers[fork_id] = worker_text(self.problem, pair)
        self.found[fork_id] = search(self.problem, pair)[1]
        return fork_id

    def join(self, fork_id: int) -> None:
        self.pieces.append(f"<JOIN-{fork_id}>")
        self._count(self.found[fork_id])

    def search(self, pair: tuple[int, int]) -> None:
        self._take_up()
        text, hits = search(self.problem, pair)
        self.pieces += [sub_query(self.problem, pair), " :"]
        self._do(text)
        self._count(hits)

    def _do(self, text: str) -> None:
        self.work.append(len(self.pieces))
        self.pieces.append(text)

    def _take_up(self) -> int:
        self.taken += 1
        return self.taken

    def _count(self, hits: Sequence[str]) -> None:
        self.seen |= dict.fromkeys(hits)
        self._do(f" #{min(len(self.seen), self.problem.n_solutions)}")

    @property
    def has_enough(self) -> bool:
        return len(self.seen) >= self.problem.n_solutions

    def answer(self) -> Script:
        best = listing(list(self.seen)[: self.problem.n_solutions])
        self.pieces.append("<ANSWER>")
        self._do(best)
        self.pieces.append("</ANSWER>")
        returns = {fork_id: listing(hits) for fork_id, hits in self.found.items()}
        return Script(self.problem, tuple(self.pieces), frozenset(self.work), self.workers, returns)


# -------------------------------------------------------------------------------------------------------------- scoring


def answered_expressions(answer: str | None) -> list[str]:
    """The expressions of an answer, unparsed: none for "none" or nothing at all."""
    if answer is None or answer.strip(" ") in ("", "none"):
        return []
    return answer.split(",")


def score(problem: Problem, answer: str | None) -> dict:
    """Judges an answer: expressions separated by commas, or "none". Any string will do; nothing in it is evaluated.

    Returns accuracy (min(correct, asked) / asked, paper.md section 4), correct (distinct right expressions), answered
    (expressions given) and wrong (those that are no expression, use a number that is not there or twice, miss the
    target, or repeat an earlier one). An answer beyond MAX_ANSWER_CHARACTERS is one wrong expression.
    """
    if answer is not None and len(answer) > MAX_ANSWER_CHARACTERS:
        return {"accuracy": 0.0, "correct": 0, "answered": 1, "wrong": 1}
    given = answered_expressions(answer)
    right = {solution for solution in (_solution(problem, text) for text in given[:MAX_ANSWER_EXPRESSIONS]) if solution}
    accuracy = min(len(right), problem.n_solutions) / problem.n_solutions
    return {"accuracy": accuracy, "correct": len(right), "answered": len(given), "wrong": len(given) - len(right)}


def _solution(problem: Problem, text: str) -> str | None:
    """The canonical text if this is an expression that solves the problem."""
    tree = expressions.parse(text)
    if tree is None:
        return None
    used = expressions.leaves(tree)
    if len(used) != len(set(used)) or not set(used) <= set(problem.numbers):
        return None  # checked first: it bounds what has to be computed
    return expressions.canonical(tree) if expressions.value(tree) == problem.target else None


def merge_answers(answers: Sequence[str | None], n: int) -> str:
    """One answer out of those of independent traces: the union, ranked by votes, cut to `n` (the parallel paradigm).

    A vote is an answer that holds the expression (up to commutativity and associativity); ties go to the expression
    that came first. No expression is checked against the problem; what cannot be parsed has no votes.
    """
    votes: dict[str, int] = {}
    for answer in answers:
        if answer is not None and len(answer) > MAX_ANSWER_CHARACTERS:
            continue
        trees = (expressions.parse(text) for text in answered_expressions(answer)[:MAX_ANSWER_EXPRESSIONS])
        for text in dict.fromkeys(expressions.canonical(tree) for tree in trees if tree is not None):
            votes[text] = votes.get(text, 0) + 1
    return listing(sorted(votes, key=lambda text: -votes[text])[:n])
