"""An episode as lanes over the steps: what has to be drawn, on paper or on a terminal.

An episode is read in the format of `episodes.jsonl`, finished or as far as it has come. A worker's lane is one of the
pool's c - 1: it is taken at the Fork and free again after the Join.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Bar:
    """What an agent does from step `start` to step `end`."""

    lane: int
    start: int
    end: int
    kind: Literal["organizer", "worker", "waiting", "returned"]  # returned: the result is there, not joined yet
    fork_id: int | None = None
    failed: bool = False  # ended by a format error


@dataclasses.dataclass(frozen=True)
class Link:
    """A Fork (organizer to worker) or a Join (worker to organizer) at a step."""

    kind: Literal["fork", "join"]
    fork_id: int
    lane: int  # the worker's; the organizer's is 0
    step: int


@dataclasses.dataclass(frozen=True)
class Layout:
    lanes: list[str]
    bars: list[Bar]
    links: list[Link]
    critical: list[tuple[int, int, int]]  # (lane, start, end) from the beginning to the Answer, without a gap
    steps: int


def layout(episode: Mapping[str, Any]) -> Layout:
    """Lanes, bars, links and the critical path of an episode in the format of `episodes.jsonl`."""
    organizers = [trace for trace in episode["traces"] if trace["role"] == "organizer"]
    if len(organizers) == 1:
        return _fork_join(episode, organizers[0])
    bars = [
        Bar(lane, trace["start_step"], trace["end_step"], "organizer", failed=trace["end"] == "format_error")
        for lane, trace in enumerate(organizers)
    ]
    longest = max(bars, key=lambda bar: bar.end)
    lanes = [f"trace {lane + 1}" for lane in range(len(organizers))]
    return Layout(lanes, bars, [], [(longest.lane, longest.start, longest.end)], longest.end)


def _fork_join(episode: Mapping[str, Any], organizer: Mapping[str, Any]) -> Layout:
    workers = {trace["fork_id"]: trace for trace in episode["traces"] if trace["role"] == "worker"}
    steps = organizer["end_step"]
    bars: list[Bar] = []
    links: list[Link] = []
    moments: list[tuple[str, int, int, int]] = []  # action, id, step at which it was written, step after it
    lane_of: dict[int, int] = {}
    joined: dict[int, int] = {}

    now = counted = begun = 0
    for event in organizer["events"]:
        fork_id = event["id"]
        now, counted = now + event["at"] - counted, event["at"]
        written = now
        if event["action"] == "fork":
            taken = {lane for other, lane in lane_of.items() if other not in joined}
            lane_of[fork_id] = next(lane for lane in range(1, len(taken) + 2) if lane not in taken)
        else:
            joined[fork_id] = now = max(now, workers[fork_id]["end_step"])
            if now > written:
                bars += [Bar(0, begun, written, "organizer"), Bar(0, written, now, "waiting")]
                begun = now
        moments.append((event["action"], fork_id, written, now))
        links.append(Link(event["action"], fork_id, lane_of[fork_id], now))
    bars.append(Bar(0, begun, steps, "organizer", failed=organizer["end"] == "format_error"))

    for fork_id, worker in workers.items():
        lane, start, end = lane_of[fork_id], worker["start_step"], worker["end_step"]
        bars.append(Bar(lane, start, end, "worker", fork_id, failed=worker["end"] == "format_error"))
        if joined.get(fork_id, steps) > end:
            bars.append(Bar(lane, end, joined.get(fork_id, steps), "returned", fork_id))

    count = max([episode["agents"] - 1, *lane_of.values()])
    lanes = ["organizer", *[f"worker {lane}" for lane in range(1, count + 1)]]
    return Layout(lanes, bars, links, _critical(moments, workers, lane_of, steps), steps)


def _critical(
    moments: list[tuple[str, int, int, int]],
    workers: Mapping[int, Mapping[str, Any]],
    lane_of: Mapping[int, int],
    steps: int,
) -> list[tuple[int, int, int]]:
    """Walks back from the Answer: where the organizer had waited for a worker, the path goes through that worker."""
    path = []
    end = steps
    through: int | None = None  # the worker whose Fork is being looked for
    for action, fork_id, written, after in reversed(moments):
        if through is not None:
            if (action, fork_id) == ("fork", through):
                through = None
        elif action == "join" and after > written:
            start = workers[fork_id]["start_step"]
            path += [(0, after, end), (lane_of[fork_id], start, after)]
            end, through = start, fork_id
    path.append((0, 0, end))
    return path[::-1]


def worker_texts(episode: Mapping[str, Any]) -> dict[int, tuple[str, str]]:
    """Fork id -> (sub-query, returned text)."""
    written = {trace["fork_id"]: "".join(text for _, text in trace["spans"]) for trace in episode["traces"]}
    organizer = written.get(None, "")
    texts = {}
    for fork_id, text in written.items():
        if fork_id is not None:
            query = re.search(rf"<FORK-{fork_id}>(.*?)</FORK-{fork_id}>", organizer, re.DOTALL)
            returned = re.search(r"<RETURN>(.*?)(</RETURN>|$)", text, re.DOTALL)
            texts[fork_id] = (clean(query[1]) if query else "", clean(returned[1]) if returned else "")
    return texts


def asked(episode: Mapping[str, Any]) -> str:
    """The question, the prompt where that is no more than it, else the problem's fields."""
    problem, prompt = episode["problem"], episode["traces"][0]["prompt"]
    # A released model's prompt is pages of instructions.
    if "question" not in problem and len(prompt) > 200:
        return ", ".join(f"{name} {value}" for name, value in problem.items())
    return clean(str(problem.get("question") or clean(prompt).removesuffix(":"))).strip()


def clean(text: str) -> str:
    """One line, brackets close to what they hold."""
    return re.sub(r"\( | \)| ,", lambda match: match[0].strip(), " ".join(text.split()))
