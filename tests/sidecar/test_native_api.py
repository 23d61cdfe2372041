"""The native API: talking, events, decisions, rights; and what each error looks like."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sidecar_calls import InProcess

from edge_client.client import EdgeClient
from edge_client.sidecar import problems
from edge_client.sidecar.tokens import Apps
from shared_models import errors


def test_an_event_goes_all_the_way_to_a_feature_and_to_the_profile(call: InProcess, consenting: EdgeClient) -> None:
    kept = call("POST", "/v1/events", json={"type": "identify", "traits": {"plan": "gold", "shoe_size": 43}}).json()
    assert (kept["kept"], kept["reason"]) == (True, "kept")
    assert any("shoe_size" in name for name in kept["dropped"])
    results = call("POST", "/v1/events/batch", json=[{"type": "page", "name": "Start"}, {"type": "nonsense"}]).json()[
        "results"
    ]
    assert results[0]["kept"]
    assert "type" in results[1]["error"]
    assert "page" in repr(call("GET", "/v1/features").json())
    profile = call("GET", "/v1/profile").json()["attributes"]["plan"]
    assert (profile["value"], profile["provenance"]) == ("gold", "event:identify")
    assert call("GET", "/v1/quality").json()["stored"] == 2


def test_without_consent_nothing_is_kept_and_the_app_is_told(call: InProcess, device: EdgeClient) -> None:
    answer = call("POST", "/v1/events", json={"type": "page", "name": "Start"})
    assert answer.status_code == 200
    assert answer.json()["reason"] == "no_consent"
    assert device.capture.events() == []
    assert call("POST", "/v1/decisions", json={"kind": "offer", "chosen": "a", "reasons": ["b"]}).json() == {"id": None}


def test_global_privacy_control_is_heeded_before_the_event_and_stands(call: InProcess, consenting: EdgeClient) -> None:
    event = {"type": "page", "name": "Start", "userId": "u"}
    assert call("POST", "/v1/events", json=event, headers={"Sec-GPC": "0"}).json()["kept"]
    for path, body in (
        ("/v1/events", event),
        ("/v1/page", event),
        ("/v1/batch", {"batch": [event]}),
        ("/track", {"event": "Product Viewed", "properties": {}}),
    ):
        consenting.consent.signal_gpc(False)
        assert call("POST", path, json=body, headers={"Sec-GPC": "1"}).status_code == 200
        assert consenting.consent.objects_to_profiling
        assert len(consenting.capture.events()) == 1
    assert call("POST", "/v1/events", json=event).json()["kept"] is False
    assert call("GET", "/v1/consents").json()["objects_to_profiling"] is True


def test_the_rights_are_exercised_over_the_api(call: InProcess, device: EdgeClient) -> None:
    assert call("PUT", "/v1/consents/personalisation", json={"granted": True}).json()["granted"] is True
    call("POST", "/v1/events", json={"type": "identify", "traits": {"plan": "gold"}})
    assert call("PUT", "/v1/profile/plan", json={"value": "basic"}).status_code == 200
    assert call("GET", "/v1/profile").json()["attributes"]["plan"]["corrected"] is True
    assert call("PUT", "/v1/profile/shoe_size", json={"value": 1}).status_code == 422
    exported = call("GET", "/v1/export").json()
    assert exported["format"] == "tacit-export/1"
    assert exported["profile"]["attributes"]["plan"]["value"] == "basic"
    assert exported["shared"]["receipts"] == []
    assert call("DELETE", "/v1/profile/plan").json() == {"removed": True}
    assert call("PUT", "/v1/objection", json={"objects": True}).json() == {"objects_to_profiling": True}
    assert call("PUT", "/v1/objection", json={"objects": False}).json() == {"objects_to_profiling": False}
    assert call("PUT", "/v1/consents/personalisation", json={"granted": False}).json()["granted"] is False
    assert device.capture.events() == []
    assert call("PUT", "/v1/consents/nonsense", json={"granted": True}).status_code == 422
    assert call("POST", "/v1/centre").json()["path"].startswith("/centre/open?code=")


def test_a_decision_of_the_app_is_kept_with_its_reasons(call: InProcess, consenting: EdgeClient) -> None:
    body = {
        "kind": "offer",
        "chosen": "late checkout",
        "reasons": ["you often leave in the afternoon"],
        "context": {"x": 1},
    }
    kept = call("POST", "/v1/decisions", json=body).json()["id"]
    (decision,) = call("GET", "/v1/decisions?n=5").json()["decisions"]
    assert decision["id"] == kept
    assert decision["reasons"] == body["reasons"]
    for n in ("0", "501", "x", "-1"):
        assert call("GET", f"/v1/decisions?n={n}").status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": 7}, "text"),
        ({"text": "x" * 5000}, "text"),
        ({"text": "x", "more": 1}, "more"),
    ],
)
def test_a_field_that_is_wrong_is_named(call: InProcess, body: dict[str, object], field: str) -> None:
    answer = call("POST", "/v1/chat", json=body)
    assert answer.status_code == 422
    assert [entry["field"] for entry in answer.json()["errors"]] == [field]


def test_a_device_without_a_model_says_what_to_do(call: InProcess) -> None:
    answer = call("POST", "/v1/chat", json={"text": "hello"})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:tacit:problem:model-missing")
    assert "tacit-fleet build" in answer.json()["detail"]
    assert call("GET", "/healthz", token=None).json() == {"status": "ok", "state": "NOT_READY"}


def test_unknown_paths_and_methods_are_problem_documents(call: InProcess) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("DELETE", "/v1/chat", 405), ("GET", "/", 404)):
        answer = call(method, path)
        assert answer.status_code == status
        assert answer.json()["type"] == "about:blank"


def test_every_error_of_ours_has_a_status() -> None:
    """Whatever a room raises, it is said in HTTP's words, and what the caller did wrong is never a 5xx."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TacitError)]
    assert len(kinds) > 40
    for kind in kinds:
        # Made without its arguments, of which each kind has its own.
        error: errors.TacitError = kind.__new__(kind, "wrong")
        if isinstance(error, errors.CaptureError):
            error.fields = {"field": "wrong"}
        if isinstance(error, errors.SidecarError):
            error.status, error.retry_after_s = 418, 2.0
        answer = problems.problem_of(error)
        assert answer.media_type == "application/problem+json"
        if isinstance(error, errors.InputError | errors.WireError | errors.RefusedError | errors.SidecarError):
            assert 400 <= answer.status_code < 500, kind


