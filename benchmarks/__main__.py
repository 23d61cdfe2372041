"""All benchmarks, one after the other, each in a process of its own: `python -m benchmarks [--quick|--full] [--data DIR]`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import OUT, options_parser


def names() -> list[str]:
    """Every module here that defines `run`."""
    return [
        path.stem
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "run"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    ]


def main() -> int:
    chosen = options_parser("All Tacit benchmarks").parse_args()
    size = [] if chosen.size == "default" else [f"--{chosen.size}"]
    data = [] if chosen.data is None else ["--data", str(chosen.data)]
    failed = []
    for name in names():
        print(f"== {name}", file=sys.stderr, flush=True)
        out = ["--json", str(OUT / f"{name}.json")]
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *size, *data, *out], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
