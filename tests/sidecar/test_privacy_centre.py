"""The privacy centre without a browser: who may open it, what it shows, what its forms do, and what it never does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sidecar_calls import BASE, InProcess, Visitor

from edge_client.client import EdgeClient
from edge_client.improve.head_tuning import Measured, Score
from edge_client.know.erasure_certificate import ErasureCertificate
from edge_client.share.device import GATE_TABLE
from edge_client.share.probes import system_probes
from edge_client.share.schedule_rules import ScheduleRules
from edge_client.share.scheduler import SCHEDULE_TABLE, Scheduler
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.sessions import IDLE_LIFE_S, LINK_LIFE_S, Sessions
from edge_client.sidecar.tokens import Apps
from shared_models.errors import AccessError
from shared_models.local_tuning import LocalTuning

ATTACK = '"><script>alert(1)</script>'


# -- the door ----------------------------------------------------------------------------------------------------------


def test_a_link_opens_once(call: InProcess, sidecar: Sidecar) -> None:
    link = sidecar.centre_path()
    opened = call("GET", link, token=None)
    assert opened.status_code == 200
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert re.search(r"Path=/centre/[\w-]{20,}/", cookie)
    again = call("GET", link, token=None)
    assert again.status_code == 403
    assert "set-cookie" not in again.headers
    assert call("GET", "/centre/open", token=None).status_code == 403


def test_neither_path_nor_cookie_nor_token_alone_opens_a_page(call: InProcess, visitor: Visitor) -> None:
    assert "What is known" in visitor.see("known")
    assert call("GET", f"{visitor.root}/known", token=None).status_code == 403
    assert call("GET", f"{visitor.root}/known").status_code == 403
    assert call("GET", "/centre/elsewhere/known", token=None, cookies=visitor.cookies).status_code == 403
    other = Visitor(call)
    assert call("GET", f"{visitor.root}/known", token=None, cookies=other.cookies).status_code == 403


def test_links_and_sessions_end_in_time() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    late = sessions.new_link()
    now[0] = LINK_LIFE_S + 1
    with pytest.raises(AccessError):
        sessions.open(late)
    session, cookie = sessions.open(sessions.new_link())
    now[0] += IDLE_LIFE_S - 1
    assert sessions.find(session.place, cookie) is session
    now[0] += IDLE_LIFE_S + 1
    with pytest.raises(AccessError):
        sessions.find(session.place, cookie)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
        {"Origin": BASE, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:9999"},
    ],
)
def test_a_form_of_another_page_does_nothing(
    call: InProcess, visitor: Visitor, device: EdgeClient, headers: dict[str, str]
) -> None:
    csrf = re.search(r'name="csrf" value="([^"]+)"', visitor.see("consents"))[1]  # type: ignore[index]
    answer = call(
        "POST",
        f"{visitor.root}/do/consent",
        token=None,
        cookies=visitor.cookies,
        headers=headers,
        data={"csrf": csrf, "purpose": "personalisation", "to": "on"},
    )
    assert answer.status_code == 403
    assert not device.consent.is_granted("personalisation")


def test_a_form_without_the_sessions_token_does_nothing(call: InProcess, visitor: Visitor, device: EdgeClient) -> None:
    other = re.search(r'name="csrf" value="([^"]+)"', Visitor(call).see("consents"))[1]  # type: ignore[index]
    for csrf in ("", "x", other):
        assert visitor.send("do/consent", csrf=csrf, purpose="personalisation", to="on").status_code == 403
    for action in ("erase", "export", "close", "certificate"):
        assert visitor.send(action, csrf="x", sure="yes").status_code == 403
    assert not device.store.closed
    assert not device.consent.is_granted("personalisation")


def test_a_page_cannot_be_fetched_framed_or_embedded(call: InProcess, visitor: Visitor) -> None:
    for headers in (
        {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Site": "same-site"},
        {"Origin": "https://shop.example"},
    ):
        assert (
            call("GET", f"{visitor.root}/known", token=None, cookies=visitor.cookies, headers=headers).status_code
            == 403
        )
    shown = call("GET", f"{visitor.root}/known", token=None, cookies=visitor.cookies)
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["referrer-policy"] == "same-origin"


# -- what it shows -----------------------------------------------------------------------------------------------------


def test_pages_load_nothing_and_have_names_labels_and_landmarks(visitor: Visitor, consenting: EdgeClient) -> None:
    consenting.capture.receive({"type": "identify", "traits": {"plan": "gold"}})
    consenting.decisions.record("offer", "late_checkout", ["you often leave late"])
    for page in ("known", "consents", "left", "decisions", "unasked", "rights"):
        text = visitor.see(page)
        assert re.findall(r'(?:src|href|action)="(?!/centre/|#)[^"]*"', text) == []
        assert "<script" not in text
        assert "style=" not in text
        assert not re.search(r"\son\w+=", text)
        assert '<html lang="en">' in text
        assert text.count("<h1>") == 1
        for landmark in ("<header>", "<main", "<nav ", "<footer>"):
            assert landmark in text
        labelled = set(re.findall(r'<label for="([^"]+)"', text))
        fields = re.findall(r'<(?:input|select)(?![^>]*type="hidden")[^>]*id="([^"]+)"', text)
        assert set(fields) == labelled
        assert len(re.findall(r'<(?:input|select)(?![^>]*type="hidden")', text)) == len(fields)


def test_what_is_known_stands_there_with_its_source_and_can_be_corrected(
    visitor: Visitor, consenting: EdgeClient
) -> None:
    consenting.capture.receive({"type": "identify", "traits": {"plan": "gold", "interests": [ATTACK]}})
    text = visitor.see("known")
    assert "gold" in text
    assert "event identify" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert visitor.send("do/correct", name="plan", value="basic").status_code == 303
    assert "you corrected it" in visitor.see("known")
    assert consenting.profile.get("plan").value == "basic"  # type: ignore[union-attr]
    visitor.send("do/uncorrect", name="plan")
    assert consenting.profile.get("plan").value == "gold"  # type: ignore[union-attr]
    visitor.send("do/remove", name="plan")
    assert consenting.profile.get("plan") is None
    refused = visitor.send("do/correct", name="price_sensitivity", value="a lot")
    assert refused.status_code == 422
    assert "price_sensitivity" in refused.text
    assert visitor.send("do/correct", name="nonsense", value="1").status_code == 422


def test_what_nights_have_learned_stands_there_and_is_forgotten_at_a_press(
    visitor: Visitor, device: EdgeClient
) -> None:
    assert "Forget what nights have learned" not in visitor.see("known")
    device.consent.grant("personal-learning")
    score = Score(own=2, own_loss=0.9, public=40, outside=9)
    measured = Measured(
        before=score, after=replace(score, own=4), held_out=5, public=40, outside=10, learned=17, share=1.0
    )
    change = np.zeros((2, 3), np.float32)
    device.improvement.head.keep(change, "0" * 64, 1, measured.document(), LocalTuning())
    text = visitor.see("known")
    assert "from 17 of your examples" in text
    assert "Of 5 examples that were kept aside, 2 were right before and 4 are now." in text
    assert visitor.send("do/forget-nights").status_code == 303
    assert device.improvement.document()["personal_head"]["in_force"] is None
    assert "Forget what nights have learned" not in visitor.see("known")


def test_a_switch_changes_the_consent_and_erases(visitor: Visitor, device: EdgeClient) -> None:
    assert visitor.send("do/consent", purpose="personalisation", to="on").status_code == 303
    assert device.consent.is_granted("personalisation")
    device.capture.receive({"type": "page", "name": "Start"})
    assert "On since" in visitor.see("consents")
    visitor.send("do/restrict", purpose="personalisation", to="on")
    assert device.consent.state("personalisation") == "restricted"
    assert len(device.capture.events()) == 1
    visitor.send("do/restrict", purpose="personalisation", to="off")
    visitor.send("do/objection", to="on")
    assert device.consent.objects_to_profiling
    assert "You object" in visitor.see("consents")
    visitor.send("do/objection", to="off")
    assert device.consent.is_granted("personalisation")
    visitor.send("do/consent", purpose="personalisation", to="off")
    assert not device.consent.is_granted("personalisation")
    assert device.capture.events() == []
    assert "withdrawn" in visitor.see("consents")
    assert visitor.send("do/consent", purpose=ATTACK, to="on").status_code == 422


def test_decisions_stand_there_with_their_reasons(visitor: Visitor, consenting: EdgeClient) -> None:
    consenting.decisions.record("offer", "late_checkout", ["you often leave late", ATTACK])
    text = visitor.see("decisions")
    assert "late checkout" in text
    assert "you often leave late" in text
    assert "<script>alert" not in text
    visitor.send("do/forget-decisions")
    assert "None are kept" in visitor.see("decisions")


def receipt(round_id: int) -> dict[str, object]:
    body = {
        "round_id": round_id,
        "purpose": "intent-model",
        "contribution": "intent_head",
        "rho": 0.05,
        "note": "",
        "time_s": 1.8e9,
    }
    return {"index": round_id, "time_s": 1.8e9, "kind": "contribution", "body": body}


def test_what_left_has_its_cost_and_a_tick_only_where_a_proof_was_checked(
    device: EdgeClient, apps: Apps, token: str
) -> None:
    table = device.store.table(GATE_TABLE)
    for round_id in (1, 2):
        table.put(f"receipt/fleet/{round_id}", receipt(round_id))
    plain = Visitor(InProcess(Sidecar(device, apps), token)).see("left")
    assert plain.count("not yet provable") == 2
    assert "✓" not in plain
    assert "0.1" in plain

    def checked(entry: object) -> bool:
        return entry["body"]["round_id"] == 2  # type: ignore[index]

    proven = Visitor(InProcess(Sidecar(device, apps, is_accounted=checked), token)).see("left")
    assert proven.count("not yet provable") == 1
    assert proven.count("✓") == 1


def test_learning_for_others_is_paused_and_resumed(device: EdgeClient, apps: Apps, token: str) -> None:
    scheduler = Scheduler(ScheduleRules(), system_probes(), device.config.clock, device.store.table(SCHEDULE_TABLE))
    visitor = Visitor(InProcess(Sidecar(device, apps, scheduler=scheduler), token))
    assert "Pause for 8 hours" in visitor.see("left")
    visitor.send("do/pause", hours="8")
    assert "Paused until" in visitor.see("left")
    visitor.send("do/pause", hours="resume")
    assert scheduler.document()["paused"] is None
    visitor.send("do/pause", hours="")
    assert "until you go on" in visitor.see("left")


# -- the user's rights -------------------------------------------------------------------------------------------------


def test_everything_can_be_taken_away_as_a_file(visitor: Visitor, consenting: EdgeClient) -> None:
    consenting.capture.receive({"type": "identify", "traits": {"plan": "gold"}})
    saved = visitor.send("export")
    assert "attachment" in saved.headers["content-disposition"]
    document = saved.json()
    assert document["format"] == "tacit-export/1"
    assert document["profile"]["attributes"]["plan"]["value"] == "gold"
    assert "access" in visitor.see("rights")


def test_erasure_leaves_nothing_but_a_certificate(visitor: Visitor, consenting: EdgeClient, call: InProcess) -> None:
    consenting.capture.receive({"type": "identify", "traits": {"plan": "quokka"}})
    refused = visitor.send("erase")
    assert refused.status_code == 422
    assert not consenting.store.closed
    csrf = re.search(r'name="csrf" value="([^"]+)"', visitor.see("rights"))[1]  # type: ignore[index]
    erased = visitor.send("erase", csrf=csrf, sure="yes")
    assert erased.status_code == 200
    assert consenting.store.closed
    certificate = ErasureCertificate.verify(visitor.send("certificate", csrf=csrf).content)
    assert sum(certificate.records.values()) > 0
    assert b"quokka" not in certificate.to_bytes()
    assert [path for path in Path(consenting.store.folder).rglob("*") if path.is_file()] == []
    after = call("GET", f"{visitor.root}/known", token=None, cookies=visitor.cookies)
    assert after.status_code == 503
    assert call("POST", "/v1/events", json={"type": "page"}).status_code == 401, "the apps' tokens are erased too"
    assert call("GET", "/healthz", token=None).json()["state"] == "NOT_READY"


def test_a_closed_centre_stays_closed(call: InProcess, visitor: Visitor) -> None:
    assert visitor.send("close").status_code == 200
    assert call("GET", f"{visitor.root}/known", token=None, cookies=visitor.cookies).status_code == 403


def test_odd_forms_and_pages_are_refused(call: InProcess, visitor: Visitor) -> None:
    assert visitor.send("do/nonsense").status_code == 404
    assert visitor.send("certificate").status_code == 404
    assert visitor.send("do/pause", hours="1").status_code == 404
    assert call("GET", f"{visitor.root}/nonsense", token=None, cookies=visitor.cookies).status_code == 404
    answer = call(
        "POST",
        f"{visitor.root}/do/consent",
        token=None,
        cookies=visitor.cookies,
        headers={"Origin": BASE},
        content=json.dumps({"csrf": "x"}),
    )
    assert answer.status_code == 415
