"""What the demo says and shows: its bars, its table of results, the newcomer's privacy centre."""

from __future__ import annotations

import http.cookiejar
import re
import select
import sys
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from aggregator.evaluation import Comparison
from aggregator.fleet import Fleet
from privacy.policy import Policy
from shared_models.errors import RoundError

if TYPE_CHECKING:
    from aggregator.demo import DemoOptions


@dataclass
class Learned:
    """What the rounds showed, round by round."""

    accuracies: list[float]
    epsilons: list[float] = field(default_factory=lambda: [0.0])
    bytes_up: int = 0
    if_more_collude: dict[str, float] = field(default_factory=dict)
    """ε if more devices than γ collude, by how many."""
    mended: int = 0
    """Held-out utterances that the seed phrases got wrong and the released model gets right."""
    broken: int = 0
    """The reverse."""


def print_summary(
    options: DemoOptions,
    fleet: Fleet,
    learned: Learned,
    comparisons: list[Comparison],
    proved: int,
    version: int,
    seconds: float,
    console: Console,
) -> None:
    policy: Policy = fleet.policy()
    table = Table(title=f"What {options.users} devices learned together", title_justify="left")
    table.add_column("model")
    table.add_column("accuracy on held-out wording", justify="right")
    table.add_column(f"over {len(comparisons)} seeds", justify="right")
    table.add_column("privacy")
    rows = (
        ("seed phrases alone", learned.accuracies[0], "seed_phrases", "nobody's data"),
        (
            "federated, this fleet",
            learned.accuracies[-1],
            "federated",
            f"ε {learned.epsilons[-1]:.2f}, δ {policy.delta:.2g}",
        ),
        ("federated, not private", None, "federated_not_private", "none"),
        ("all data in one place", None, "central_not_private", "none"),
    )
    for name, here, attribute, privacy in rows:
        values = [getattr(item, attribute) for item in comparisons]
        spread = f"{np.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"
        table.add_row(name, "" if here is None else f"{here:.1%}", spread, privacy)
    console.print(table)
    lift = learned.accuracies[-1] - learned.accuracies[0]
    console.print(
        f"Lift {100 * lift:+.1f} points · {proved} receipts of {min(options.complete, options.users)} complete devices proved "
        f"in the ledger · {learned.bytes_up / 2**20:.0f} MiB up in all · release {version} · {seconds:.0f} s"
    )
    left = ", ".join(f"{name} {epsilon:.1f}" for name, epsilon in learned.if_more_collude.items() if name != "gamma")
    console.print(
        f"ε holds if at most {policy.colluding_share:.0%} of the devices collude with the aggregator; if more do: {left}."
    )
    console.print(f"Plots, report, ledger, the newcomer's privacy centre: {options.out}\n\nTry next:")
    for command in (
        f"tacit-device chat --home my-assistant --bundle {fleet.bundle}",
        f"tacit-privacy report {options.out / 'ledger.jsonl'} --officer {options.out / 'officer.pub'} --html report.html",
        "tacit-fleet domain new my-domain",
    ):
        console.print(f"  {command}", soft_wrap=True)


LOOK_S = 60.0
"""How long the demo waits for somebody who looks at the privacy centre."""


def fetched(link: str) -> bytes:
    """What a browser would show behind a link to the privacy centre: the page to which the opening one leads."""
    browser = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    )
    with browser.open(link, timeout=20.0) as answer:
        onward = re.search(rb'href="(/centre/[^"]+/known)"', answer.read())
    if onward is None:
        raise RoundError("the link to the privacy centre leads nowhere")
    with browser.open(urllib.parse.urljoin(link, onward[1].decode("ascii")), timeout=20.0) as answer:
        return bytes(answer.read())


def show_centre(link: Callable[[], str], console: Console) -> None:
    """Open the privacy centre in the user's browser, if there is a user: at a terminal, until Enter is pressed."""
    if not (console.is_terminal and sys.stdin.isatty()):
        return
    address = link()
    console.print(f"  the newcomer's privacy centre: {address}\n  (Enter goes on; so does a minute)", soft_wrap=True)
    webbrowser.open(address)
    select.select([sys.stdin], [], [], LOOK_S)


@contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=False, refresh_per_second=4) as bars:
        yield bars
