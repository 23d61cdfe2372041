"""Capture: duplicates, clocks, retention, bounds, backpressure, several purposes, and what happens when a write fails."""

from __future__ import annotations

import json
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from captured import START_S, CapturingDevice, iso, page, track

from edge_client.know.capture import Capture, Captured, CaptureLimits
from shared_models.errors import CaptureBusyError, CaptureError, ConfigError, StoreWriteError
from shared_models.profile import ProfileSchema, default_schema
from shared_models.purposes import PERSONAL_LEARNING, PERSONALISATION

DAY_S = 86_400.0


@pytest.fixture
def device(tmp_path: Path) -> CapturingDevice:
    return CapturingDevice(tmp_path / "home")


# -- duplicates and time --------------------------------------------------------------------------------------------------


def test_the_same_message_id_is_kept_once_also_after_a_restart_and_within_a_batch(device: CapturingDevice) -> None:
    assert device.capture.receive(page("Home", messageId="m-1")).kept
    assert device.capture.receive(page("Other", messageId="m-1")) == Captured(False, "duplicate", "m-1")
    answers = device.capture.receive_batch([page("A", messageId="m-2"), page("B", messageId="m-2"), page("C")])
    assert [answer.reason for answer in answers if isinstance(answer, Captured)] == ["kept", "duplicate", "kept"]
    again = device.reopened()
    assert [again.capture.receive(page("Home", messageId=f"m-{n}")).reason for n in (1, 2)] == ["duplicate"] * 2
    assert len(again.stored()) == 3
    assert "m-1" not in json.dumps(again.stored()), "an id of the app is kept in clear"


def test_events_without_a_message_id_get_one_of_their_own(device: CapturingDevice) -> None:
    ids = {device.capture.receive(page("Home")).message_id for _ in range(3)}
    assert len(ids) == 3
    assert "" not in ids


def test_a_wrong_clock_is_corrected_by_when_the_event_was_sent(device: CapturingDevice) -> None:
    wrong_s = START_S - 5 * 3600  # five hours behind; made 30 s before it was sent
    device.capture.receive({**page("Home"), "timestamp": iso(wrong_s - 30), "sentAt": iso(wrong_s)})
    ahead_s = START_S + 300 * DAY_S
    device.capture.receive({**page("Home"), "timestamp": iso(ahead_s - 7), "sentAt": iso(ahead_s)})
    assert [event.at_s for event in device.capture.events()] == [START_S - 30, START_S - 7]


def test_a_time_that_is_ahead_counts_as_now_and_is_counted(device: CapturingDevice) -> None:
    device.capture.receive(page("Home", START_S + 3600))
    assert device.capture.events()[0].at_s == START_S
    assert device.capture.quality()["skewed"] == 1


def test_a_zone_is_kept_in_whole_hours_only(device: CapturingDevice) -> None:
    device.capture.receive({**page("Home"), "timestamp": "2027-01-15T13:30:00+05:45"})
    (event,) = device.capture.events()
    assert event.offset_h == 6
    assert event.at_s == START_S - 15 * 60


def test_late_events_are_kept_in_order_and_too_old_ones_are_not(device: CapturingDevice) -> None:
    for at_s in (START_S - 10, START_S - 3600, START_S - 60):
        device.capture.receive(page("Home", at_s))
    assert [event.at_s for event in device.capture.events()] == [START_S - 3600, START_S - 60, START_S - 10]
    assert device.capture.receive(page("Home", START_S - 400 * DAY_S)).reason == "too_old"
    assert device.capture.receive(page("Home", START_S - 91 * DAY_S)).reason == "too_old", "beyond its retention"
    quality = device.capture.quality()
    assert (quality["late"], quality["too_old"]) == (2, 2)


# -- bounds ---------------------------------------------------------------------------------------------------------------


def test_events_go_when_they_have_outlived_their_retention(device: CapturingDevice) -> None:
    device.capture.receive(page("Home"))  # 90 days
    device.capture.receive(track("Application Opened"))  # 30 days
    device.now_s += 31 * DAY_S
    assert [event.name for event in device.capture.events()] == ["page"]
    assert device.capture.expire(device.now_s) == 1
    assert len(device.stored()) == 1
    assert "application_opened" not in device.capture.windows()["counts"]
    device.now_s += 60 * DAY_S
    device.capture.receive(page("Home"))  # expires the other by itself
    assert len(device.stored()) == 1
    with pytest.raises(ConfigError):
        device.capture.expire(float("nan"))


