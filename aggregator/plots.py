"""Two plots of a series of rounds, as SVG and PNG: what was learned, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot_rounds(folder: Path, accuracies: Sequence[float], epsilons: Sequence[float], limit: float) -> list[Path]:
    """`accuracies` (0..1) after 0..T rounds, `epsilons` after 0..T rounds, the policy's limit. Returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written: list[Path] = []
    rounds = list(range(len(accuracies)))
    for name, values, title, unit in (
        ("accuracy", [100 * value for value in accuracies], "Accuracy on held-out wording", "per cent"),
        ("budget", list(epsilons), "Privacy budget spent by one device (headline ε)", "ε"),
    ):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
        axes.plot(rounds, values, marker="o", color="#0b7a75", linewidth=2)
        if name == "budget":
            axes.axhline(limit, color="#a34700", linestyle="--", linewidth=1)
            axes.annotate(
                "limit of the policy", (0, limit), xytext=(0, -12), textcoords="offset points", color="#a34700"
            )
            axes.set_ylim(bottom=0)
        axes.set(title=title, xlabel="rounds", ylabel=unit)
        axes.set_xticks(rounds)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for suffix in ("svg", "png"):
            path = folder / f"{name}.{suffix}"
            figure.savefig(path, dpi=130, metadata={"Date": None} if suffix == "svg" else None)
            written.append(path)
        pyplot.close(figure)
    return written
