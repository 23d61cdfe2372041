"""The model card of a release: what it learned from, what that cost whom, how well it does and for whom, what it is for and not.

Plain values in, one document out, as JSON and as Markdown (Mitchell et al., Model Cards for Model Reporting, FAT* 2019). Every ε
comes from the privacy report, which anyone can recompute from the ledger; every rate of a group from the noisy sum of
`fairness_slices`. What was not measured is said to be so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregator.releases.fairness_slices import ARTIFACT, fairness_document, rates_by_group
from aggregator.releases.fairness_slices import NAME as FAIRNESS
from privacy.cli import write_atomically
from shared_models.errors import ConfigError, WireError
from shared_models.fairness import OUTCOMES

if TYPE_CHECKING:
    from aggregator.fleet import Fleet

FORMAT = 1
JSON_FILE, MARKDOWN_FILE = "model-card.json", "model-card.md"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Measure:
    """One figure of the evaluation."""

    name: str
    value: float
    data: str
    """What it was measured on, and how much of it."""
    low: float | None = None
    high: float | None = None
    """95% interval, if there is one."""


@dataclass(frozen=True)
class TrainedOn:
    """One source of what the model knows."""

    name: str
    description: str
    personal: bool
    """True if it is of users: then it came as contributions, through the gate."""


def model_card(
    *,
    name: str,
    version: int,
    domain: str,
    languages: Sequence[str],
    intended_use: Sequence[str],
    not_for: Sequence[str],
    trained_on: Sequence[TrainedOn],
    artifacts: Mapping[str, str],
    report: Mapping[str, Any] | None,
    evaluation: Sequence[Measure],
    fairness: Mapping[str, Any] | None,
    limits: Sequence[str],
) -> dict[str, Any]:
    """The card as plain JSON.

    `artifacts`: name -> SHA-256 of what is published; `report`: privacy.reports.build_report, None before the first policy;
    `fairness`: a parsed `fairness.json`, None if no round of it was released. Raises ConfigError for what cannot be a card.
    """
    if not name or isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise ConfigError(
            f"a model card has a name and a version from 0, not {str(name)[:40]!r} and {str(version)[:20]}"
        )
    if not intended_use or not not_for or not limits:
        raise ConfigError("a model card says what the model is for, what it is not for, and what its limits are")
    for measure in evaluation:
        if not all(value is None or math.isfinite(value) for value in (measure.value, measure.low, measure.high)):
            raise ConfigError(f"evaluation: {measure.name[:60]!r} is not a finite number")
    return {
        "format": FORMAT,
        "name": name,
        "version": version,
        "domain": domain,
        "languages": list(languages),
        "intended_use": list(intended_use),
        "not_for": list(not_for),
        "trained_on": [asdict(source) for source in trained_on],
        "artifacts": dict(artifacts),
        "privacy": None if report is None else _privacy(report),
        "evaluation": [asdict(measure) for measure in evaluation],
        "fairness": None if fairness is None else dict(fairness),
        "limits": list(limits),
    }


def epsilon_in_words(epsilon: float, delta: float) -> str:
    """What (ε, δ) means for one person: how sure somebody may become that this person took part with what they are."""
    # Of two equally likely worlds, by the bound on the posterior odds.
    sure = 100.0 / (1.0 + math.exp(-epsilon))
    return (
        "Whoever sees all that was released, and knows everything about everybody else, and held it for as likely as not that a "
        f"certain person's data was in it, can be {sure:.0f}% sure afterwards at most (50% would be no gain), but for a chance "
        f"of {delta:.1e}."
    )


def render_markdown(card: Mapping[str, Any]) -> str:
    """The card for people. All text of it is escaped: a domain's title cannot become markup."""
    lines = [f"# Model card: {_plain(card['name'])}, release {card['version']}", ""]
    lines += [
        f"Domain: {_plain(card['domain'])}. Languages: {', '.join(map(_plain, card['languages'])) or 'none'}.",
        "",
    ]
    lines += ["## Intended use", "", *_items(card["intended_use"]), "", "## Not for", "", *_items(card["not_for"]), ""]
    lines += ["## Learned from", ""]
    lines += _items(
        f"{source['name']} ({'of users, through the gate' if source['personal'] else 'public'}): {source['description']}"
        for source in card["trained_on"]
    )
    lines += ["", "## Privacy", "", *_privacy_lines(card["privacy"]), "", "## Evaluation", ""]
    if card["evaluation"]:
        lines += ["| measure | value | 95% interval | on |", "|---|---|---|---|"]
        lines += [
            f"| {_plain(one['name'])} | {one['value']:.4g} | {_interval(one)} | {_plain(one['data'])} |"
            for one in card["evaluation"]
        ]
    else:
        lines += [f"{NOT_MEASURED.capitalize()}."]
    lines += [
        "",
        "## Groups of users",
        "",
        *_fairness_lines(card["fairness"]),
        "",
        "## Limits",
        "",
        *_items(card["limits"]),
        "",
    ]
    if card["artifacts"]:
        lines += ["## Files", "", "| file | SHA-256 |", "|---|---|"]
        lines += [f"| {_plain(file)} | `{_plain(digest)}` |" for file, digest in sorted(card["artifacts"].items())]
        lines.append("")
    return "\n".join(lines)


