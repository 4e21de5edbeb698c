"""What a compiled program moves: an audit of its HLO text, instruction by instruction.

    text = jitted.lower(..).compile().as_text()
    traffic(text, innermost_loop(text))

`cost_analysis()` counts an update of one row as the whole array, and knows nothing of where an array lives. Here, bytes
are those that go to or come from main memory (HBM on a TPU: whatever the compiler has not put into another memory
space), each instruction's operands and results once, with these exceptions:

* a gather, slice or dynamic slice, alone or as the only use of a fusion's operand, reads what it takes out;
* a scatter or dynamic update in place, alone or at the end of a fusion, reads and writes what it changes;
* an asynchronous copy or slice counts where it starts.

A loop inside the computation counts as often as the compiler knows that it runs (once, if it doesn't know), a
conditional as its most expensive branch.
"""

import dataclasses
import math
import re
from collections import Counter

_BYTES = {"pred": 1, "token": 0} | {
    f"{kind}{bits}": max(bits // 8, 1) for kind in ("s", "u", "f", "bf") for bits in (4, 8, 16, 32, 64)
}
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "iota",
    "copy-done", "slice-done", "all-reduce-done", "all-gather-done", "collective-permute-done", "async-done",
    "async-update", "opt-barrier",
}  # fmt: skip
_TAKES = {"gather", "slice", "dynamic-slice"}  # what they read is as large as their result
_CHANGES = {"scatter": 2, "dynamic-update-slice": 1}  # operand that holds what is written
_PASSES = {"bitcast", "copy", "convert", "reshape", "transpose"}  # seen through on the way to one of the above
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result."""

    size: int  # bytes
    in_main_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    result: tuple[Array, ...]  # more than one: a tuple
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def calls(self, *attributes: str) -> list[str]:
        """Names of the computations that an attribute names."""
        found = []
        for attribute in attributes:
            for single, several in re.findall(rf"\b{attribute}=(?:%([\w.\-]+)|\{{([^}}]*)\}})", self.attributes):
                found += [single] if single else _NAME.findall(several)
        return found


Program = dict[str, dict[str, Instruction]]  # computation -> name -> instruction


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes of one run of a computation, on one device."""

    read: int
    written: int
    by_opcode: Counter[str]  # read + written

    @property
    def total(self) -> int:
        return self.read + self.written


def parse(text: str) -> Program:
    """The instructions of each computation of `Compiled.as_text()`."""
    program: Program = {}
    current: dict[str, Instruction] | None = None
    for line in text.splitlines():
        if current is None:
            header = _COMPUTATION.match(line)
            current = program.setdefault(header[1], {}) if header else None
        elif line == "}":  # a kernel's attributes may go on over several lines, and those end in more
            current = None
        elif (instruction := _instruction(line.strip())) is not None:
            current[instruction.name] = instruction
    return program


def innermost_loop(program: Program) -> str:
    """The body of the loop that has no loop inside; the largest, where there are several."""
    bodies = [body for name in program for one in program[name].values() for body in one.calls("body")]
    plain = [body for body in bodies if not any(one.opcode == "while" for one in program[body].values())]
    if not plain:
        raise ValueError("the program has no loop")
    return max(plain, key=lambda body: len(program[body]))


def entry(program: Program) -> str:
    """The computation that is called from outside: no other calls it."""
    called = {name for body in program.values() for one in body.values() for name in _called(one)}
    return next(name for name in reversed(program) if name not in called)


def loop_of_scope(program: Program, scope: str) -> str:
    """The body of the loop in which most instructions stand under a `jax.named_scope`."""

    def inside(body: str) -> int:
        return sum(bool(re.search(rf'op_name="[^"]*\b{scope}\b', one.attributes)) for one in program[body].values())

    bodies = [body for name in program for one in program[name].values() for body in one.calls("body")]
    best = max(bodies, key=inside, default=None)
    if best is None or not inside(best):
        raise ValueError(f"the program has no loop in the scope {scope}")
    return best


def collectives(program: Program, computation: str, unknown_trips: int = 1) -> dict[str, tuple[int, int]]:
    """What one run of `computation` sends between devices: kind -> how many, bytes of their results on one device.

    A TPU's compiler writes a reduce-scatter as the fusion of an all-reduce and a slice, and cuts an asynchronous
    collective into fusions that all name it: by its channel it is counted once.

    `unknown_trips`: how often a loop runs whose count only a run knows.
    """
    channels: dict[str, tuple[str, int, int]] = {}  # channel -> kind, times, bytes

    def walk(name: str, times: int) -> None:
        for one in program.get(name, {}).values():  # an excerpt may lack what a reduction applies
            kind = next((kind for kind in _COLLECTIVES if one.opcode in (kind, f"{kind}-start")), None)
            if kind:
                channel = re.search(r"channel_id=(\d+)", one.attributes)
                # An asynchronous one starts with (operands, results, ..).
                arrays = one.result[len(one.operands) : 2 * len(one.operands)] if one.opcode != kind else one.result
                size = sum(array.size for array in arrays or one.result)
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    kind, size = "reduce-scatter", sum(array.size for array in _root(program[name]).result)
                key = channel[1] if channel else f"{name} {one.name}"
                channels[key] = kind, max(times, channels.get(key, ("", 0, 0))[1]), size
            elif one.opcode == "while":
                walk(one.calls("body")[0], times * (_trips(program, one) or unknown_trips))
            else:
                for called in _called(one):
                    walk(called, times)

    walk(computation, 1)
    found: dict[str, tuple[int, int]] = {}
    for kind, times, size in channels.values():
        count, total = found.get(kind, (0, 0))
        found[kind] = count + times, total + times * size
    return found


