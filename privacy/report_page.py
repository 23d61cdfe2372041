"""The privacy report as one HTML page: no script, nothing loaded from anywhere, every value escaped."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink:#1b2430; --soft:#5a6675; --line:#d8dee6; --paper:#fff; --mark:#0b7a75; --warn:#a34700 }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e8edf3; --soft:#9fb0c0; --line:#334050; --paper:#12181f; --mark:#4fc3bb; --warn:#ffb072 }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 2rem 1.25rem;
  max-width: 62rem }
h1 { font-size: 1.6rem; margin: 0 0 .25rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p.soft, td.soft { color: var(--soft) } code { font-size: .85em; overflow-wrap: anywhere }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1rem 0 }
.figure { border: 1px solid var(--line); border-radius: .6rem; padding: .75rem 1rem }
.figure b { display: block; font-size: 1.5rem }
.figure span { color: var(--soft); font-size: .85rem }
.bar { height: .7rem; border-radius: .35rem; background: var(--line); overflow: hidden } .bar i { display: block; height: 100%;
  background: var(--mark) }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
.warn { color: var(--warn); font-weight: 600 } li { margin: .3rem 0 }
"""


_COLLUDING = (
    ("gamma", "no more than assumed"),
    ("half", "half"),
    ("nine in ten", "nine in ten"),
    ("all but one", "all but one"),
)


def render_html(report: dict[str, Any]) -> str:
    """The page for a report of `privacy.reports.build_report`."""
    fleet = escape(report["fleet"])
    ledger, policy = report["ledger"], report["policy"]
    halted = '<p class="warn">Contributions are halted by the privacy officer.</p>' if policy["halted"] else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Privacy report of {fleet}</title><style>{_STYLE}</style></head><body>
<h1>Privacy report of {fleet}</h1>
<p class="soft">From a ledger of {ledger["entries"]} entries, {escape(ledger["from"])} to {escape(ledger["to"])}.
Chain, signatures and arithmetic were checked before this page was made.</p>{halted}
{"".join(_purpose(item, policy) for item in report["purposes"])}
<h2>What these figures mean</h2><ul>{"".join(f"<li>{escape(text)}</li>" for text in report["statements"])}</ul>
<h2>Rounds</h2>{_rounds(report["rounds"])}
<h2>To check it yourself</h2>
<p>Officer's key <code>{escape(ledger["officer_fingerprint"])}</code> · aggregator's key
<code>{escape(ledger["aggregator_fingerprint"])}</code> · last entry <code>{escape(ledger["head"])}</code></p>
<p><code>tacit-privacy ledger verify LEDGER --officer OFFICER.pub</code></p>
</body></html>
"""


def _purpose(item: dict[str, Any], policy: dict[str, Any]) -> str:
    share = min(1.0, item["rho"] / item["rho_limit"]) if item["rho_limit"] else 1.0
    left = item["rounds_left"]
    forecast = "no round yet" if left is None else "exhausted" if left == 0 else f"exhausted after {left} more rounds"
    figures = [
        (_number(item["epsilon"]), f"epsilon spent at delta {item['delta_protocol']:.2g}, headline (zCDP)"),
        (_number(item["epsilon_limit"]), "epsilon that the policy allows"),
        (
            _number(item["epsilon_pld_continuous_surrogate_plan_fixed"]),
            "epsilon by PLD: continuous surrogate, plan fixed in advance",
        ),
        (
            f"{item['participations']} of {item['participations_limit']}",
            "participations charged to one device in a period",
        ),
        (_number(item["least_survivors"]), "least survivors of a release"),
        (_number(item["least_noise_multiplier"]), "least noise multiplier of a release"),
    ]
    if item["epsilon_if_more_collude"]:
        remaining = item["epsilon_if_more_collude"]
        figures += [(_number(remaining[name]), f"epsilon if {what} of a cohort collude") for name, what in _COLLUDING]
    cells = "".join(f'<div class="figure"><b>{value}</b><span>{escape(name)}</span></div>' for value, name in figures)
    return (
        f"<h2>Purpose: {escape(item['purpose'])}</h2>"
        f'<div class="bar" role="img" aria-label="{share:.0%} of the budget is spent"><i style="width:{share:.1%}"></i></div>'
        f'<p class="soft">rho {item["rho"]:.4g} of {item["rho_limit"]:.4g} in any {policy["period_days"]} days; '
        f"{escape(forecast)}. Trust mode: {escape(', '.join(item['modes']) or 'no round yet')}. "
        f"Second line: {escape(item['local_noise']['text'])}.</p>"
        f'<div class="figures">{cells}</div>'
    )


def _rounds(rounds: list[dict[str, Any]]) -> str:
    if not rounds:
        return "<p>None yet.</p>"
    rows = "".join(
        f"<tr><td>{item['round_id']}</td><td>{escape(item['time'])}</td><td>{escape(item['purpose'])}</td>"
        f"<td>{escape(item['contribution'])}</td>"
        f"<td>{escape(item['mode'])}</td><td>{escape(item['outcome'])}</td>"
        f"<td>{item['survivors'] if item['survivors'] is not None else '–'} of {item['invited']}</td>"
        f"<td>{item['noise_multiplier']:.3f}</td><td>{item['rho']:.4g}</td><td class=soft>{escape(item['reason'])}</td></tr>"
        for item in rounds
    )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("Round", "Time", "Purpose", "Contribution", "Mode", "Outcome", "Answered", "Noise", "rho", "")
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
