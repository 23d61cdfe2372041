"""From what users like to what everybody's device suggests: secure sums over the travel fleet, published, fetched and used."""

from __future__ import annotations

import time
from pathlib import Path

import nacl.signing
import numpy as np
import pytest

from aggregator.fleet import Fleet
from aggregator.fleet_studies import STUDIES, catalogue_of, study_of
from aggregator.grid import InProcessGrid
from aggregator.rounds import RoundSettings
from aggregator.simulate import light_port
from edge_client import EdgeClient
from edge_client.share.agent.client_app import make_client_app
from edge_client.share.device import ClientPort
from edge_client.share.kept_sources import KeptTaste
from edge_client.share.port import DevicePort
from edge_client.share.sources import Sources
from privacy.cli import sign_for_fleet
from privacy.enrolment import issue_certificate
from privacy.policy_text import PolicyDraft, draft_policy
from privacy.reports import verify_ledger
from privacy.table_sampler import sample_from_table
from shared_models.domain import TRAVEL

OFFICER = nacl.signing.SigningKey(bytes(range(32)))
AUTHORITY = nacl.signing.SigningKey(bytes(range(2, 34)))
LIGHT = 6
SHARES = {"preference-model": 0.4, "suggestion-model": 0.3, "quality-check": 0.3}


class NoExamples:
    encoder_hash = "ab" * 32

    def examples(self) -> tuple[object, tuple[str, ...]]:
        raise AssertionError("no round here asks for examples")


class NothingWatched:
    def drifted(self) -> tuple[tuple[str, ...], int]:
        return (), 30


class Neighbour(KeptTaste):
    """A light device of somebody who likes the same two places as everybody."""

    def __init__(self, fleet: Fleet, liked: tuple[str, ...]) -> None:
        catalogue = catalogue_of(fleet)
        super().__init__(lambda: catalogue, lambda: None, tuple, tuple)
        self._liked = liked
        state = fleet.state(read_only=True)
        self.slices = study_of(fleet, state, "fairness_slices").groups.slices  # type: ignore[attr-defined]
        state.close()

    def counts(self) -> dict[str, dict[str, list[int]]]:
        return {}

    def liked_items(self) -> tuple[str, ...]:
        return self._liked


@pytest.mark.deep
def test_an_item_space_and_a_prior_that_rounds_made_are_published_and_used_by_a_device(tmp_path: Path) -> None:
    officer = bytes(OFFICER.verify_key)
    fleet = Fleet.create(tmp_path / "fleet", name="travel", domain=TRAVEL, officer_public_key=officer)
    wish = PolicyDraft("travel", fleet.aggregator_public_key, 900.0, 1, 1000, LIGHT, shares=SHARES)
    wish = PolicyDraft(**{**wish.__dict__, "enrolment_key": bytes(AUTHORITY.verify_key), "health_dimension": 200})
    envelope, role = sign_for_fleet(draft_policy(wish), OFFICER)
    fleet.adopt_policy(envelope.to_bytes(), role)

    def certify(key: bytes):  # type: ignore[no-untyped-def]
        return issue_certificate(AUTHORITY, "travel", key, int(time.time()) - 10, int(time.time()) + 86_400)

    with EdgeClient.open(tmp_path / "device", key=bytes(32), bundle=fleet.bundle) as client:
        for purpose in ("personalisation", *SHARES):
            client.consent.grant(purpose)
        reply = client.respond("somewhere warm by the sea in May for two people")
        assert reply.suggestions, "the catalogue is in the bundle"
        chosen = reply.suggestions[0]
        assert client.react(chosen.decision_id, "chosen").kept
        port = ClientPort(client, noise=sample_from_table)
        port.gate.install_certificate(certify(port.gate.identity_key()))
        other = next(item for item in catalogue_of(fleet).rows if item != chosen.id)
        ports: list[DevicePort] = [port]
        for _ in range(LIGHT):
            taste = Neighbour(fleet, (chosen.id, other))
            sources = Sources(NoExamples(), taste, taste, taste, NothingWatched(), taste)  # type: ignore[arg-type]
            ports.append(light_port(sources, fleet.policy_envelope(), officer, time.time, certify))
        app = make_client_app(lambda context: ports[int(context.node_config["partition-id"])])
        state = fleet.state()
        try:
            runner, grid = fleet.runner(state), InProcessGrid(app, len(ports))
            settings = RoundSettings(rounds=0, deadline_s=120)
            answered = {}
            for name in STUDIES:
                survivors: list[int] = []
                judge = "candidate" if name == "policy_value_sums" else "prior"
                study = study_of(fleet, state, name, judge)
                runner.run_study(grid, settings, study, lambda outcome, seen=survivors: seen.append(outcome.survivors))
                answered[name] = survivors
            assert answered == {name: [LIGHT + 1] * (2 if name == "bandit_moments" else 1) for name in STUDIES}
            made = {"items.json", "items.onnx", "bandit-prior.json", "policy-value.json", "drift.json", "fairness.json"}
            assert set(state.artifacts()) == made
            verify_ledger(state.lines(), officer)
        finally:
            state.close()
        receipts = port.gate.receipts()
        assert {item["body"]["contribution"]: item["body"]["note"] for item in receipts} == dict.fromkeys(STUDIES, "")
        fleet.publish()
        client.refresh()
        bundle = client._bundle
        assert bundle is not None
        space, prior = client._held.item_space(bundle), client._held.bandit_prior(bundle)
        assert space is not None
        assert prior is not None
        assert set(space.items) == set(catalogue_of(fleet).rows)
    with EdgeClient.open(tmp_path / "newcomer", key=bytes(32), bundle=fleet.bundle) as newcomer:
        assert newcomer.respond("a city trip in June").suggestions
        fetched = newcomer._held.item_space(newcomer._bundle)  # type: ignore[arg-type]
        assert fetched is not None
        _, rows = fetched.top(np.zeros(fetched.head, np.float32), np.zeros(fetched.rank, np.float32), 2)
        assert {fetched.items[row] for row in rows} == {chosen.id, other}, "what everybody likes comes first"
