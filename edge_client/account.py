"""What a client tells about its user beside the profile, as plain JSON: what was learned, what left and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared_models.errors import PolicyError, TacitError
from shared_models.purposes import INTENT_MODEL

if TYPE_CHECKING:
    from edge_client.client import EdgeClient
    from edge_client.know.examples import Examples
    from edge_client.know.own_intents import OwnIntents


def learned_document(examples: Examples, own: OwnIntents) -> dict[str, Any]:
    """The user's own words that are kept: examples and intents of the user's own."""
    return {
        "examples": [dict(example.__dict__) for example in examples.all()],
        "examples_by_intent": examples.counts(),
        "own_intents": own.phrases(),
    }


def shared_document(client: EdgeClient) -> dict[str, Any]:
    """All that ever left this device, and what it cost: receipts, rho and epsilon of the current period.

    Figures that no policy gives are None. `problem`: why the policy in the bundle cannot be used, if so.
    """
    from edge_client.share.device import open_gate
    from privacy.accounting import epsilon_from_rho

    document: dict[str, Any] = {
        "receipts": [],
        "rho_spent": None,
        "rho_limit": None,
        "epsilon_spent": None,
        "epsilon_limit": None,
        "delta": None,
        "policy_sequence": None,
        "problem": None,
    }
    try:
        gate = open_gate(client)
        document["receipts"] = gate.receipts()
        budget = gate.budget(INTENT_MODEL.name)
    except TacitError as error:
        # What left is told without a policy, and without a bundle, too.
        document["receipts"] = document["receipts"] or kept_receipts(client)
        document["problem"] = str(error) if isinstance(error, PolicyError) else None
        return document
    policy = gate.policy
    assert policy is not None
    return document | {
        "rho_spent": budget.rho_spent,
        "rho_limit": budget.rho_limit,
        "epsilon_spent": epsilon_from_rho(budget.rho_spent, policy.delta),
        "epsilon_limit": epsilon_from_rho(budget.rho_limit, policy.delta),
        "delta": policy.delta,
        "policy_sequence": policy.sequence,
    }


def kept_receipts(client: EdgeClient) -> list[dict[str, Any]]:
    """The gate's receipts as they lie in the store."""
    from edge_client.share.device import GATE_TABLE

    return client.store.table(GATE_TABLE).entries("receipt/")
