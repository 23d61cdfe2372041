"""What a client tells about its user beside the profile, as plain JSON: what was learned, what left and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared_models.errors import PolicyError, TacitError

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


def inspected(client: EdgeClient, examples: Examples, own: OwnIntents) -> dict[str, Any]:
    """All that is known about the user, and all that is kept here."""
    return {
        **client.status(),
        **learned_document(examples, own),
        "profile": client.profile.document(),
        "consent_receipts": [receipt.document() for receipt in client.consent.receipts()],
        "consents": client.consent.document(),
    }


def more_to_export(client: EdgeClient, examples: Examples, own: OwnIntents, taste: dict[str, Any]) -> dict[str, Any]:
    """What an export holds beside what the rooms of knowledge keep."""
    return {
        **learned_document(examples, own),
        "taste": taste,
        "improvement": client.improvement.document(),
        "shared": shared_document(client),
        "connectors": client.intake.document(),
        "delivery": client.delivery.document(),
        "language_model": language_model_document(client),
    }


def language_model_document(client: EdgeClient) -> dict[str, Any] | None:
    """The language model that the app has reword answers: where it is, and what it may be told. None if there is none."""
    from shared_models.purposes import REMOTE_LANGUAGE_MODEL

    config = client.config
    if config.local_model is None:
        return None
    here, consent = config.local_model.stays_here, client.consent.is_granted(REMOTE_LANGUAGE_MODEL.name)
    return {
        "description": config.local_model.description(),
        "stays_here": here,
        "may_see": list(config.model_may_see),
        "in_use": here or consent,
    }


def shared_document(client: EdgeClient) -> dict[str, Any]:
    """All that ever left this device, and what it cost: receipts, rho and epsilon of the current period, over all purposes.

    Figures that no policy gives are None; `purposes` has the same for each purpose of the policy.
    `problem`: why the policy in the bundle cannot be used, if so.
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
        "purposes": {},
        "problem": None,
    }
    try:
        gate = open_gate(client)
        document["receipts"] = gate.receipts()
        policy = gate.policy
        if policy is None or not policy.purposes:
            raise PolicyError("no policy is in force, so nothing can leave this device")
        budgets = {name: gate.budget(name) for name in policy.purposes}
    except TacitError as error:
        # What left is told without a policy, and without a bundle, too.
        document["receipts"] = document["receipts"] or kept_receipts(client)
        document["problem"] = str(error) if isinstance(error, PolicyError) else None
        return document
    total = next(iter(budgets.values()))
    return document | {
        "rho_spent": total.rho_spent_total,
        "rho_limit": total.rho_limit_total,
        "epsilon_spent": epsilon_from_rho(total.rho_spent_total, policy.delta),
        "epsilon_limit": epsilon_from_rho(total.rho_limit_total, policy.delta),
        "purposes": {
            name: {
                "rho_spent": budget.rho_spent,
                "rho_limit": budget.rho_limit,
                "participations": budget.participations,
                "participations_limit": budget.participations_limit,
            }
            for name, budget in budgets.items()
        },
        "delta": policy.delta,
        "policy_sequence": policy.sequence,
    }


def kept_receipts(client: EdgeClient) -> list[dict[str, Any]]:
    """The gate's receipts as they lie in the store."""
    from edge_client.share.device import GATE_TABLE

    return client.store.table(GATE_TABLE).entries("receipt/")
