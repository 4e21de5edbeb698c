"""Writes the report of a run, finished or still going: a page that opens anywhere, and its figures as PNG files.

    python -m asyncthink_jax.report --workdir runs/countdown_tiny
    python -m asyncthink_jax.report --workdir runs/countdown_tiny --compare runs/countdown_tiny_sequential \\
        --out report --episodes 8

It reads the files of the run alone: no device, no weights. Exit codes: 0 done, 2 for bad input (one line on stderr).
"""

from absl import flags, logging

from asyncthink_jax import command
from asyncthink_jax.report.run_files import ReportError
from asyncthink_jax.shown import complain

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the run, or gs://..")
flags.DEFINE_multi_string("compare", [], "Folders of runs that are drawn beside it; may be given several.")
flags.DEFINE_string("out", None, "Folder that report.html and figures/ are written to; default the workdir.")
flags.DEFINE_integer("episodes", 4, "How many episodes of each evaluation are shown.", lower_bound=0)


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    logging.set_verbosity(logging.WARNING)  # matplotlib tells of its fonts
    try:
        return _report(argv[1:])
    except ReportError as error:
        complain(f"error: {error}")
        return 2


def _report(rest: list[str]) -> int:
    if rest and not FLAGS.compare:
        raise ReportError(f"unexpected argument {rest[0]!r}; options start with --")
    if FLAGS.workdir is None:
        raise ReportError("--workdir is missing; see --help")
    if FLAGS.out is None and "://" in FLAGS.workdir:
        raise ReportError("--out is missing: a run in a bucket has its report written to a folder of this machine")
    # Imported late, so that bad input is reported sooner.
    from asyncthink_jax.report.write import write_report

    # A shell makes several folders of `--compare runs/tiny_*`.
    compare = [*FLAGS.compare, *rest]
    print(write_report(FLAGS.workdir, compare=compare, out=FLAGS.out, episodes=FLAGS.episodes))
    return 0


if __name__ == "__main__":
    command.run(main, overridable=False)
