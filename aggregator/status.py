"""What `tacit-fleet status` shows: counts only, never which device; every ε from the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aggregator.control import control_of
from aggregator.fleet import Fleet
from privacy.accounting import epsilon_from_rho
from privacy.reports import build_report
from shared_models.errors import FleetError, PolicyError
from shared_models.wire import SCALE, noise_variance_for


def status_document(fleet: Fleet) -> dict[str, Any]:
    """As plain JSON."""
    document: dict[str, Any] = {"fleet": fleet.name, "published": fleet.published_version()}
    try:
        with control_of(fleet.directory) as control:
            counts = control.nodes()
            document["devices"] = {"enrolled": counts.enrolled, "online": counts.online}
            document["running"] = sum(not run.finished for run in control.runs())
    except FleetError:
        document["devices"] = None
    state = fleet.state(read_only=True)
    try:
        checkpoint = state.checkpoint()
        document["rounds"] = {
            "done": checkpoint.rounds_done if checkpoint else 0,
            "planned": checkpoint.rounds_planned if checkpoint else 0,
        }
        notes = state.notes()
        document["last_abort"] = notes.get("last_abort")
        document["last_error"] = notes.get("last_error")
        document["artifacts"] = [
            {"name": name, "study": entry.body["study"], "rounds": entry.body["rounds"], "time_s": entry.time_s}
            for entry in state.entries()
            if entry.kind == "artifact"
            for name in entry.body["artifacts"]
        ]
        document["interrupted"] = (notes.get("study") or {}).get("contribute")
        lines = state.lines()
    finally:
        state.close()
    try:
        policy = fleet.policy()
    except PolicyError as error:
        return {**document, "policy": None, "policy_error": str(error)}
    document["policy"] = {"sequence": policy.sequence, "expires_s": policy.expires_s, "halted": policy.halted}
    report = build_report(lines, fleet.officer_public_key) if lines else None
    document["next_round"] = {}
    for name, limits in policy.purposes.items():
        for contribution, allowed in limits.contributions.items():
            one = SCALE * SCALE / (2.0 * noise_variance_for(allowed.noise_multiplier))
            spent = next((item for item in report["purposes"] if item["purpose"] == name), None) if report else None
            rho = spent["rho"] if spent else 0.0
            mine = (spent or {}).get("contributions", {}).get(contribution, {})
            document["next_round"][contribution] = {
                "purpose": name,
                "rho": one,
                "epsilon_spent": epsilon_from_rho(rho, policy.delta),
                "epsilon_after": epsilon_from_rho(rho + one, policy.delta),
                "epsilon_limit": epsilon_from_rho(limits.rho, policy.delta),
                "rounds_left": mine.get("rounds_left"),
                "min_survivors": allowed.min_survivors,
            }
    return document


def status_lines(document: dict[str, Any]) -> list[str]:
    """For people."""
    devices = document["devices"]
    rounds = document["rounds"]
    lines = [
        f"Fleet {document['fleet']}: release {document['published']}, {rounds['done']} rounds done"
        + (f", {rounds['planned'] - rounds['done']} to go" if rounds["planned"] > rounds["done"] else ""),
        "Not being served (tacit-fleet serve)."
        if devices is None
        else f"Devices: {devices['online']} online of {devices['enrolled']} enrolled.",
    ]
    if document["policy"] is None:
        return [*lines, document["policy_error"]]
    expires = datetime.fromtimestamp(document["policy"]["expires_s"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines.append(f"Policy {document['policy']['sequence']} until {expires}.")
    if document["policy"]["halted"]:
        lines.append("HALTED by the privacy officer: no rounds.")
    for name, cost in document["next_round"].items():
        left = cost["rounds_left"]
        lines.append(
            f"Next round of {name}: ε {cost['epsilon_spent']:.3f} → {cost['epsilon_after']:.3f} of "
            f"{cost['epsilon_limit']:.3f}; at least {cost['min_survivors']} devices must answer"
            + ("" if left is None else f"; {left} more rounds are affordable")
            + "."
        )
    latest = {item["name"]: item for item in document["artifacts"]}
    for item in latest.values():
        when = datetime.fromtimestamp(item["time_s"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        rounds = " and ".join(map(str, item["rounds"]))
        lines.append(f"Made of {item['study']}, {when}: {item['name']} (round {rounds}).")
    if document["interrupted"]:
        lines.append(f"Interrupted: {document['interrupted']}; `tacit-fleet resume` goes on.")
    if document["last_abort"]:
        when = datetime.fromtimestamp(document["last_abort"]["time_s"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(f"Last abort, {when}: {document['last_abort']['reason']}")
    return lines