def test_what_fails_unexpectedly_says_nothing_about_it(call: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EdgeClient, "intents", lambda self: 1 / 0)
    answer = call("GET", "/v1/intents")
    assert answer.status_code == 500
    assert "zero" not in answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_metrics_hold_no_personal_data(call: InProcess, consenting: EdgeClient) -> None:
    call(
        "POST", "/v1/track", json={"event": "Product Viewed", "userId": "user-42", "properties": {"product_id": "p-7"}}
    )
    call("GET", "/v1/profile/secret-name-42")
    call("GET", "/healthz", headers={"Host": "evil.example"})
    text = call("GET", "/metrics").text
    assert 'tacit_sidecar_requests_total{route="/v1/track",status="200"} 1' in text
    assert 'tacit_sidecar_refused_total{reason="host"} 1' in text
    assert 'tacit_sidecar_state{state="NOT_READY"} 1' in text
    for planted in ("user-42", "p-7", "Product", "product", "secret-name-42", "evil", "shop"):
        assert planted not in text
    assert call("GET", "/metrics", token=None).status_code == 401


def test_the_openapi_document_is_whole_and_needs_a_token(call: InProcess) -> None:
    document = call("GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.")
    for path in ("/v1/chat", "/v1/events", "/v1/batch", "/track", "/engage", "/healthz", "/metrics", "/v1/stream"):
        assert path in document["paths"]
    assert not any(path.startswith("/centre") for path in document["paths"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (path != "/healthz")


def test_nothing_of_the_user_is_logged(
    call: InProcess, consenting: EdgeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    call("POST", "/v1/events", json={"type": "identify", "traits": {"home_city": "Quokkaville"}})
    call(
        "POST", "/v1/events", json={"type": "track", "event": "Product Viewed", "properties": {"price": "Quokkaville"}}
    )
    call("POST", "/v1/chat", json={"text": "Quokkaville"})
    assert "Quokkaville" not in caplog.text


def test_many_callers_are_served_at_once(address: str, consenting: EdgeClient, apps: Apps) -> None:
    tokens = [apps.register(name) for name in ("one", "two")]

    def send(number: int) -> int:
        headers = {"Authorization": f"Bearer {tokens[number % 2]}"}
        return httpx.post(f"{address}/v1/events", json={"type": "page", "name": "x"}, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(40))) == {200}
    assert len(consenting.capture.events()) == 40
