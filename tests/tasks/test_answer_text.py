"""What an answer wears is taken off, what it says stays."""

import pytest

from asyncthink_jax.tasks.answer_text import clean


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("27", "27"),
        (" $27$.\n", "27"),
        (r"\(27\)", "27"),
        (r"\[ 27 \]", "27"),
        ("27,", "27"),
        ("27\N{IDEOGRAPHIC FULL STOP}", "27"),
        ("\uff12\uff17", "27"),
        ("27\N{ZERO WIDTH SPACE}", "27"),
        ("`27`", "27"),
        ("```27```", "27"),
        ("```text\n27\n```", "27"),
        ("**27**", "27"),
        ("**Answer:** $27$", "27"),
        ("So, the final answer is: \\(27\\).", "27"),
        ("_27_", "27"),
        (r"so \boxed{26}, no: \boxed{27}.", "27"),
        (r"$\boxed{\frac12}$", r"\frac{1}{2}"),
        (r"\boxed{27", "27"),
        ("27!", "27!"),
        ("not 27", "not 27"),
        ("The answer is not 27", "not 27"),
        ("$26$ or $27$", "$26$ or $27$"),
        ("$27", "$27"),
        ("\N{MINUS SIGN}3 \N{EN DASH} 4", "-3 - 4"),
        ("2\N{MULTIPLICATION SIGN}3\N{MIDDLE DOT}4\N{DIVISION SIGN}5", "2*3*4/5"),
        ("1\N{NARROW NO-BREAK SPACE}000", "1 000"),
        ("\N{VULGAR FRACTION ONE HALF}", "1/2"),
        ("2\N{VULGAR FRACTION ONE HALF}", "2 1/2"),
        ("x\N{SUPERSCRIPT FOUR}", "x^4"),
        ("10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT THREE}", "10^{-3}"),
        ("2516\N{SUBSCRIPT EIGHT}", "2516_8"),
        ("45\N{DEGREE SIGN}", "45\N{DEGREE SIGN}"),
        (r"45^{\circ}", "45\N{DEGREE SIGN}"),
        (r"\left(1,\,2\right)", "(1, 2)"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\leftarrow", r"\leftarrow"),
        ("a^*", "a^*"),
        ("2**3", "2**3"),
        ("x_1 + y_1", "x_1 + y_1"),
        ("1 2\r\n3 4", "1 2 \n3 4"),
        ("", ""),
        ("\ud800", "\ud800"),
    ],
)
def test_what_an_answer_wears_is_taken_off(text, cleaned):
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned


def test_a_prefix_may_stay():
    assert clean("**The answer is:** C.", prefix=True) == "The answer is: C"


@pytest.mark.parametrize(
    "part",
    [
        "`",
        "**",
        "__",
        "_a",
        "```",
        "\\boxed{",
        "{",
        "$",
        "the answer is ",
        "\ufdfa",
        "\u00bd",
        "\\frac1",
        "\\!",
        " ",
        "\n",
    ],
)
def test_any_text_is_cleaned_and_grows_little(part):
    for end in ("x", "\\x"):  # without a backslash nothing is looked for in LaTeX
        assert len(clean(part * (32_000 // len(part)) + end)) < 32 * 32_000
