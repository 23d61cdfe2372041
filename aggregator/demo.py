"""`tacit-fleet demo`: the main job from end to end, on the real parts, with users that are simulated and say so.

Every ε on the screen is computed from the ledger that this run has just written.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from aggregator.checkpoint import FleetState
from aggregator.demo_words import Learned, fetched, print_summary, progress_bars, show_centre
from aggregator.evaluation import Comparison, Features, HeldOut, compare
from aggregator.fleet import Fleet, load_encoder
from aggregator.modelling import PublicPhrases
from aggregator.plots import plot_rounds
from aggregator.population import Population, population_from_domain, population_from_rows, read_utterances
from aggregator.releases.intent_head import NAME, PURPOSE, ServerOptimizer
from aggregator.rounds import RoundOutcome, RoundSettings
from aggregator.simulate import SimulatedFleet, newcomer, privacy_centre
from aggregator.worker_grid import WorkerGrid
from privacy.accounting import default_delta
from privacy.cli import sign_for_fleet, write_atomically
from privacy.enrolment import Certificate, EnrolmentRegister, issue_certificate
from privacy.keys import load_signing_key, new_key_pair
from privacy.policy_text import PolicyDraft, draft_policy
from privacy.report_page import render_html
from privacy.reports import build_report, spent_epsilon, verify_ledger
from shared_models.domain import TRAVEL, Utterance
from shared_models.encoder import build_encoder
from shared_models.errors import ConfigError, RoundError
from shared_models.intent_head import features
from shared_models.wire import SCALE

TARGET_EPSILON = 4.0
MIN_USERS = 20
COLLUDING_SHARE = 0.05
"""γ of the demo's policy."""
DROP_OUT = 0.05
"""Share of the devices that a round of the demo is built to lose."""
MAX_DELTA = 0.01
"""The largest δ that a policy may name."""


@dataclass(frozen=True)
class DemoOptions:
    """What the demo's flags set."""

    out: Path
    users: int = 2000
    rounds: int = 6
    complete: int = 100
    seed: int = 0
    extra_seeds: int = 2
    """Further populations and noises for the intervals."""
    data: Path | None = None
    domain: Path = TRAVEL

    def __post_init__(self) -> None:
        if not MIN_USERS <= self.users <= 200_000 or not 1 <= self.rounds <= 200:
            raise ConfigError(f"{self.users} users and {self.rounds} rounds: expected {MIN_USERS}..200000 and 1..200")
        if default_delta(self.users) > MAX_DELTA:
            raise ConfigError(f"with {self.users} users δ = N^-1.1 would be above {MAX_DELTA}: take at least 66 users")


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """Run it; 0 if everything held. Leaves fleet, ledger, report and plots in `options.out`."""
    console = console or Console(highlight=False)
    started_s = time.monotonic()
    if options.out.exists():
        if not (options.out / "fleet").is_dir():
            raise ConfigError(f"{options.out}: exists and was not made by the demo; choose another folder with --out")
        shutil.rmtree(options.out)
    with progress_bars(console) as bars, tempfile.TemporaryDirectory(prefix="tacit-demo-") as devices:
        fleet, phrases = _found(options, bars, console)
        population, texts = _people(options, phrases, bars, console)
        learned, fleet_devices = _learn(options, fleet, phrases, population, texts, Path(devices), bars, console)
        comparisons = _compare(options, fleet, phrases, texts, population, bars)
        version = _publish(fleet, options, learned, bars, console)
        proved = _prove(fleet, fleet_devices)
        fleet_devices.close()
        _converse(fleet, phrases, population, texts, Path(devices) / "newcomer", options.out, learned, console)
    print_summary(options, fleet, learned, comparisons, proved, version, time.monotonic() - started_s, console)
    return 0


def _found(options: DemoOptions, bars: Progress, console: Console) -> tuple[Fleet, PublicPhrases]:
    """Officer, fleet, encoder, bootstrap bundle, signed policy."""
    step = bars.add_task("Encoder, bootstrap model, keys, first bundle", total=1.0)
    _, officer_public = new_key_pair(options.out / "officer", "officer")
    officer = load_signing_key(options.out / "officer" / "officer.key")
    shutil.copy(officer_public, options.out / "officer.pub")
    fleet = Fleet.create(
        options.out / "fleet",
        name="demo",
        domain=options.domain,
        officer_public_key=bytes(officer.verify_key),
        progress=lambda _, share: bars.update(step, completed=share * 0.8),
    )
    authority = EnrolmentRegister.create(options.out / "enrolment")
    text = draft_policy(
        PolicyDraft(
            "demo",
            fleet.aggregator_public_key,
            TARGET_EPSILON,
            options.rounds,
            options.users,
            options.users - int(DROP_OUT * options.users),
            colluding_share=COLLUDING_SHARE,
            enrolment_key=authority.public_key,
        )
    )
    write_atomically(options.out / "officer" / "policy.yaml", text.encode())
    envelope, role = sign_for_fleet(text, officer)
    policy = fleet.adopt_policy(envelope.to_bytes(), role)
    phrases = fleet.phrases()
    bars.update(step, completed=1.0)
    console.print(
        f"  Policy signed by the officer: {options.rounds} contributions of one device cost at most "
        f"ε {policy.epsilon_total:.2f} at δ {policy.delta:.2g}, if at most {COLLUDING_SHARE:.0%} of the devices collude with "
        "the aggregator. Mode distributed: secure sums, the noise is added by the devices. No local noise."
    )
    return fleet, phrases


