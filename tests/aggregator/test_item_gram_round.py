"""A secure sum of item Grams through real gates, all six stages: the release is the sum of what devices computed, and noise."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import nacl.signing
import numpy as np
import yaml

from aggregator.releases.item_space import choose_head, read_gram, solve
from aggregator.replica import gate_integers
from aggregator.simulate import AlwaysConsenting, VolatileMemory
from edge_client.share.contributions import item_gram
from privacy.enrolment import issue_certificate
from privacy.gate import Gate
from privacy.policy import Policy, parse_policy, sign_policy
from privacy.policy_text import PolicyDraft, draft_policy
from privacy.secure_sum.server import ServerSession
from privacy.secure_sum.sizing import graph_size
from privacy.table_sampler import sample_from_table
from shared_models.canonical import Envelope, seal_envelope
from shared_models.preference import gram_dimension
from shared_models.wire import MODE_DISTRIBUTED, PLAN_KIND, RoundPlan, model_hash, noise_variance_for

NOW_S = 1_800_000_000
DEVICES, LEAST, COLLUDERS, HEALTH = 10, 8, 1, 200
NO_ENCODER = "0" * 64
HEAD = choose_head([f"item {number}" for number in range(20)])
OFFICER, AGGREGATOR, AUTHORITY = (nacl.signing.SigningKey(bytes([number]) * 32) for number in (1, 2, 3))


class Liked:
    def __init__(self, number: int) -> None:
        random = np.random.default_rng(number)
        # The first likes nothing, and answers all the same.
        self.items = [HEAD.items[place] for place in random.choice(20, min(number, 8), replace=False)]

    def liked_items(self) -> list[str]:
        return self.items


def policy() -> Envelope:
    draft = PolicyDraft(
        fleet="fleet",
        aggregator_key=bytes(AGGREGATOR.verify_key),
        epsilon=1.0,
        participations=1,
        population=10_000,
        min_survivors=LEAST,
        enrolment_key=bytes(AUTHORITY.verify_key),
        health_dimension=HEALTH,
    )
    document = yaml.safe_load(draft_policy(draft, now=datetime.fromtimestamp(NOW_S, UTC)))
    limits = document["purposes"].pop("intent-model")
    contribution = limits["contributions"].pop("intent_head") | {"local": None}
    limits["contributions"] = {item_gram.NAME: contribution}
    document["purposes"] = {item_gram.PURPOSE: limits}
    document |= {name: document[name].isoformat() for name in ("issued", "expires")}
    return sign_policy(yaml.safe_dump(document), OFFICER)


def plan_under(rules: Policy) -> RoundPlan:
    limits = rules.purposes[item_gram.PURPOSE].contributions[item_gram.NAME]
    size = graph_size(DEVICES, COLLUDERS, LEAST)
    return RoundPlan(
        task="fleet",
        round_id=1,
        purpose=item_gram.PURPOSE,
        contribution=item_gram.NAME,
        contribution_version=item_gram.VERSION,
        dimension=gram_dimension(20) + HEALTH,
        clip_norm=limits.clip_norm,
        noise_variance=noise_variance_for(limits.noise_multiplier),
        cohort=DEVICES,
        min_survivors=LEAST,
        colluders=COLLUDERS,
        degree=size.degree,
        threshold=size.threshold,
        health_dimension=HEALTH,
        mode=MODE_DISTRIBUTED,
        issued_s=NOW_S,
        deadline_s=NOW_S + 600,
        model_hash=model_hash(HEAD.items, HEAD.weights),
        encoder_hash=NO_ENCODER,
        policy_hash=rules.hash,
        policy_sequence=rules.sequence,
    )


def certified_gate(rules: Envelope) -> Gate:
    gate = Gate(
        officer_key=bytes(OFFICER.verify_key),
        consent=AlwaysConsenting(),
        memory=VolatileMemory(),
        clock=lambda: NOW_S,
        noise=sample_from_table,
    )
    gate.adopt_policy(rules)
    gate.install_certificate(issue_certificate(AUTHORITY, "fleet", gate.identity_key(), NOW_S - 1000, NOW_S + 100_000))
    return gate


def test_a_secure_sum_of_item_grams_is_what_the_devices_computed_and_noise() -> None:
    signed_rules = policy()
    plan = plan_under(parse_policy(signed_rules, bytes(OFFICER.verify_key)))
    signed = seal_envelope(PLAN_KIND, plan.to_bytes(), AGGREGATOR)
    gates = [certified_gate(signed_rules) for _ in range(DEVICES)]
    server = ServerSession(plan, bytes(AUTHORITY.verify_key), lambda: NOW_S)
    exact = np.zeros(plan.dimension)

    def stage(name: str, places: range, request, add) -> None:  # type: ignore[no-untyped-def]
        for place in places:
            add(place, gates[place].answer_stage("fleet", 1, name, request(place)).body)

    everybody, survivors = range(DEVICES), range(DEVICES - 1)
    for gate in gates:
        server.add_advert(gate.advertise(signed).body)
    server.close_roster()
    stage("draw", everybody, server.draw_request, server.add_draw)
    server.open_sharing()
    stage("share", everybody, server.share_request, server.add_shares)
    server.open_contributing()
    for place in survivors:
        source = Liked(place)

        def update(accepted: RoundPlan, source: Liked = source) -> np.ndarray:
            return item_gram.compute(accepted, source, HEAD.items, HEAD.weights)

        sealed = gates[place].seal(
            signed,
            update,
            model_hash=plan.model_hash,
            encoder_hash=NO_ENCODER,
            request=server.contribute_request(place),
        )
        server.add_contribution(place, sealed.values, sealed.proof)
        exact[:-HEALTH] += gate_integers(update(plan), plan.clip_norm)
        (receipt,) = gates[place].receipts()
        assert receipt["body"]["note"] == ""
    server.open_agreement()
    stage("agree", survivors, lambda _: server.agree_request(), server.add_signature)
    server.open_unmasking()
    stage("unmask", survivors, server.unmask_request, server.add_unmasking)
    release = server.release()

    assert release.survivors == DEVICES - 1
    expected = math.sqrt(release.survivors * plan.share_variance)
    # 410 draws: the deviation of their deviation is 3.5%.
    assert 0.8 < float(np.std(release.values - exact)) / expected < 1.2
    learned = type(release)(release.values[:-HEALTH], release.survivors, release.noise_variance, release.clip_norm)
    space = solve(read_gram(learned, HEAD))
    assert np.isfinite(space.scores(np.eye(20, dtype=np.float32))).all()