def test_a_property_with_a_shorter_retention_takes_its_event_along(tmp_path: Path) -> None:
    extension = b"""
events:
  sold:
    retention_days: 90
    properties: {size: {type: integer, retention_days: 2}, colour: category}
"""
    device = CapturingDevice(tmp_path, schema=default_schema().extended(ProfileSchema.from_yaml(extension)))
    device.capture.receive(track("Sold", colour="red"))
    device.capture.receive(track("Sold", size=4))
    assert device.capture.expire(device.now_s + 3 * DAY_S) == 1
    assert device.stored()[0]["properties"] == {"colour": "red"}
    again = device.reopened(schema=default_schema())
    assert again.capture.events() == [], "the app's new schema does not name it any more"
    assert again.capture.expire(again.now_s) == 1


def test_the_number_of_events_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path, limits=CaptureLimits(most_events=40))
    for number in range(100):
        device.capture.receive(page("Home", START_S - 1000 + number, messageId=str(number)))
        assert len(device.stored()) <= 44
    assert device.capture.events()[-1].at_s == START_S - 1000 + 99
    assert device.capture.events()[0].at_s >= START_S - 1000 + 99 - 44
    assert device.capture.receive(page("Home", START_S - 1000, messageId="0")).reason == "too_old", "it came back"
    assert device.capture.quality()["trimmed"] == 100 - len(device.stored())
    assert device.capture.windows()["counts"]["page"]["1h"] == len(device.stored())


def test_a_batch_is_one_write_and_its_good_events_are_kept(device: CapturingDevice) -> None:
    device.capture.receive(page("Home"))
    before = device.store.describe()["commits"]
    answers = device.capture.receive_batch(
        [page("A"), {"type": "page", "timestamp": "soon"}, track("Unheard"), page("B")]
    )
    assert device.store.describe()["commits"] == before + 1
    assert [type(answer).__name__ for answer in answers] == ["Captured", "CaptureError", "Captured", "Captured"]
    assert len(device.stored()) == 3


@pytest.mark.parametrize("batch", ["events", {"type": "page"}, 5, None, [page("x")] * 501])
def test_what_is_no_batch_is_refused_whole(device: CapturingDevice, batch: Any) -> None:
    with pytest.raises(CaptureError) as caught:
        device.capture.receive_batch(batch)
    assert list(caught.value.fields) == ["batch"]
    assert device.capture.receive_batch([]) == []


def test_too_many_events_at_once_are_sent_back_and_lose_nothing(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path, limits=CaptureLimits(most_in_flight=3))
    device.capture.receive(page("first"))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with device.store.lock:
            held.set()
            done.wait(20)

    waiting = [threading.Thread(target=hold)]
    waiting += [threading.Thread(target=device.capture.receive, args=(page(str(n)),)) for n in range(3)]
    waiting[0].start()
    assert held.wait(20)
    for thread in waiting[1:]:
        thread.start()
    while device.capture._in_flight < 3:
        pass
    with pytest.raises(CaptureBusyError):
        device.capture.receive(page("one too many"))
    done.set()
    for thread in waiting:
        thread.join()
    assert device.capture.receive(page("later")).kept
    assert len(device.stored()) == 5
    assert device.capture.quality()["busy"] == 1


def test_who_holds_the_store_is_not_sent_back(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path, limits=CaptureLimits(most_in_flight=2))
    waiting = [threading.Thread(target=device.capture.receive, args=(page(str(n)),)) for n in range(2)]
    device.capture.events()
    with device.store.transaction():
        for thread in waiting:
            thread.start()
        while device.capture._in_flight < 2:
            pass
        assert device.capture.receive(page("mine")).kept
    for thread in waiting:
        thread.join()
    assert len(device.stored()) == 3


def test_many_threads_keep_each_event_once(device: CapturingDevice) -> None:
    def send(number: int) -> None:
        for n in range(10):
            device.capture.receive(page("Home", messageId=f"{(number * 5 + n) % 40}"))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(device.stored()) == 40
    quality = device.capture.quality()
    assert (quality["received"], quality["kept"], quality["duplicates"]) == (80, 40, 40)
    assert sum(quality["latency_ms"]["counts"]) == 80


def test_what_a_caller_undoes_is_forgotten(device: CapturingDevice) -> None:
    device.capture.receive(page("Home"))

    def undone() -> None:
        with device.store.transaction():
            assert device.capture.receive(track("Product Viewed", message_id="m")).kept
            raise RuntimeError("undone")

    with pytest.raises(RuntimeError, match="undone"):
        undone()
    assert "product_viewed" not in device.capture.windows()["counts"]
    assert device.capture.receive(track("Product Viewed", message_id="m")).kept


def test_a_consent_that_goes_while_an_event_is_read_keeps_it_out(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path)

    class GoesAfterTheFirstLook:
        looks = 0

        def is_granted(self, purpose: str) -> bool:
            self.looks += 1
            return self.looks == 1

    device.capture.events()
    late = Capture(device.store, device.schema, GoesAfterTheFirstLook(), device.profile, device.clock)
    assert late.receive(page("Home")).reason == "no_consent"
    assert device.stored() == []