def _people(
    options: DemoOptions, phrases: PublicPhrases, bars: Progress, console: Console
) -> tuple[Population, Features]:
    if options.data is None:
        population = population_from_domain(phrases.domain, options.users, options.seed)
    else:
        rows = read_utterances(options.data, phrases.domain.labels)
        population = population_from_rows(rows, options.users, options.seed)
    if len(population.users) < options.users - int(DROP_OUT * options.users):
        raise ConfigError(
            f"the data has {len(population.users)} users, the policy for {options.users} asks for {1 - DROP_OUT:.0%} of them"
        )
    console.print(f"  {population.description}.")
    said = [item for user in population.users for item in user]
    return population, _embed(phrases, [*said, *population.held_out], bars, "Wording embedded on devices")


def _embed(phrases: PublicPhrases, utterances: list[Utterance], bars: Progress, title: str) -> Features:
    texts = sorted({item.text for item in utterances}, key=len)
    encoder = load_encoder(build_encoder())
    step = bars.add_task(title, total=len(texts))
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(texts), 64):
        chunk = texts[start : start + 64]
        found.update(zip(chunk, features(encoder.encode(chunk), phrases.center), strict=True))
        bars.advance(step, len(chunk))
    return found


def _learn(
    options: DemoOptions,
    fleet: Fleet,
    phrases: PublicPhrases,
    population: Population,
    texts: Features,
    folder: Path,
    bars: Progress,
    console: Console,
) -> tuple[Learned, SimulatedFleet]:
    policy, envelope = fleet.policy(), fleet.policy_envelope()
    authority = load_signing_key(options.out / "enrolment" / "enrolment.key")
    now_s = int(time.time())

    def certify(identity_key: bytes) -> Certificate:
        return issue_certificate(authority, fleet.name, identity_key, now_s, now_s + 86_400 * policy.period_days)

    devices = SimulatedFleet(
        population, texts, phrases.encoder_sha256, envelope, fleet.officer_public_key, time.time, certify
    )
    complete = min(options.complete, len(population.users))
    step = bars.add_task("Complete devices: encrypted store, consent, feedback", total=complete)
    devices.open_complete(folder, fleet.bundle, complete, lambda _: bars.advance(step))
    held_out = HeldOut.of(population.held_out, phrases.domain.labels, texts)
    state = fleet.state()
    learned = Learned([held_out.accuracy(phrases.seed_weights())])
    console.print(
        f"  Before: {learned.accuracies[0]:.1%} on {len(held_out.targets)} held-out utterances (seed phrases alone)."
    )
    step = bars.add_task("Federated rounds", total=options.rounds)

    def on_round(outcome: RoundOutcome) -> None:
        learned.accuracies.append(held_out.accuracy(outcome.checkpoint.weights))
        spent = _spent(state, fleet)
        learned.epsilons.append(spent)
        learned.bytes_up += outcome.bytes_up
        console.print(
            f"  round {outcome.round_id}: accuracy {learned.accuracies[-1]:.1%}, ε spent {spent:.2f} of "
            f"{policy.epsilon_total:.2f}, {outcome.survivors} of {outcome.invited} devices, "
            f"{outcome.bytes_up / max(1, outcome.survivors) / 1024:.0f} KiB up each, {outcome.seconds:.1f} s"
        )
        bars.advance(step)

    grid = devices.grid(workers=max(0, (os.cpu_count() or 1) - 1))
    try:
        settings = RoundSettings(rounds=options.rounds, drop_out=DROP_OUT)
        last = fleet.runner(state).run(grid, settings, on_round)
    finally:
        if isinstance(grid, WorkerGrid):
            grid.close()
        state.export_ledger(options.out / "ledger.jsonl")
        state.close()
    # What is released is the average of the last models, not the last one.
    learned.accuracies[-1] = held_out.accuracy(last.released_weights())
    before, after = (held_out.right(weights) for weights in (phrases.seed_weights(), last.released_weights()))
    learned.mended, learned.broken = int((after & ~before).sum()), int((before & ~after).sum())
    return learned, devices


def _spent(state: FleetState, fleet: Fleet) -> float:
    return spent_epsilon(state.lines(), fleet.officer_public_key)


