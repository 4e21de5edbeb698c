"""The Markdown table of the results in `results/`.

python -m experiments.benchmarks.table
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def markdown(folder: Path = RESULTS) -> str:
    """One line a benchmark and peer (one line if it has no peer), in the order of the files' names."""
    lines = [
        "| benchmark | ours | unit | peer | its value | speed-up | hardware | date | commit |",
        "|---|---:|---|---|---:|---:|---|---|---|",
    ]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        for peer in result["peers"] or [None]:
            lines.append(_line(result, peer))
    return "\n".join(lines) + "\n"


def _line(result: dict[str, Any], peer: str | None) -> str:
    version = result["detail"].get("versions", {}).get((peer or "").split(" ")[0])
    cells = [
        result["name"],
        _number(result["ours"]),
        result["unit"],
        " ".join(word for word in (peer, version) if word),
        _number(result["peers"][peer]) if peer else "",
        f"{result['ratios'][peer]:.2f}x" if peer else "",
        result["hardware"] + (f" ({result['note']})" if result["note"] else ""),
        result["date"],
        f"`{result['commit'][:10]}{'+' * result['commit'].endswith('+')}`",
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    print(markdown(), end="")
