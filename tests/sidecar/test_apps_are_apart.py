"""Apps are apart: what one of them decided, suggested or talks about is neither seen, nor acted on, nor pushed out by another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sidecar_calls import InProcess

from edge_client import EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.client import EdgeClient
from edge_client.conversation import MOST_CONVERSATIONS
from edge_client.giving_way import gives_way
from edge_client.know.store import Store
from edge_client.sidecar import completion_dialogues
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.completion_dialogues import Dialogues
from edge_client.sidecar.completion_request import CompletionRequest, Said
from edge_client.sidecar.tokens import Apps

WHERE = "Where should I go in December?"
GPC = {"Sec-GPC": "1"}


@pytest.fixture
def shared(travel: BundleStore, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Two apps that talk, and one that may only capture."""
    home = tmp_path / "home"
    with EdgeClient(Store(home, key=bytes(32)), travel, EdgeConfig(bundles=travel, random_seed=7)) as client:
        client.consent.grant("personalisation")
        client.consent.grant("personal-learning")
        apps = Apps(home)
        sidecar = Sidecar(client, apps)
        calls = {name: InProcess(sidecar, apps.register(name)) for name in ("diary", "shop")}
        pixel = InProcess(sidecar, apps.register("pixel", [], ("capture",)))
        yield SimpleNamespace(client=client, apps=apps, sidecar=sidecar, pixel=pixel, **calls)
        sidecar.close()


def suggested(call: InProcess) -> dict[str, Any]:
    answer = call("POST", "/v1/chat", json={"text": WHERE})
    assert answer.status_code == 200, answer.text
    card: dict[str, Any] = answer.json()["suggestions"][0]
    return card


def test_only_the_app_that_was_answered_reacts_and_asks_why(shared: SimpleNamespace) -> None:
    card = suggested(shared.diary)
    body = {"decision_id": card["decision_id"], "reaction": "up"}
    for stranger in (shared.shop, shared.pixel):
        refused = stranger("POST", "/v1/react", json=body)
        assert refused.status_code == 422, refused.text
        assert card["id"] not in refused.text
    assert shared.shop("GET", f"/v1/why/{card['decision_id']}").status_code == 422
    assert shared.diary("GET", f"/v1/why/{card['decision_id']}").json()["reasons"]
    assert shared.diary("POST", "/v1/react", json=body).json()["item"] == card["id"]


def test_what_is_only_in_the_log_any_more_stays_its_apps(shared: SimpleNamespace) -> None:
    card = suggested(shared.diary)
    shared.diary("DELETE", "/v1/conversations/main")
    body = {"decision_id": card["decision_id"], "reaction": "up"}
    assert shared.shop("POST", "/v1/react", json=body).status_code == 422
    assert shared.diary("POST", "/v1/react", json=body).json()["item"] == card["id"]
    assert shared.client.why(card["decision_id"]), "the app that embeds the client may ask about all"


