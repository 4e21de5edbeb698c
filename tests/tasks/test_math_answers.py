"""What counts in an answer, and which answers are equal."""

from fractions import Fraction

import pytest

from asyncthink_jax.tasks import math_grader
from asyncthink_jax.tasks.math_answers import equal, final, majority, number


@pytest.mark.parametrize(
    "answer, text",
    [
        ("27", "27"),
        (" $27$.\n", "27"),
        (r"\(27\)", "27"),
        (r"\[ 27 \]", "27"),
        (r"so \boxed{26}, no: \boxed{27}.", "27"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{27", "27"),
        ("The final answer is 27.", "27"),
        ("Answer: $27$", "27"),
        ("**27**", "27"),
        ("**Answer:** 27.", "27"),
        ("**Answer**: 27", "27"),
        ("**27** apples", "27 apples"),
        ("a^*", "a^*"),
        ("2**3", "2**3"),
        ("The answer is **27.**", "27"),
        ("48/2 = 24 and 24 + 48 = 72 clips.\n#### 72", "72"),
        ("an area of $27$ units", "27"),
        ("$26$ or $27$", "$26$ or $27$"),
        ("\N{MINUS SIGN}3", "-3"),
        ("2√3", r"2\sqrt{3}"),
        ("pi/4", r"\pi/4"),
        ("", ""),
    ],
)
def test_what_counts_of_an_answer(answer, text):
    assert final(answer) == text


@pytest.mark.parametrize(
    "text, value",
    [
        ("025", 25),
        ("27.0", 27),
        ("-1", -1),
        ("1,234", 1234),
        ("1{,}234", 1234),
        (".5", Fraction(1, 2)),
        (r"\frac12", Fraction(1, 2)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        ("6/8", Fraction(3, 4)),
        ("1/0", None),
        ("1,23", None),
        ("1e9", 10**9),
        ("1e-05", Fraction(1, 100_000)),
        (r"1.5\times10^{3}", 1500),
        ("10^{-3}", Fraction(1, 1000)),
        ("1e99999", None),
        ("2 1/2", Fraction(5, 2)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        (r"2\frac{3}{2}", None),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("2516_8", 1358),
        ("2519_8", None),
        (r"\text{D8}_{16}", 216),
        ("A_1", None),
        ("1 000 000", 1_000_000),
        ("1 00", None),
        ("٢٧", None),
        (".", None),
        ("", None),
        ("x", None),
    ],
)
def test_plain_numbers_are_exact(text, value):
    assert number(final(text)) == value


def spelled(gold, answer):
    return equal([(final(gold), final(answer))])[0]


@pytest.mark.parametrize(
    "gold, answer",
    [
        ("073", "73"),
        ("73", r"\boxed{073}"),
        ("204", "204 minutes"),
        ("27", r"27\text{ miles}"),
        ("45", "45°"),
        ("50", r"\$50"),
        ("50", "50 \u20ac"),
        ("\u00a350", "50\u00a3"),
        (r"\$50", r"50\$"),
        ("27", "x = 27"),
        ("27", "3^3"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", "1/2"),
        (r"\frac{1}{2}", r"2^{-1}"),
        (r"\frac{1}{2}", r"50\%"),
        (r"3\frac{1}{2}", "7/2"),
        (r"2\sqrt{3}", "√12"),
        (r"\frac{\pi}{4}", "pi/4"),
        ("x^2+1", "1 + x²"),
        ("(1,2)", r"\left(1, 2\right)"),
        ("1,2", "2, 1"),
        (r"\text{even}", "even"),
        ("1A_{16}", "1a_{16}"),
        ("12.5_8", "10.625"),
        ("13/4", "3 and 1/4"),
        ("x > 3/2", "x > 1 1/2"),
        (r"\pi - 3/2", r"\pi - 1 1/2"),
    ],
)
def test_other_spellings_are_equal(gold, answer):
    assert spelled(gold, answer) is True


@pytest.mark.parametrize(
    "gold, answer",
    [
        ("73", "74"),
        ("73", "-73"),
        ("73", "7.3"),
        ("73", ""),
        ("\u20ac27", r"27\$"),
        ("27 cents", "27 \u20ac"),
        ("27", "26 or 27"),
        ("27", "25, 26, 27"),
        ("27", r"\{26, 27\}"),
        ("27", "$26$ or $27$"),
        ("27", "it may be 26, but it is 27 perhaps"),
        ("27", r"\boxed{27} or rather \boxed{28}"),
        ("12", "12!"),
        (r"\frac{1}{3}", "0.33"),
        (r"\frac{1}{2}", "2"),
        ("x^2+1", "x^2-1"),
        (r"\text{even}", "odd"),
        ("27", "?"),
        ("27", "is 27, isn't it?"),
        ("27", "🤯"),
        ("27", "\x00"),
        ("(1,234)", "1234"),
        ("1234", "(1,234)"),
        ("27", "\ud800"),
        ("12.5_8", "12.5_9"),
        ("12.5_8", "12.5"),
        ("x > 11/2", "x > 1 1/2"),
        ("x + 7/2", "x + 2 3/2"),
        ("3 and 1/4", "4 1/4"),
    ],
)
def test_other_answers_are_not(gold, answer):
    assert spelled(gold, answer) is False


def test_what_is_too_long_is_not_looked_at():
    assert final("9" * 1_000_000) is None
    assert final("9" * 1_000_000 + r"\boxed{27}") is None
    assert final("(" * 5000) is None
    assert final(r"\boxed{" * 9000) == ""  # the innermost of them


def test_no_worker_is_started_for_plain_numbers(monkeypatch):
    monkeypatch.setattr(math_grader.Grader, "equal", lambda *_: pytest.fail("it was asked"))
    assert equal([("73", "073"), ("73", "74"), ("73", ""), ("x", "x")]) == [True, False, False, True]


def test_most_votes_win_whatever_their_spelling():
    assert majority(["7", r"\frac{1}{2}", "0.5", r"$2^{-1}$", "7"]) == r"\frac{1}{2}"
    assert majority(["073", "74", "73", "74", "73.0"]) == "073"
    assert majority(["74", "73"]) == "74"
    assert majority(["", "  ", "9" * 5000]) is None
    assert majority([]) is None


@pytest.mark.parametrize("n", [0, 1, 7, 25, 33, 113, 204, 902, 999])
def test_an_integer_equals_its_usual_spellings_and_no_other_integer(n):
    spellings = [f"{n:03}", f"{n}.0", f"{n}.", f"${n}$", rf"\boxed{{{n:03}}}", f"**{n}**", f"x = {n}", f"{n} units"]
    spellings += [
        f"The answer is: {n}",
        rf"\({n}\)",
        rf"\text{{{n}}}",
        f"{n},",
        f"`{n}`",
        f"{n}/1",
        rf"\frac{{{2 * n}}}{{2}}",
    ]
    spellings += ["".join(chr(ord(digit) - ord("0") + 0xFF10) for digit in str(n))]
    gold = f"{n:03}"
    assert equal([(final(gold), final(text)) for text in spellings]) == [True] * len(spellings)
    others = [
        final(text.replace(str(n), str(n + 1)))
        for text in spellings
        if str(n) in text and "/" not in text and "frac" not in text
    ]
    assert not any(equal([(final(gold), text) for text in [*others, str(n + 1), f"{n}1", f"{n}.0000001"]]))


@pytest.mark.parametrize(
    "answer",
    [
        r"1/2 = 0.5 = \frac{2}{4}",  # every side has to be right
        r"\frac{1}{2} \approx 0.51",  # what is said to be near it does not count
        r"x = \frac{2}{4} = 0.5",
    ],
)
def test_a_chain_of_equal_sides_is_an_answer(answer):
    assert spelled(r"\frac{1}{2}", answer) is True
    assert spelled(r"\frac{1}{3}", answer) is False


@pytest.mark.parametrize("answer", [r"\sum_{n=1}^{100} n", r"\int_0^{100} (x+\frac{1}{2})\,dx", r"\lim_{x\to 5050} x"])
def test_a_problem_copied_from_the_question_is_no_answer(answer):
    assert spelled("5050", answer) is False
    assert spelled(answer, answer) is True


def test_the_known_answer_decides_whether_e_is_a_number():
    assert spelled("2e-1", "-1+2e") is True and spelled("2e-1", "0.2") is False
    assert spelled("0.2", "2e-1") is True
    assert spelled("1e-05", "e-5") is False
