"""The night of a device: the user's own words are learned, nothing public is forgotten, and the user has the last word."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from real_bundle import RealBundle

from edge_client import EdgeClient, EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.cli import main
from edge_client.decide.learned import SIGNALS, Learned
from edge_client.decide.preference import DAY_S, Signal
from edge_client.improve.head_tuning import Lessons, head_weights, held_out_of, tune
from edge_client.improve.night_watch import NightWatch
from edge_client.improve.nightly import Nightly, NightReport, Step
from edge_client.share.probes import Network, Power
from edge_client.share.schedule_rules import ScheduleRules
from edge_client.share.scheduler import SCHEDULE_TABLE, Scheduler
from privacy.dpsgd import HeadTuner
from shared_models.bundle import PHRASES_TARGET
from shared_models.errors import ConfigError, ContributionError, WireError
from shared_models.intent_head import HeadSession, IntentHead, to_onnx
from shared_models.local_tuning import LocalTuning
from shared_models.phrases import MOST_PHRASES, PublicPhrases

KEY = bytes(range(32))
SLANG = {
    "check_weather": ("brolly or nah tomorrow", "gonna chuck it down", "brolly job this arvo", "gonna chuck it down sunday"),
    "book_flight": ("sort us a big bird to malaga", "big bird to oslo", "need a big bird home", "grab two seats on a big bird"),
    "book_hotel": ("kip for two nights in leeds", "sort a kip near the beach", "need a kip tonight", "cheap kip in rome"),
    "rent_car": ("set of wheels from the airport", "sort me some wheels", "wheels for the weekend", "need wheels in nice"),
    "find_restaurant": ("decent nosh nearby", "where to get nosh at ten", "nosh for six tonight", "veggie nosh near here"),
}  # fmt: skip
TAUGHT = [(text, intent) for intent, texts in SLANG.items() for text in texts]


@pytest.fixture(scope="module")
def published(real_bundle: RealBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real bundle with a few of its public phrases."""
    root = tmp_path_factory.mktemp("nights")
    shutil.copytree(real_bundle.folder, root / "bundle")
    whole = PublicPhrases.of_domain(real_bundle.domain)
    few = PublicPhrases({name: texts[:4] for name, texts in whole.intents.items()}, whole.out_of_scope[:20])
    real_bundle.publish(1, folder=root / "bundle", optional={PHRASES_TARGET: few.to_bytes()})
    return root / "bundle"


@pytest.fixture(scope="module")
def arrived(published: Path, tmp_path_factory: pytest.TempPathFactory) -> BundleStore:
    store = BundleStore(tmp_path_factory.mktemp("night-bundles"))
    store.refresh(published)
    return store


@pytest.fixture
def client(arrived: BundleStore, tmp_path: Path) -> Iterator[EdgeClient]:
    with EdgeClient.open(tmp_path / "home", key=KEY, config=EdgeConfig(bundles=arrived)) as opened:
        yield opened