def write_model_card(folder: Path, card: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write both forms into `folder`; returns (JSON, Markdown). Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    paths = folder / JSON_FILE, folder / MARKDOWN_FILE
    for path, text in zip(paths, (raw, render_markdown(card)), strict=True):
        write_atomically(path, text.encode())
    return paths


def read_evaluation(path: Path) -> tuple[Measure, ...]:
    """A list of measures from a JSON file: name, value, data, and low and high if there is an interval. Raises ConfigError."""
    try:
        if path.stat().st_size > 1024 * 1024:
            raise ValueError("larger than 1 MiB")
        found = tuple(Measure(**item) for item in json.loads(path.read_text(encoding="utf-8")))
        for measure in found:
            numbers = [value for value in (measure.value, measure.low, measure.high) if value is not None]
            if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers):
                raise ValueError(f"{str(measure.name)[:60]!r} has a value that is no number")
            if not isinstance(measure.name, str) or not isinstance(measure.data, str) or measure.value is None:
                raise ValueError("each measure has a name, a value and what it was measured on")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a list of measures: {str(error)[:200]}") from error
    return found


def card_of_fleet(fleet: Fleet, evaluation: Sequence[Measure] = ()) -> dict[str, Any]:
    """The card of what a fleet's folder has published, from its ledger and its artefacts. Raises what these raise.

    `evaluation`: what the team measured; the folder knows none of it.
    """
    from aggregator.publish import published_manifest
    from privacy.reports import build_report

    domain = fleet.domain()
    state = fleet.state(read_only=True)
    try:
        lines, fairness = state.lines(), state.artifact(ARTIFACT)
    finally:
        state.close()
    manifest = published_manifest(fleet.bundle)
    report = build_report(lines, fleet.officer_public_key) if lines else None
    seeds = sum(len(spec.seeds) for spec in domain.intents)
    sources = [
        TrainedOn("seed phrases", f"{seeds} authored phrases for {len(domain.intents)} intents of the domain", False),
        TrainedOn("encoder", "all-MiniLM-L6-v2, pretrained on public text, frozen", False),
    ]
    sources += [
        TrainedOn(item["contribution"], f"{item['released']} released rounds, purpose {item['purpose']}", True)
        for item in (_privacy(report)["contributions"] if report else ())
        if item["released"]
    ]
    files = {}
    if manifest is not None:
        files = {
            "head": manifest.head_sha256,
            "encoder": manifest.encoder_sha256,
            "tokenizer": manifest.tokenizer_sha256,
        }
    try:
        groups = None if fairness is None else fairness_document(fairness)
    except WireError as error:
        raise ConfigError(f"{fleet.directory}: {ARTIFACT}: {error}") from error
    return model_card(
        name=fleet.name,
        version=fleet.published_version(),
        domain=domain.title,
        languages=[domain.language],
        intended_use=INTENDED_USE,
        not_for=NOT_FOR,
        trained_on=sources,
        artifacts=files,
        report=report,
        evaluation=evaluation,
        fairness=groups,
        limits=LIMITS,
    )


INTENDED_USE = (
    "Understanding short texts to an in-app assistant of this domain, and ranking suggestions, on the user's own device.",
    "Suggestions that come with the reasons by which they were ranked, and that the user can refuse, correct and switch off.",
)
NOT_FOR = (
    "Decisions about people: credit, insurance, employment, housing, prices by person.",
    "Inferring health, sex life, religion, politics, ethnicity, union membership, financial distress and the other categories of "
    "sensitive.yaml: features of that kind are refused.",
    "Emergencies: the assistant names the emergency number and nothing else.",
)
LIMITS = (
    "Rates of groups are of users who allowed the quality check; whoever did not is not in them.",
    "A group's rate says how often its users did not object, not how often the assistant was right.",
    "Groups that are too small are suppressed; a gap that was not found may be there.",
    "Names of features are checked against lists in English, German and Spanish; a harmless name may hide a proxy.",
)


