"""What is thought about: problems, their demonstrations, and what counts as an answer."""

from asyncthink_jax.tasks.countdown import Countdown
from asyncthink_jax.tasks.countdown_large import LargeCountdown
from asyncthink_jax.tasks.math import Math
from asyncthink_jax.tasks.mmlu_pro import MMLUPro
from asyncthink_jax.tasks.sudoku import Sudoku
from asyncthink_jax.tasks.task import Task

# What `task.name` may be; a class stands under the default of its own field `name`.
TASKS: dict[str, type[Task]] = {
    "countdown_tiny": Countdown,
    "countdown": LargeCountdown,
    "math": Math,
    "mmlu_pro": MMLUPro,
    "sudoku": Sudoku,
}