def test_a_full_disk_is_an_error_that_loses_nothing_and_leaves_capture_usable(device: CapturingDevice) -> None:
    device.capture.receive(page("Home", messageId="m-0"))
    before = device.capture.windows()["counts"]
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, usual[1]))
    try:
        with pytest.raises(StoreWriteError):
            device.capture.receive(page("Home", messageId="m-1"))
        with pytest.raises(StoreWriteError):
            device.capture.receive_batch([page("Home", messageId="m-2"), page("Home", messageId="m-3")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(device.capture.events()) == 1
    assert device.capture.windows()["counts"] == before
    assert [device.capture.receive(page("Home", messageId=f"m-{n}")).reason for n in range(4)] == ["duplicate"] + [
        "kept"
    ] * 3
    assert len(device.reopened().stored()) == 4


def test_what_has_expired_is_not_in_the_windows_though_nothing_new_was_captured(device: CapturingDevice) -> None:
    device.capture.receive(track("Application Opened"))
    device.now_s += 31 * DAY_S
    assert device.capture.windows()["recency_s"] == {}
    assert device.stored() == []


def test_retention_inside_a_transaction_that_is_undone_leaves_memory_and_store_in_step(device: CapturingDevice) -> None:
    device.capture.receive(track("Application Opened"))  # 30 days
    device.now_s += 5 * DAY_S
    device.capture.receive(track("Application Opened"))
    device.now_s += 26 * DAY_S

    def undone() -> None:
        with device.store.transaction():
            assert device.capture.receive(page("Home", messageId="m")).kept
            raise RuntimeError("undone")

    with pytest.raises(RuntimeError):
        undone()
    assert device.capture.receive(page("Home", messageId="m")).kept
    assert [event.name for event in device.capture.events()] == ["application_opened", "page"]


def test_after_a_withdrawal_the_profile_is_told_the_context_anew(device: CapturingDevice) -> None:
    document = {**page("Home"), "context": {"locale": "de-CH"}}
    device.capture.receive(document)
    device.consent.withdraw(PERSONALISATION.name)
    assert device.profile.values() == {}
    device.consent.grant(PERSONALISATION.name)
    device.capture.receive(document)
    assert device.profile.values()["locale"].value == "de-CH"


def schema_with_quiz(purpose: str) -> ProfileSchema:
    own = f"events: {{quiz_taken: {{retention_days: 90, purpose: {purpose}, properties: {{score: integer}}}}}}"
    return default_schema().extended(ProfileSchema.from_yaml(own.encode()))


def test_a_withdrawal_takes_exactly_what_was_kept_for_its_purpose(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path, schema=schema_with_quiz(PERSONAL_LEARNING.name))
    assert device.capture.receive(track("Quiz Taken", score=5)).reason == "no_consent"
    device.consent.grant(PERSONAL_LEARNING.name)
    device.capture.receive_batch([page("Home"), track("Quiz Taken", score=5), page("Search")])
    assert [event.name for event in device.capture.events()] == ["page", "quiz_taken", "page"]
    before = device.capture.windows()
    device = device.reopened()
    assert device.capture.windows() == before
    device.consent.withdraw(PERSONAL_LEARNING.name)
    assert set(device.capture.windows()["counts"]) == {"page"}
    assert [event.name for event in device.capture.events()] == ["page", "page"]


def test_what_a_new_schema_keeps_for_another_purpose_goes(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path, schema=schema_with_quiz(PERSONALISATION.name))
    device.capture.receive_batch([page("Home"), track("Quiz Taken", score=5)])
    again = device.reopened(schema=schema_with_quiz(PERSONAL_LEARNING.name))
    assert [event.name for event in again.capture.events()] == ["page"]
    assert set(again.capture.windows()["counts"]) == {"page"}
    assert [record["name"] for record in again.stored()] == ["page"]


def test_a_library_cannot_fill_what_the_schema_leaves_to_the_user(tmp_path: Path) -> None:
    own = b"""
attributes: {locale: {kind: demographic, type: text, unit: BCP 47, retention_days: 9, source: declared}}
events: {page: {retention_days: 9}}
"""
    device = CapturingDevice(tmp_path, schema=ProfileSchema.from_yaml(own))
    assert device.capture.receive({"type": "page", "context": {"locale": "de-CH"}}).dropped == ("context.locale",)
    assert device.profile.values() == {}


def test_counters_survive_a_restart_up_to_the_last_time_they_were_stored(device: CapturingDevice) -> None:
    for start in range(0, 400, 100):
        device.capture.receive_batch([page("Home", messageId=str(start + n), x=1) for n in range(100)])
    quality = device.reopened().capture.quality()
    assert quality["kept"] in range(200, 401)
    assert quality["stored"] == 400


@pytest.mark.parametrize("limits", [{"most_events": 0}, {"most_in_batch": True}, {"most_in_flight": 1.5}])
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CaptureLimits(**limits)
