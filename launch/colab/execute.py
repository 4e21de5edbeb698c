"""Executes a notebook as a reader would: in a kernel of its own, in the notebook's folder, cell by cell.

    python launch/colab/execute.py launch/colab/asyncthink_in_10_minutes.ipynb
    python launch/colab/execute.py launch/colab/asyncthink_in_10_minutes.ipynb --write

With `--write` the outputs are stored in the notebook, to be committed; without, the file stays as it is. The kernel has
the environment of this command. Exit codes: 0 every cell ran, 1 a cell failed (which one, and its error, on stderr),
2 bad input. Needs nbclient, nbformat and ipykernel (`pip install -e '.[test]'`).
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

METADATA = {
    "colab": {"provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class CellFailedError(Exception):
    """A cell did not run to its end; the message says which, and why."""


def execute(path: Path) -> NotebookNode:
    """The notebook at `path` with the outputs of a run of all its cells, and metadata that no machine differs in.

    Raises CellFailedError at the first cell that fails, and ValueError for a file that is no notebook.
    """
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=None,  # training takes as long as it takes
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        on_cell_start=lambda cell, cell_index: print(f"{path.name}: cell {cell_index + 1}", flush=True),
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise CellFailedError(f"{path.name}: {error}") from error
    except DeadKernelError as error:
        raise CellFailedError(f"{path.name}: the kernel died; was there enough memory?") from error
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        _tidy(cell)
    return notebook


def read(path: Path) -> NotebookNode:
    """The notebook at `path`. Raises ValueError, in one line, if there is none."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; name a notebook (.ipynb)") from None
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is no notebook: {' '.join(str(error).split())[:200]}") from None


def _tidy(cell: NotebookNode) -> None:
    """Leaves out what the editor or the kernel has noted, and puts lines together that were sent one by one."""
    cell.metadata = nbformat.from_dict({})
    if cell.cell_type != "code":
        return
    outputs: list[NotebookNode] = []
    for output in cell.outputs:
        before = outputs[-1] if outputs else None
        if before is not None and output.output_type == before.output_type == "stream" and output.name == before.name:
            before.text += output.text
        else:
            outputs.append(output)
    cell.outputs = outputs


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--write", action="store_true", help="store the outputs in the notebook")
    arguments = parser.parse_args()
    try:
        notebook = execute(arguments.notebook)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CellFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.write:
        nbformat.write(notebook, arguments.notebook)
    return 0


if __name__ == "__main__":
    sys.exit(main())