def _compare(
    options: DemoOptions, fleet: Fleet, phrases: PublicPhrases, texts: Features, population: Population, bars: Progress
) -> list[Comparison]:
    """The same fleet and `extra_seeds` others, by the replica."""
    limits = fleet.policy().purposes[PURPOSE].contributions[NAME]
    # All devices answered, so the sums hold more noise than the policy asks for: the other seeds get as much.
    limits = replace(limits, noise_multiplier=_noise_in_releases(fleet))
    step = bars.add_task("Other ways to learn, for comparison", total=1 + options.extra_seeds)
    found = []
    for number in range(1 + options.extra_seeds):
        if number and options.data is None:
            population = population_from_domain(phrases.domain, options.users, options.seed + number)
            missing = [
                item for user in (*population.users, population.held_out) for item in user if item.text not in texts
            ]
            if missing:
                texts = {**texts, **_embed(phrases, missing, bars, f"Wording of population {number + 1}")}
        found.append(compare(phrases, population, texts, limits, options.rounds, ServerOptimizer()))
        bars.advance(step)
    return found


def _noise_in_releases(fleet: Fleet) -> float:
    """σ/Δ of the noise that this fleet's devices have put into a release, by the ledger: the least of all rounds."""
    state = fleet.state(read_only=True)
    try:
        rounds = verify_ledger(state.lines(), fleet.officer_public_key).rounds
    finally:
        state.close()
    variances = [
        item.survivors * item.plan.share_variance for item in rounds if item.survivors and item.outcome == "released"
    ]
    return math.sqrt(min(variances)) / SCALE


def _publish(fleet: Fleet, options: DemoOptions, learned: Learned, bars: Progress, console: Console) -> int:
    """Publishes the release; leaves report and plots; keeps in `learned` what is left if more devices collude."""
    step = bars.add_task("Report, plots, signed release", total=3)
    version = fleet.publish()
    bars.advance(step)
    state = fleet.state(read_only=True)
    try:
        state.export_ledger(options.out / "ledger.jsonl")
        report = build_report(state.lines(), fleet.officer_public_key)
    finally:
        state.close()
    write_atomically(options.out / "report.html", render_html(report).encode())
    learned.if_more_collude = report["total"]["epsilon_if_more_collude"] or {}
    bars.advance(step)
    plot_rounds(options.out, learned.accuracies, learned.epsilons, fleet.policy().epsilon_total)
    bars.advance(step)
    console.print(f"  Release {version} published: only the head and its manifest are new, {fleet.bundle}")
    return version


def _prove(fleet: Fleet, devices: SimulatedFleet) -> int:
    """Every receipt on a complete device has a proof under a root of the ledger."""
    state = fleet.state(read_only=True)
    try:
        ledger = verify_ledger(state.lines(), fleet.officer_public_key)
        roots = {item.plan.round_id: item.contributions_root for item in ledger.rounds if item.outcome == "released"}
        proved = devices.receipts_proved(state.leaves, roots)
    finally:
        state.close()
    if proved != len(devices.complete) * len(roots):
        raise RoundError(
            f"{proved} receipts for {len(devices.complete)} devices and {len(roots)} rounds: not one to one"
        )
    return proved


def _converse(
    fleet: Fleet,
    phrases: PublicPhrases,
    population: Population,
    texts: Features,
    folder: Path,
    out: Path,
    learned: Learned,
    console: Console,
) -> None:
    """A newcomer verifies the release, talks, looks at what is known and what left, and erases everything."""
    seeds = phrases.seed_weights()
    labels = phrases.domain.labels
    console.print("\n[bold]A newcomer opens the app[/bold]")
    with newcomer(folder, fleet.bundle) as client:
        status = client.status()["bundle"]
        console.print(
            f"  bundle verified: release {status['version']} of fleet {status['fleet']}, {status['staleness']}"
        )
        total = len(population.held_out)
        console.print(
            f"  of {total} held-out utterances {learned.mended} were wrong and are right now, {learned.broken} the reverse; "
            "four of the first kind:"
        )
        shown, seen = 0, set()
        for utterance in population.held_out:
            before = labels[int(np.argmax(seeds @ texts[utterance.text]))]
            if before == utterance.intent or utterance.intent in seen or shown == 4:
                continue
            reply = client.respond(utterance.text)
            if reply.intent != utterance.intent or reply.action != "answer":
                continue
            seen.add(utterance.intent)
            shown += 1
            console.print(f"  [bold]you[/bold]     {utterance.text}", markup=True)
            console.print(f"  before  [dim]{before.replace('_', ' ')}[/dim]")
            console.print(f"  now     {reply.text}\n          [dim]because: {'; '.join(reply.reasons)}[/dim]")
        client.consent.grant("personal-learning")
        canary = "zanzibar canary phrase of the newcomer"
        client.feedback(canary, intent=labels[0])
        with privacy_centre(client) as link:
            (out / "privacy-centre.html").write_bytes(page := fetched(link()))
            if canary.encode() not in page:
                raise RoundError("the privacy centre does not show what the newcomer has just said")
            show_centre(link, console)
        receipts = client.device_port().gate.receipts()
        console.print(
            f"  what left this device: {len(receipts)} contributions (contributing is off until it is allowed)"
        )
        problems = client.forget()
    left = [path for path in folder.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    if left or problems:
        raise RoundError(f"erasure left something behind: {left or problems}")
    console.print("  erased: key first, then files; a search for what the newcomer typed finds nothing")


__all__ = ["DemoOptions", "run_demo"]
