"""The HTML page of a run: one file that needs no network, runs no script, and takes a model's text as mere text.

Everything that comes from a file goes through `escaped`, or is drawn by figures that `svg.py` writes as XML. The page's
own policy forbids scripts, and anything from elsewhere, on top of that.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncthink_jax.report import style, timeline
from asyncthink_jax.report.choice import Chosen, is_right
from asyncthink_jax.report.layout import clean
from asyncthink_jax.report.run_files import RunFiles, flat, labels
from asyncthink_jax.report.text import TAG, harmless, one_line, shortened
from asyncthink_jax.storage.metrics import caption, minutes, result_rows

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure on the page: its SVG element, and what to see in it."""

    svg: str
    caption: str


@dataclasses.dataclass(frozen=True)
class DrawnEpisode:
    """An episode that was chosen, with its timeline; `anchor`: how the ids of its texts on the page begin."""

    chosen: Chosen
    anchor: str
    svg: str


def page(
    run: RunFiles,
    others: Sequence[RunFiles],
    results: Mapping[str, Any],
    *,
    bars: Sequence[Drawn],
    curves: Drawn | None,
    episodes: Mapping[str, Sequence[DrawnEpisode]],
    written: str,
) -> str:
    """The whole page.

    Args:
      run: the run; others: those that it is compared with.
      results: the rows of all of them.
      bars: figures of the results. curves: that of the training.
      episodes: of each evaluation.
      written: when, in words.
    """
    sections = [
        ("results", "Results", _results(run, results, bars)),
        ("training", "Training", _figure(curves, "wide") if curves else ""),
        ("episodes", "Episodes", _episodes(episodes)),
        ("config", "Config", _config(run, others)),
    ]
    shown = [(name, title, body) for name, title, body in sections if body]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    body = "\n".join(f'<section id="{name}"><h2>{title}</h2>\n{body}</section>' for name, title, body in shown)
    look = style.css() + Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(one_line(run.name))}: report of a run</title>
<style>
{look}</style>
</head>
<body>
<header>
<p class="kicker">asyncthink_jax, report of a run</p>
<h1>{escaped(one_line(run.name))}</h1>
{_facts(run, others, results)}
<nav>{links}</nav>
</header>
<main>
{body}
</main>
<footer>Written {escaped(written)}. Text of the model is shown as it is; control characters are made visible.</footer>
</body>
</html>
"""


def escaped(text: str) -> str:
    """Text as HTML, in elements and in attributes between double quotes."""
    return html.escape(harmless(text))


# ------------------------------------------------------------------------------------------------------------- facts


def _facts(run: RunFiles, others: Sequence[RunFiles], results: Mapping[str, Any]) -> str:
    config = run.config
    model, task, pool = (config.get(name, {}) for name in ("model", "task", "pool"))
    what = [
        f"task {task['name']}" if "name" in task else "",
        config.get("paradigm", ""),
        f"pool of {pool['agents']} agents" if "agents" in pool else "",
        f"from {config['pretrained']}" if config.get("pretrained") else "from random weights" if config else "",
        f"{model['layers']} layers of width {model['width']}" if {"layers", "width"} <= model.keys() else "",
        f"seed {config['seed']}" if "seed" in config else "",
        run.progress,
    ]
    made = _provenance(run, results)
    times = made.get("wall_clock_s") or {}
    how = [
        str(made.get("date") or ""),
        str(made.get("hardware") or ""),
        f"commit {str(made['commit'])[:10]}" if made.get("commit") else "",
        ", ".join(f"{stage} {minutes(seconds)}" for stage, seconds in times.items() if seconds is not None),
        f"compared with {', '.join(labels([run, *others])[1:])}" if others else "",
    ]
    rows = ["".join(f"<span>{escaped(one_line(str(one)))}</span>" for one in facts if one) for facts in (what, how)]
    return "\n".join(f'<p class="facts">{row}</p>' for row in rows if row)


def _provenance(run: RunFiles, results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the run's own numbers, else of the first ones there are."""
    if run.results.get("date"):
        return run.results
    stages: Mapping[str, Any] = results["paradigms"].get(run.row or "") or next(iter(results["paradigms"].values()), {})
    return next((scores for scores in reversed(list(stages.values())) if scores), {})