def teach(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    for text, intent in TAUGHT:
        client.feedback(text, intent=intent)


def head_step(report: NightReport) -> Step:
    return next(step for step in report.steps if step.name == "intent head")


# -- the head ----------------------------------------------------------------------------------------------------------


def small_head() -> tuple[HeadSession, Lessons]:
    """Three classes over 8 features; the user says class 0 in a direction of its own, feature 5."""
    random = np.random.default_rng(0)
    weights = np.eye(3, 8, dtype=np.float32)
    head = IntentHead(("a", "b", "c"), weights, np.zeros(8, np.float32), "0" * 64, "small", oos_energy=0.0)

    def around(axis: int, count: int) -> np.ndarray:
        rows = np.eye(8)[axis] + 0.15 * random.standard_normal((count, 8))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    lessons = Lessons(
        own=around(5, 30),
        own_classes=np.zeros(30, np.int64),
        own_held_out=np.arange(30) % 3 == 0,
        public=np.concatenate([around(axis, 20) for axis in range(3)]),
        public_classes=np.repeat(np.arange(3), 20),
        public_held_out=np.arange(60) % 2 == 1,
        outside=around(7, 10),
        outside_held_out=np.arange(10) % 2 == 1,
    )
    return HeadSession(to_onnx(head)), lessons


def test_the_weights_of_a_published_head_are_read_off_its_answers() -> None:
    assert head_weights(small_head()[0]) == pytest.approx(np.eye(3, 8), abs=0.01)


def test_tuning_finds_the_users_own_words_and_forgets_nothing_public() -> None:
    head, lessons = small_head()
    change, measured = tune(head, lessons, HeadTuner(), LocalTuning(steps=30))
    assert change is not None
    assert measured.after.own > measured.before.own
    assert measured.after.public >= measured.before.public
    assert measured.after.outside >= measured.before.outside
    assert measured.document()["learned"] == 20


@pytest.mark.parametrize("harm", [-1.0, 50.0])
def test_what_forgets_or_does_not_help_is_not_used(harm: float) -> None:
    head, lessons = small_head()
    bad = np.zeros((3, 8), np.float32)
    # Away from the user's words; or everything is class 0 from now on.
    bad[0] = harm if harm > 0 else 0.0
    bad[0, 5] = harm
    change, measured = tune(head, lessons, lambda *_: bad.reshape(-1), LocalTuning())
    assert change is None
    assert measured.after == measured.before


def test_what_is_in_force_stays_if_the_new_is_worse() -> None:
    head, lessons = small_head()
    good, _ = tune(head, lessons, HeadTuner(), LocalTuning(steps=30))
    kept, _ = tune(head, lessons, lambda *_: np.zeros(24, np.float32), LocalTuning(), in_force=good)
    assert kept is good


@pytest.mark.parametrize("raw", [np.zeros(23), np.full(24, np.nan)])
def test_a_change_that_is_none_is_refused(raw: np.ndarray) -> None:
    head, lessons = small_head()
    with pytest.raises(ContributionError):
        tune(head, lessons, lambda *_: raw, LocalTuning())
    with pytest.raises(ContributionError):
        tune(head, replace(lessons, own_held_out=np.zeros(30, bool)), lambda *_: raw, LocalTuning())


def test_no_single_example_moves_the_head_further_than_its_clip_norm() -> None:
    head, lessons = small_head()
    tuning = LocalTuning(steps=1, learning_rate=1.0, half_weight=0.0, max_grad_norm=0.01)
    nobody = np.empty((0, 8), np.float32), np.empty(0, np.int64)
    change = HeadTuner()(tuning, lessons.own[:1], lessons.own_classes[:1], head_weights(head), *nobody)
    assert np.linalg.norm(change) <= 0.01 + 1e-6


def test_a_text_is_held_out_every_night_or_never() -> None:
    texts = [text for text, _ in TAUGHT]
    assert (held_out_of(texts) == held_out_of([text.upper() for text in texts])).all()
    assert 0 < held_out_of(texts).sum() < len(texts)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": float("nan")}, {"noise_multiplier": -1.0}])
def test_a_tuning_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LocalTuning(**wrong)  # type: ignore[arg-type]


def test_public_phrases_read_back_and_others_are_refused() -> None:
    phrases = PublicPhrases({"a": ("one", "two")}, ("nothing",))
    assert PublicPhrases.from_bytes(phrases.to_bytes()) == phrases
    for raw in (
        b"{}",
        b'{"format":1,"intents":{"a":[""]},"out_of_scope":[]}',
        b'{"format":1,"intents":[],"out_of_scope":[]}',
    ):
        with pytest.raises(WireError):
            PublicPhrases.from_bytes(raw)
    with pytest.raises(WireError):
        PublicPhrases.from_bytes(PublicPhrases({"a": ("x",) * (MOST_PHRASES + 1)}).to_bytes())


# -- a client's night --------------------------------------------------------------------------------------------------


def test_a_night_learns_the_users_words_and_the_user_takes_them_back_at_once(client: EdgeClient) -> None:
    teach(client)
    said = "brolly tomorrow or nah"
    before = client.model.recognize(said)
    report = Nightly(client, HeadTuner()).run()
    step = head_step(report)
    assert step.outcome == "done", step
    measured = step.counts
    assert measured["after"]["own_loss"] < measured["before"]["own_loss"]
    assert measured["after"]["public"] >= measured["before"]["public"]
    after = client.model.recognize(said)
    assert after != before
    kept = client.export()["improvement"]["personal_head"]
    assert kept["in_force"]["measured"] == json.loads(json.dumps(measured))
    assert kept["in_force"]["epsilon"] is None
    assert "change" not in kept["in_force"]
    assert not any(text in json.dumps(report.document()) for text, _ in TAUGHT)
    # The next night has nothing new to learn from.
    assert "hardly any new" in head_step(Nightly(client, HeadTuner()).run()).words
    assert client.improvement.reset()
    assert client.model.recognize(said) == before
    # What was taken back does not come back by itself.
    assert head_step(Nightly(client, HeadTuner()).run()).outcome == "nothing to do"


def put_in_force(client: EdgeClient) -> None:
    head = client.model.head
    change = np.zeros((len(head.labels), head.center.size), np.float32)
    change[0] = 1.0
    client.improvement.head.keep(change, head.sha256, head.version, {}, LocalTuning(noise_multiplier=4.0))
    client._held.drop_model()


def test_what_was_learned_is_out_of_use_with_the_consent_and_gone_with_it(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    plain = client.model.recognize("hello there")
    put_in_force(client)
    assert client.model.recognize("hello there") != plain
    assert client.export()["improvement"]["personal_head"]["in_force"]["epsilon"] > 0.0
    client.consent.restrict("personal-learning")
    assert client.model.recognize("hello there") == plain
    client.consent.lift("personal-learning")
    assert client.model.recognize("hello there") != plain
    client.consent.withdraw("personal-learning")
    client.consent.grant("personal-learning")
    assert client.model.recognize("hello there") == plain
    assert client.improvement.head.document()["in_force"] is None


def test_with_another_head_what_was_learned_counts_no_more(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    put_in_force(client)
    head = client.improvement.head
    assert head.change_for("f" * 64, len(client.model.head.labels), 384) is None
    assert head.change_for(client.model.head.sha256, 3, 384) is None, "a record that does not fit counts as none"


def test_a_night_without_consent_tidies_and_learns_nothing(client: EdgeClient) -> None:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("trained without consent")

    report = Nightly(client, never).run()
    assert [step.outcome for step in report.steps] == ["nothing to do", "nothing to do", "nothing to do", "done"]
    assert client.improvement.last_night == json.loads(json.dumps(report.document()))


def test_a_step_that_fails_does_not_keep_the_others_from_being_done(client: EdgeClient) -> None:
    teach(client)

    def broken(*_: object) -> np.ndarray:
        raise ContributionError("broken")

    report = Nightly(client, broken).run()
    assert [step.outcome for step in report.steps][2:] == ["failed", "done"]
    now_s = client.config.clock()
    assert client.improvement.next_night_s(72_000.0, 1800.0) == pytest.approx(now_s + 1800.0, abs=60.0)


def test_a_night_that_is_wanted_elsewhere_stops_between_its_steps(client: EdgeClient) -> None:
    assert client.nightly(lambda: True).stopped


def test_a_withdrawal_while_the_head_is_tuned_keeps_its_outcome_out(client: EdgeClient) -> None:
    teach(client)

    def withdrawn_meanwhile(
        tuning: object, features: np.ndarray, targets: object, weights: np.ndarray, *_: object
    ) -> np.ndarray:
        client.consent.withdraw("personal-learning")
        client.consent.grant("personal-learning")
        return 0.05 * np.ones(weights.size)

    assert head_step(Nightly(client, withdrawn_meanwhile).run()).counts == {}, "measured on words that are erased"
    assert client.improvement.head.document()["in_force"] is None


def test_signals_that_say_nothing_any_more_go_and_others_stay(client: EdgeClient) -> None:
    client.consent.grant("personalisation")
    now_s = client.config.clock()
    learned = Learned(client.store, client.consent, client.config.clock)
    learned.note(Signal("oslo", "skip", now_s - 200 * DAY_S))
    learned.note(Signal("oslo", "like", now_s - 200 * DAY_S))
    assert Nightly(client, HeadTuner()).run().steps[1].counts == {"signals": 1, "outcomes": 0, "open_suggestions": 0}
    assert [record["kind"] for record in client.store.table(SIGNALS, purpose="personalisation").entries()] == ["like"]


def test_a_turn_is_watched_and_a_correction_counts(client: EdgeClient) -> None:
    client.consent.grant("personalisation")
    reply = client.respond("what will the weather be like in Oslo")
    client.feedback(reply, intent=reply.recognition.intent)
    assert client.improvement.watch.drifted()[1] == 3
    client.feedback(reply, intent="book_hotel")
    assert client.improvement.watch.drifted()[1] == 4
    client.respond("what will the weather be like in Oslo", learn=False)
    assert client.improvement.watch.drifted()[1] == 4


def test_a_text_that_was_just_encoded_is_not_encoded_again(client: EdgeClient) -> None:
    first = client.model.embed("once is enough")
    assert client.model.embed("once  is enough") is first
    assert not first.flags.writeable


def test_the_command_shows_and_takes_back(
    arrived: BundleStore, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(KEY)
    home = ["--home", str(tmp_path / "home"), "--key-file", str(tmp_path / "key")]
    with EdgeClient.open(tmp_path / "home", key=KEY, bundle=published) as client:
        client.consent.grant("personal-learning")
        put_in_force(client)
    assert main(["nightly", "show", "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)["personal_head"]["in_force"]["version"] == 1
    assert main(["nightly", "reset", *home]) == 0
    assert main(["nightly", "reset", *home]) == 0
    assert "Nothing was in use." in capsys.readouterr().out
    assert main(["nightly", *home]) == 0
    assert "intent head" in capsys.readouterr().out


# -- processes ---------------------------------------------------------------------------------------------------------


class AtNight:
    """Nobody at the device, on mains."""

    def idle_s(self) -> float | None:
        return 1e6

    def power(self) -> Power:
        return Power.MAINS

    def network(self) -> Network:
        return Network.UNMETERED


@pytest.mark.deep
def test_when_the_user_is_back_a_night_stops_at_once_and_is_caught_up_on(client: EdgeClient) -> None:
    from edge_client.share.agent.training import TrainingProcess

    teach(client)
    rules = ScheduleRules(idle_s=60.0, unknown_idle=True, unknown_power=True, unknown_network=True, on_battery=True)
    scheduler = Scheduler(rules, AtNight(), client.config.clock, client.store.table(SCHEDULE_TABLE))  # type: ignore[arg-type]
    training, said = TrainingProcess(), []
    watch = NightWatch(client, scheduler, tell=said.append, training=training)
    reports = []
    night = threading.Thread(target=lambda: reports.append(watch.night_if_due()))
    night.start()
    deadline_s = time.monotonic() + 60.0
    while training.pid is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert training.pid is not None
    back_s = time.monotonic()
    scheduler.user_is_active()
    night.join(10.0)
    assert time.monotonic() - back_s < 5.0
    assert reports[0].stopped
    assert client.improvement.head.document()["in_force"] is None
    assert scheduler.document()["last"]["outcome"] == "aborted"
    assert watch.night_if_due() is None, "the user is at the device"


KILLED = """
import sys
from edge_client import EdgeClient
with EdgeClient.open(sys.argv[1], key=bytes(range(32))) as client:
    print("begun", flush=True)
    client.nightly()
"""


@pytest.mark.deep
def test_a_kill_while_the_head_is_tuned_loses_nothing(published: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EdgeClient.open(home, key=KEY, bundle=published) as client:
        teach(client)
        put_in_force(client)
        plain = client.export()["examples"]
    for delay_s in (0.5, 2.0, 4.0):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(home)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay_s)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with EdgeClient.open(home, key=KEY) as client:
            assert client.export()["examples"] == plain
            assert client.improvement.head.document()["in_force"] is not None
    with EdgeClient.open(home, key=KEY) as client:
        report = client.nightly()
        assert head_step(report).outcome == "done"