def memory_refused(message: str) -> float | None:
    """Bytes that a program needs at least, from the compiler's refusal for lack of memory; None for another refusal."""
    used = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
    used = used or re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message)
    return float(used[1]) * 1024 ** " KMGT".index(used[2] or " ") if used else None


def _trips(program: Program, loop: Instruction) -> int | None:
    """How often a loop runs, if the program says so: as the compiler notes it, or as `jax.lax.scan` counts."""
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if noted:
        return int(noted[1])
    condition = program[loop.calls("condition")[0]]
    root = _root(condition)
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    limit = condition[root.operands[1]]
    value = re.match(r"(\d+)\)", limit.attributes) if limit.opcode == "constant" else None
    return int(value[1]) if value else None


def _root(body: dict[str, Instruction]) -> Instruction:
    return next(one for one in body.values() if one.is_root)


def _called(one: Instruction) -> list[str]:
    return one.calls(
        "body", "condition", "calls", "to_apply", "branch_computations", "true_computation", "false_computation"
    )


def traffic(program: Program, computation: str) -> Traffic:
    """What one run of `computation` reads from and writes to main memory."""
    read, written = 0, 0
    by_opcode: Counter[str] = Counter()

    def add(part: Traffic, times: int = 1) -> None:
        nonlocal read, written
        read, written = read + times * part.read, written + times * part.written
        by_opcode.update({opcode: times * size for opcode, size in part.by_opcode.items()})

    body = program[computation]
    for one in body.values():
        if one.opcode == "while":
            for name in one.calls("body", "condition"):
                add(traffic(program, name), _trips(program, one) or 1)
        elif one.opcode == "conditional":
            branches = one.calls("branch_computations", "true_computation", "false_computation")
            add(max((traffic(program, name) for name in branches), key=lambda part: part.total))
        elif one.opcode == "call":
            for name in one.calls("to_apply"):
                add(traffic(program, name))
        elif one.opcode not in _FREE:
            reads, writes = _moved(program, body, one)
            add(Traffic(reads, writes, Counter({one.opcode: reads + writes})))
    return Traffic(read, written, by_opcode)


def _moved(program: Program, body: dict[str, Instruction], one: Instruction) -> tuple[int, int]:
    """Bytes that an instruction reads and writes."""
    operands = [body[name] for name in one.operands if name in body]
    if one.opcode in ("copy-start", "slice-start", "async-start"):
        # The result is (target, source, ..) for a copy, ((source), target, ..) for a slice; the smaller is moved.
        moved = min(array.size for array in one.result[:2])
        source = bool(operands) and all(array.in_main_memory for array in operands[0].result)
        target = one.result[0] if one.opcode == "copy-start" else one.result[1]
        return moved * source, moved * target.in_main_memory
    changed = _changed(program, one)
    reads = 0
    for place, operand in enumerate(operands):
        if changed and place == changed[0]:
            continue
        size = sum(array.size for array in operand.result if array.in_main_memory)
        reads += min(size, _taken(program, one, place, size))
    writes = sum(array.size for array in one.result if array.in_main_memory)
    return reads, min(writes, changed[1]) if changed else writes


def _taken(program: Program, one: Instruction, place: int, size: int) -> int:
    """How much of an operand is read."""
    if one.opcode in _TAKES:
        return one.result[0].size if place == 0 else size
    if one.opcode != "fusion":
        return size
    fused = program[one.calls("calls")[0]]
    parameter = _parameter(fused, place)
    taken = 0
    for user in _users(fused, parameter):
        if user.opcode == "fusion":
            places = [n for n, name in enumerate(user.operands) if name == parameter]
            taken += sum(_taken(program, user, n, size) for n in places)
        elif user.opcode in _TAKES and user.operands[0] == parameter:
            taken += user.result[0].size
        else:
            return size
    return taken


def _changed(program: Program, one: Instruction) -> tuple[int, int] | None:
    """(operand that is changed in place, bytes that change) of an update."""
    if one.opcode in _CHANGES:
        return 0, 0  # the update itself is an operand, and counts there
    if one.opcode != "fusion":
        return None
    fused = program[one.calls("calls")[0]]
    root = _root(fused)
    while root.opcode in _PASSES:
        root = fused[root.operands[0]]
    if root.opcode not in _CHANGES:
        return None
    target = fused[root.operands[0]]
    while target.opcode in _PASSES:
        target = fused[target.operands[0]]
    if target.opcode != "parameter" or target.result[0].size != one.result[0].size:
        return None
    place = next(n for n in range(len(one.operands)) if _parameter(fused, n) == target.name)
    return place, fused[root.operands[_CHANGES[root.opcode]]].result[0].size


def _parameter(fused: dict[str, Instruction], place: int) -> str:
    return next(
        one.name for one in fused.values() if one.opcode == "parameter" and one.attributes.startswith(f"{place})")
    )


def _users(fused: dict[str, Instruction], name: str) -> list[Instruction]:
    return [one for one in fused.values() if name in one.operands]


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end + 1 :]
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest, 0) - 1
    operands = tuple(_NAME.findall(rest[:end])) if opcode != "parameter" else ()
    attributes = rest if opcode in ("parameter", "constant") else rest[end + 1 :]
    return Instruction(head[2], opcode, tuple(_arrays(kind)), operands, attributes, bool(head[1]))


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"unbalanced parentheses: {text[:80]}")


def _arrays(kind: str) -> list[Array]:
    found = []
    for element, sizes, layout in _ARRAY.findall(kind):
        if element in _BYTES:
            count = math.prod(int(size) for size in sizes.split(",") if size)
            space = re.search(r"S\((\d+)\)", layout)
            found.append(Array(count * _BYTES[element], space is None or space[1] == "0"))
    return found