# ----------------------------------------------------------------------------------------------------------- results

# key of the scores, label, format, factor
TILES = [
    ("all_correct", "all correct", "{:.1f} %", 100),
    ("critical_path", "critical path (tokens)", "{:.0f}", 1),
    ("concurrency", "concurrency ratio η/c", "{:.2f}", 1),
    ("format_error", "format errors", "{:.1f} %", 100),
]


def _results(run: RunFiles, results: Mapping[str, Any], bars: Sequence[Drawn]) -> str:
    parts = [_tiles(results["paradigms"].get(run.row or "") or {})]
    if bars:
        parts.append(f'<div class="pair">{"".join(_figure(one, "") for one in bars)}</div>')
    if results["paradigms"]:
        about = caption({**results, **_provenance(run, results), "paradigms": results["paradigms"]})
        parts += [_table(results), f'<p class="note">{escaped(one_line(about))}</p>']
    if run.scores:
        parts.append("<h3>Scored by <code>evaluate</code></h3>")
        parts.append(_table({"paradigms": {name: {"": scores} for name, scores in run.scores.items()}}))
    if not any(parts):
        return '<p class="note">There are no results yet.</p>'
    return "\n".join(parts)


def _tiles(stages: Mapping[str, Any]) -> str:
    before, after = stages.get("after_sft"), stages.get("after_rl")
    last = after or before
    if not last:
        return ""
    cells = []
    for key, label, form, factor in TILES:
        if last.get(key) is not None:
            was = f"after the cold start {form.format(factor * before[key])}" if after and before else ""
            about = f"<small>{was or ('after RL' if after else 'after the cold start')}</small>"
            cells.append(f"<div><dt>{label}</dt><dd>{form.format(factor * last[key])}{about}</dd></div>")
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _table(results: Mapping[str, Any]) -> str:
    header, rows = result_rows(results)
    lines = []
    previous = None
    for row in rows:
        first = row[0] != previous
        cells = [row[0] if first else "", *row[1:]]
        previous = row[0]
        lines.append(f"<tr{' class=first' * first}>{_cells('td', cells)}</tr>")
    return _scrolled(f"<table><thead><tr>{_cells('th', header)}</tr></thead><tbody>{''.join(lines)}</tbody></table>")


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escaped(one_line(text))}</{tag}>" for text in texts)


def _figure(drawn: Drawn, kind: str) -> str:
    return f'<figure><div class="scroll {kind}">{drawn.svg}</div><figcaption>{drawn.caption}</figcaption></figure>'


def _scrolled(element: str) -> str:
    return f'<div class="scroll" tabindex="0">{element}</div>'


# ---------------------------------------------------------------------------------------------------------- episodes

ENDS = {"answer": "answered", "return": "returned", "budget": "out of tokens", "format_error": "format error"}


def _episodes(evaluations: Mapping[str, Sequence[DrawnEpisode]]) -> str:
    parts = [
        '<p class="note">Lanes over steps: a step is one decoded token of the longest chain, so agents side by side '
        "decode at the same time. Point at a bar or an arrow to read it; click, or tab to it and press Enter, to "
        "get to the whole text of its lane.</p>"
    ]
    several = len(evaluations) > 1
    for n, (name, drawn) in enumerate(evaluations.items()):
        cards = "\n".join(_episode(one) for one in drawn)
        if several:
            title = f"<summary>{escaped(one_line(name))}</summary>"
            cards = f'<details class="evaluation"{" open" * (n == 0)}>{title}{cards}</details>'
        parts.append(cards)
    return "\n".join(parts) if evaluations else ""