def test_a_reaction_tells_who_may_only_capture_nothing_of_the_suggestion(shared: SimpleNamespace) -> None:
    card = suggested(shared.diary)
    diary = InProcess(shared.sidecar, shared.apps.register("diary", [], ("capture",)))
    answer = diary(
        "POST", "/v1/react", json={"decision_id": card["decision_id"], "reaction": "down", "because": "too expensive"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["verdict"] == "down"
    assert not {"item", "excludes"} & set(answer.json())


def test_ids_of_decisions_cannot_be_counted_through_and_keep_their_order(shared: SimpleNamespace) -> None:
    ids = [shared.client.decisions.record("offer", f"number {number}", ["so"]) for number in range(12)]
    assert [entry["id"] for entry in shared.client.decisions.recent(12)] == ids[::-1]
    assert ids == sorted(ids)
    endings = {one.partition("-")[2] for one in ids}
    assert len(endings) == 12
    assert all(len(ending) == 16 for ending in endings)


def test_conversations_of_others_are_not_named_to_apps(shared: SimpleNamespace) -> None:
    shared.diary("POST", "/v1/chat", json={"text": WHERE, "conversation": "divorce"})
    assert "divorce" not in shared.shop("GET", "/v1/decisions").text
    noted = shared.diary("POST", "/v1/decisions", json={"kind": "offer", "chosen": "late", "reasons": ["so"]}).json()
    assert shared.diary("GET", f"/v1/why/{noted['id']}").json()["reasons"] == ["so"]
    assert shared.shop("GET", f"/v1/why/{noted['id']}").status_code == 422


def test_an_app_sees_its_own_decisions_alone(shared: SimpleNamespace) -> None:
    suggested(shared.diary)
    offer = {"kind": "offer", "chosen": "late checkout", "reasons": ["so"]}
    shared.shop("POST", "/v1/decisions", json=offer)
    assert [one["chosen"] for one in shared.shop("GET", "/v1/decisions").json()["decisions"]] == ["late checkout"]
    of_the_diary = shared.diary("GET", "/v1/decisions?n=2").json()["decisions"]
    assert len(of_the_diary) == 2
    assert "late checkout" not in [one["chosen"] for one in of_the_diary]
    # The user sees all.
    assert len(shared.client.decisions.recent(500)) > len(
        shared.diary("GET", "/v1/decisions?n=500").json()["decisions"]
    )


def test_who_may_only_capture_learns_of_no_intent_of_the_users_own(shared: SimpleNamespace) -> None:
    shared.client.define_intent("oncology_visit", ["book my chemo", "when is my chemo"])
    for intent in ("a medical visit", "oncology_visit", "oncology"):
        refused = shared.pixel("POST", "/v1/feedback", json={"text": "hello there", "intent": intent})
        assert refused.status_code == 422, refused.text
        assert "oncology" not in refused.text.replace(f"'{intent}'", ""), refused.text
    kept = shared.diary("POST", "/v1/feedback", json={"text": "hello there", "intent": "oncology_visit"})
    assert kept.json()["kept"], kept.text
    assert "oncology" in shared.diary("GET", "/v1/models/tacit").text
    shared.client.rights.object_to_profiling()
    assert "oncology" not in shared.diary("GET", "/v1/models/tacit").text
    assert "oncology" not in shared.diary("GET", "/v1/intents").text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/chat", {"text": WHERE}),
        ("POST", "/v1/chat/completions", {"model": "tacit", "messages": [{"role": "user", "content": WHERE}]}),
        ("POST", "/v1/recognize", {"text": WHERE}),
        ("GET", "/v1/decisions", None),
    ],
)
def test_every_way_in_heeds_global_privacy_control(
    shared: SimpleNamespace, method: str, path: str, body: dict[str, Any] | None
) -> None:
    given = {} if body is None else {"json": body}
    assert shared.shop(method, path, headers=GPC, token="tacit_wrong", **given).status_code == 401
    assert not shared.client.consent.objects_to_profiling, "somebody without a token spoke for the user"
    assert shared.shop(method, path, headers=GPC, **given).status_code == 200
    assert shared.client.consent.objects_to_profiling
    assert len(shared.client.decisions) == 0


def test_one_app_pushes_out_no_conversation_of_another(shared: SimpleNamespace) -> None:
    shared.client.respond(WHERE, conversation="diary/main")
    for number in range(MOST_CONVERSATIONS + 10):
        shared.client.new_conversation(f"shop/{number}")
    names = list(shared.client._talk._conversations._threads)
    assert len(names) == MOST_CONVERSATIONS
    assert names[0] == "diary/main"
    assert names[1] == "shop/11"


def test_one_app_pushes_out_no_dialogue_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion_dialogues, "MOST_DIALOGUES", 4)
    monkeypatch.setattr(completion_dialogues, "MOST_SEEN", 4)
    forgotten: list[str] = []
    dialogues = Dialogues(forgotten.append)

    def ask(app: str, *texts: str) -> Any:
        roles = ("user", "assistant")
        said = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
        request = CompletionRequest.read({"model": "tacit", "messages": said})
        begun = dialogues.begin(app, request)
        dialogues.end(begun.dialogue, request, Said("assistant", "yes"), None)  # type: ignore[arg-type]
        return begun

    first = ask("diary", "one")
    ask("diary", "one", "yes", "two")
    for number in range(20):
        ask("shop", f"chat {number}")
    assert all(name.startswith("shop/") for name in forgotten)
    again = ask("diary", "one", "yes", "two", "yes", "three")
    assert again.dialogue is first.dialogue
    assert not ask("diary", "one", "yes", "two").learns, "a turn tried again would be learned from twice"


def test_who_holds_most_gives_way_the_oldest_first() -> None:
    assert gives_way(["a", "b", "b", "b"]) == 1
    assert gives_way(["a", "a", "b"]) == 0
    assert gives_way(["a", "b", "c"]) == 0
    # The newcomer's own, if it holds as much as anybody.
    assert gives_way(["a", "b", "a", "b"]) == 1