def _privacy(report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a privacy report that a card shows."""
    total = report["total"]
    by_contribution: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in report["rounds"]:
        by_contribution.setdefault((item["contribution"], item["purpose"]), []).append(item)
    contributions = []
    for (contribution, purpose), rounds in sorted(by_contribution.items()):
        survivors = [
            item["survivors"] for item in rounds if item["outcome"] == "released" and item["survivors"] is not None
        ]
        contributions.append(
            {
                "contribution": contribution,
                "purpose": purpose,
                "rounds": len(rounds),
                "released": len(survivors),
                "least_survivors": min(survivors, default=None),
                "most_survivors": max(survivors, default=None),
                "modes": sorted({item["mode"] for item in rounds}),
                "least_noise_multiplier": min(item["noise_multiplier"] for item in rounds),
            }
        )
    return {
        "epsilon": total["epsilon"],
        "delta": total["delta"],
        "rho": total["rho"],
        "participations": total["participations"],
        "epsilon_limit": report["policy"]["epsilon_total"],
        "period_days": report["policy"]["period_days"],
        "purposes": {item["purpose"]: item["epsilon"] for item in report["purposes"]},
        "contributions": contributions,
        "ledger_head": report["ledger"]["head"],
        "meaning": epsilon_in_words(total["epsilon"], total["delta"]),
        "statements": list(report["statements"]),
    }


def _privacy_lines(privacy: Mapping[str, Any] | None) -> list[str]:
    if privacy is None:
        return ["Nothing of any user is in this model: no round was ever run."]
    lines = [
        f"User-level differential privacy, recomputable from the ledger (head `{_plain(privacy['ledger_head'])}`): "
        f"**ε = {privacy['epsilon']:.3f}** at δ = {privacy['delta']:.1e}, for a device that took part as often as it may "
        f"({privacy['participations']} times in {privacy['period_days']} days). "
        f"Limit of the policy: ε = {privacy['epsilon_limit']:.3f}.",
        "",
        _plain(privacy["meaning"]),
        "",
    ]
    if privacy["contributions"]:
        lines += [
            "| contribution | purpose | rounds | released | devices | mode | noise multiplier |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {_plain(item['contribution'])} | {_plain(item['purpose'])} | {item['rounds']} | {item['released']} | "
            f"{_range(item['least_survivors'], item['most_survivors'])} | {', '.join(item['modes'])} | "
            f"{item['least_noise_multiplier']:.2f} |"
            for item in privacy["contributions"]
        ]
        lines.append("")
    return [*lines, *_items(privacy["statements"])]


def _fairness_lines(fairness: Mapping[str, Any] | None) -> list[str]:
    if fairness is None:
        return [f"{NOT_MEASURED.capitalize()}: no round of `{FAIRNESS}` was released."]
    lines = [
        _plain(fairness["words"]),
        "",
        f"Mean over users of each user's own share, of {fairness['users']} devices; 95% intervals hold the noise of the release. "
        "“–”: too few users to say.",
        "",
        f"| group | {' | '.join(OUTCOMES)} |",
        f"|---|{'---|' * len(OUTCOMES)}",
    ]
    for (name, bucket), rates in rates_by_group(fairness).items():
        cells = [_rate_cell(rates.get(outcome)) for outcome in OUTCOMES]
        lines.append(f"| {_plain(name)}: {_plain(bucket)} | {' | '.join(cells)} |")
    gaps = [gap for gap in fairness["gaps"] if gap["sure"]]
    if gaps:
        lines += ["", "Gaps that are more than chance and noise (Bonferroni over all pairs):", ""]
        lines += _items(
            f"{gap['slice']}: {gap['outcome']} for {gap['higher']} against {gap['lower']}: {100 * gap['value']:.1f} points "
            f"({100 * gap['low']:.1f} to {100 * gap['high']:.1f})"
            for gap in gaps
        )
    return lines


def _rate_cell(rate: Mapping[str, Any] | None) -> str:
    if rate is None or rate["value"] is None:
        return "–"
    return f"{100 * rate['value']:.0f}% ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"


def _interval(measure: Mapping[str, Any]) -> str:
    return (
        "–" if measure["low"] is None or measure["high"] is None else f"{measure['low']:.4g} to {measure['high']:.4g}"
    )


def _range(least: int | None, most: int | None) -> str:
    return "–" if least is None else str(least) if least == most else f"{least} to {most}"


def _items(texts: Any) -> list[str]:
    return [f"- {_plain(text)}" for text in texts]


def _plain(text: object) -> str:
    # One line, and nothing that Markdown or a browser would take for markup.
    flat = " ".join(str(text).split())
    for sign, safe in (
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("`", "'"),
        ("[", "\\["),
        ("]", "\\]"),
    ):
        flat = flat.replace(sign, safe)
    return flat