def _episode(drawn: DrawnEpisode) -> str:
    chosen, episode = drawn.chosen, drawn.chosen.episode
    if episode["format_error"]:
        badge = (
            f'<span class="badge wrong">format error: {escaped(str(episode["format_error"]).replace("_", " "))}</span>'
        )
    elif is_right(episode):
        badge = '<span class="badge right">right</span>'
    else:
        badge = f'<span class="badge wrong">accuracy {100 * (episode["score"] or {}).get("accuracy", 0):.0f} %</span>'
    traces = [*episode["traces"]]
    organizers = [trace for trace in traces if trace["role"] == "organizer"]
    texts = "\n".join(_lane(trace, f"{drawn.anchor}-{n}", len(organizers), n) for n, trace in enumerate(traces))
    answer = clean(str(episode["answer"] or ""))
    more = f"<br>answers {escaped(answer)}" if len(answer) > timeline.ANSWER else ""
    return f"""<article class="episode">
<header><h4>{escaped(chosen.why)} <span class="note">(line {chosen.number})</span></h4>{badge}</header>
<div class="scroll wide">{drawn.svg}</div>
<p class="note">{_problem(episode["problem"])}{more}</p>
<div class="lanes">
{texts}
</div>
</article>"""


def _problem(problem: Mapping[str, Any]) -> str:
    """All that is known of it, so the right answer too where there is one."""
    between = "<br>" if "question" in problem else ", "
    return between.join(escaped(one_line(shortened(f"{name} {value}", 1000))) for name, value in problem.items())


def _lane(trace: Mapping[str, Any], anchor: str, organizers: int, number: int) -> str:
    worker = trace["fork_id"]
    name = f"worker {worker}" if worker is not None else "organizer" if organizers == 1 else f"trace {number + 1}"
    kind = " organizer" if worker is None and organizers == 1 else ""
    hue = f' style="--lane:{style.WORKERS[(int(worker) - 1) % len(style.WORKERS)][0]}"' if worker is not None else ""
    steps = f"steps {trace['start_step'] + 1} to {trace['end_step']}" if trace["decoded_tokens"] else "no step"
    about = f"{steps}, {trace['decoded_tokens']} tokens, {ENDS.get(trace['end'], str(trace['end']))}"
    prompt = str(trace["prompt"])
    asked = f'<pre class="prompt">{escaped(prompt)}</pre>'
    if len(prompt) > 300:
        asked = f"<details><summary>prompt, {len(prompt):,} characters</summary>{asked}</details>"
    text = "".join(_span(kind, text) for kind, text in trace["spans"])
    return (
        f'<div class="lane{kind}" id="{anchor}"{hue} tabindex="-1"><h4>{escaped(name)}</h4><p>{escaped(about)}</p>'
        f"{asked}<pre>{text}</pre></div>"
    )


def _span(kind: str, text: str) -> str:
    # Tags are found before anything is escaped, and each piece is escaped by itself.
    pieces = re.split(f"({TAG.pattern})", str(text))
    shown = "".join(f"<b>{escaped(piece)}</b>" if n % 2 else escaped(piece) for n, piece in enumerate(pieces))
    return f'<mark title="inserted, not decoded">{shown}</mark>' if kind == "joined" else shown


# ------------------------------------------------------------------------------------------------------------ config


def _config(run: RunFiles, others: Sequence[RunFiles]) -> str:
    if not run.config:
        return ""
    runs = [run, *(other for other in others if other.config)]
    fields = [flat(one.config) for one in runs]
    names = list(dict.fromkeys(name for one in fields for name in one))
    differ = [name for name in names if any(one.get(name) != fields[0].get(name) for one in fields)]
    header = ["field", *labels(runs)]
    parts = []
    if len(runs) > 1:
        parts += ["<h3>What differs</h3>", _fields(header, differ, fields)]
    whole = _fields(header[:2], names, fields[:1])
    return "\n".join([*parts, f"<details><summary>all {len(fields[0])} fields</summary>{whole}</details>"])


def _fields(header: Sequence[str], names: Sequence[str], fields: Sequence[Mapping[str, Any]]) -> str:
    def value(one: Mapping[str, Any], name: str) -> str:
        return json.dumps(one[name], ensure_ascii=False) if name in one else ""

    rows = "".join(f"<tr>{_cells('td', [name, *[value(one, name) for one in fields]])}</tr>" for name in names)
    return _scrolled(f"<table class=text><thead><tr>{_cells('th', header)}</tr></thead><tbody>{rows}</tbody></table>")
