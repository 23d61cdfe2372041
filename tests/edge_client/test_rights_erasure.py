"""What is left after a withdrawal and after an erasure: planted words are looked for, raw and decrypted, also in old copies."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keyring
import keyring.backend
import keyring.errors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leaks import leaks
from rooms import PERSONAL, Device
from store_model import everything_readable

from edge_client import EdgeClient
from edge_client.know.consent import Consent
from edge_client.know.erasure_certificate import ErasureCertificate
from edge_client.know.store import Store
from shared_models.canonical import Envelope, seal_envelope
from shared_models.errors import StoreClosedError, StoreError, TacitError, WireError
from shared_models.purposes import PURPOSES

ROOT = Path(__file__).parents[2]
KEY = bytes(range(32))
CANARY = "quetzalcoatlus zanzibar"
LEARNED = "thylacine ouagadougou"
KEPT = "xylophone"
"""Belongs to another purpose: it has to outlive the withdrawal, and shows that the search would find something."""


def clock() -> float:
    return 1_800_000_000.0


def plant(store: Store) -> Consent:
    """Consent, and the canary in every table that a purpose may have, several times over so that old copies exist too."""
    consent = Consent(store, clock)
    for name in (PERSONAL, "personal-learning"):
        consent.grant(name)
    for turn in range(20):
        store.table("events", purpose=PERSONAL).append({"text": CANARY, "turn": turn})
        store.table("profile", purpose=PERSONAL).put("place", {"value": CANARY, "turn": turn})
    store.table("kept", purpose="personal-learning").put("a", {"text": KEPT})
    return consent


def raw(folder: Path) -> bytes:
    return b"\0".join(
        path.name.encode() + b"\0" + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    )


def decrypted(folder: Path) -> bytes:
    """All that the store in `folder` gives to who has the key; nothing if it does not open."""
    try:
        with Store(folder, key=KEY) as store:
            names = store.describe()["records"]
            tables = [store.table(name, purpose=purpose_of(name)).items() for name in names]
            return json.dumps(tables).encode()
    except StoreError:
        return b""


def purpose_of(table: str) -> str | None:
    return {"events": PERSONAL, "profile": PERSONAL, "kept": "personal-learning"}.get(table)


def with_old_data(old: Path, new: Path, target: Path) -> Path:
    """A copy of `new` in which every file but the key file is put back from `old`: what an image of the disk may hold."""
    shutil.copytree(new, target)
    for path in old.iterdir():
        if path.is_file() and path.name not in ("store.key", "store.lock"):
            shutil.copy(path, target / path.name)
    return target


# -- withdrawal --------------------------------------------------------------------------------------------------------


def test_after_a_withdrawal_nothing_of_the_purpose_is_found_raw_or_decrypted_or_in_old_copies(tmp_path: Path) -> None:
    home, old = tmp_path / "home", tmp_path / "old"
    with Store(home, key=KEY) as store:
        consent = plant(store)
        shutil.copytree(home, old, ignore=shutil.ignore_patterns("store.lock"))
        assert leaks(everything_readable(home), CANARY) != []
        consent.withdraw(PERSONAL)
        # Every box at every place of the bytes, with every key that is left, today's file and yesterday's.
        readable = everything_readable(home, [old / "store.tacit"])
        assert KEPT.encode() in readable
        assert leaks(readable, CANARY) == []
    assert leaks(decrypted(old), CANARY) != []
    shown = decrypted(home)
    assert KEPT.encode() in shown
    assert leaks(shown, CANARY) == []
    # Today's keys, all of them, do not open yesterday's data.
    mixed = decrypted(with_old_data(old, home, tmp_path / "mixed"))
    assert KEPT.encode() in mixed
    assert leaks(mixed, CANARY) == []


UNDONE = ["store.append.before_write", "store.append.half_write"]
DONE = [
    "store.append.after_sync",
    "store.key.after_temp",
    "store.key.after_sync",
    "store.destroy.after_key",
    "store.destroy.half_temp",
    "store.destroy.after_rename",
]
CHILD = """
import os, sys
from edge_client.know.consent import Consent
from edge_client.know.store import Store

with Store(sys.argv[1], key=bytes(range(32))) as store:
    consent = Consent(store, lambda: 1_800_000_000.0)
    os.environ["TACIT_FAULT"] = sys.argv[2]
    consent.withdraw("personalisation")
    print("withdrawn")
"""


@pytest.mark.parametrize("point", [*UNDONE, *DONE])
def test_a_kill_inside_a_withdrawal_leaves_it_undone_or_done_whole(tmp_path: Path, point: str) -> None:
    home, old = tmp_path / "home", tmp_path / "old"
    with Store(home, key=KEY) as store:
        plant(store)
    shutil.copytree(home, old)
    child = [sys.executable, "-c", CHILD, str(home), point]
    found = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (-signal.SIGKILL, ""), found.stderr
    with Store(home, key=KEY) as store:
        consent = Consent(store, clock)
        assert store.table("kept", purpose="personal-learning").get("a") == {"text": KEPT}
        if point in UNDONE:
            assert consent.is_granted(PERSONAL)
            assert len(consent.receipts()) == 2
            assert len(store.table("events", purpose=PERSONAL)) == 20
            return
        assert consent.state(PERSONAL) == "off"
        assert len(consent.receipts()) == 3
        for name in ("events", "profile"):
            assert len(store.table(name, purpose=PERSONAL)) == 0
    assert leaks(decrypted(home), CANARY) == []
    mixed = decrypted(with_old_data(old, home, tmp_path / "mixed"))
    assert KEPT.encode() in mixed
    assert leaks(mixed, CANARY) == []
    with Store(home, key=KEY) as store:
        Consent(store, clock).grant(PERSONAL)
        store.table("events", purpose=PERSONAL).append({"text": "new"})
    with Store(home, key=KEY) as store:
        assert Consent(store, clock).is_granted(PERSONAL)
        assert [entry["text"] for entry in store.table("events", purpose=PERSONAL).entries()] == ["new"]


# -- erasure -----------------------------------------------------------------------------------------------------------


def test_after_an_erasure_nothing_is_found_and_old_copies_of_the_data_stay_shut(tmp_path: Path) -> None:
    home, old = tmp_path / "home", tmp_path / "old"
    device = Device(home)
    device.live()
    plant(device.store)
    device.decisions.record("suggestion", CANARY, [CANARY])
    shutil.copytree(home, old, ignore=shutil.ignore_patterns("store.lock", "store.key"))
    certificate = device.rights.erase()
    assert list(home.iterdir()) == []
    assert decrypted(old) == b""
    assert leaks(raw(old), CANARY) == []
    assert certificate.files_left == 0
    assert certificate.withstood == ()
    assert certificate.records["events"] == 21
    assert certificate.records["decisions"] == 2
    stated = certificate.to_bytes() + json.dumps(certificate.document()).encode()
    for word in (CANARY, KEPT, "lisbon", "surfing", "surfboards", "zip zap"):
        assert leaks(stated, word) == []
    with pytest.raises(StoreClosedError):
        device.rights.export()
    with pytest.raises(StoreClosedError):
        device.rights.erase()


def test_the_trail_outlives_the_erasure_in_the_certificate_and_in_the_hands_of_the_caller(tmp_path: Path) -> None:
    device = Device(tmp_path / "home")
    device.live()
    device.rights.export()
    certificate = device.rights.erase()
    assert [entry["right"] for entry in device.rights.audit()] == ["access", "erasure"]
    read = ErasureCertificate.verify(certificate.to_bytes())
    assert list(read.audit) == device.rights.audit()
    assert read.audit[-1]["counts"]["records"] == sum(certificate.records.values())


def test_a_folder_that_holds_files_of_others_is_told_by_their_number(tmp_path: Path) -> None:
    device = Device(tmp_path / "home")
    (tmp_path / "home" / "holiday in lisbon.jpg").write_bytes(b"not ours")
    certificate = device.rights.erase()
    assert certificate.files_left == 1
    assert b"lisbon" not in certificate.envelope.payload


def plant_in(client: EdgeClient, learned: str = CANARY) -> None:
    """The canary through every way into a whole client, with every consent; `learned` is what the user teaches."""
    for purpose in PURPOSES:
        client.consent.grant(purpose)
    client.feedback(learned, intent="book_hotel")
    client.define_intent("own_intent", [learned, f"{learned} please"])
    client.profile.observe("home_city", CANARY, source="declared", at_s=client.config.clock(), provenance=CANARY)
    client.rights.correct("interests", [CANARY])
    client.capture.receive({"type": "page", "messageId": "m-1", "properties": {"category": CANARY}})
    client.respond(CANARY)
    client.decisions.record("suggestion", CANARY, [CANARY], context={"for": CANARY})


def test_a_client_whose_consents_were_withdrawn_holds_nothing_of_the_user(
    client: EdgeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    plant_in(client, LEARNED)
    home, old = client.store.folder, tmp_path / "old"
    shutil.copytree(home, old, ignore=shutil.ignore_patterns("store.lock"))
    for word in (CANARY, LEARNED):
        assert leaks(everything_readable(home), word) != []
    assert leaks(json.dumps(client.rights.export()).encode(), CANARY) != []
    for purpose in PURPOSES:
        client.consent.withdraw(purpose)
    shown = json.dumps([client.rights.export(), client.inspect()]).encode()
    for moment in ("open", "closed"):
        readable = everything_readable(home)
        assert b"intent-model" in readable
        for word in (CANARY, LEARNED):
            assert leaks(shown + readable + caplog.text.encode(), word) == [], moment
        client.close()
    for word in (CANARY, LEARNED):
        assert leaks(everything_readable(home, [old / "store.tacit"]), word) == []


def test_a_client_that_was_erased_leaves_nothing_but_the_certificate(client: EdgeClient, tmp_path: Path) -> None:
    plant_in(client)
    home, old = client.store.folder, tmp_path / "old"
    shutil.copytree(home, old, ignore=shutil.ignore_patterns("store.lock", "store.key"))
    certificate = client.rights.erase()
    (tmp_path / "certificate.json").write_bytes(certificate.to_bytes())
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert decrypted(old) == b""
    assert leaks(raw(old) + raw(tmp_path), CANARY) == []
    assert ErasureCertificate.verify((tmp_path / "certificate.json").read_bytes()) == certificate
    for call in (client.inspect, client.rights.export, lambda: client.recognize(CANARY)):
        with pytest.raises(StoreClosedError):
            call()


class StubbornKeyring(keyring.backend.KeyringBackend):
    """Keeps what it is given and does not give it up."""

    priority = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        raise keyring.errors.PasswordDeleteError("locked")


def test_what_withstands_an_erasure_is_told_in_the_certificate(tmp_path: Path) -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(StubbornKeyring())
    try:
        device = Device(tmp_path / "home", key=None)
        device.live()
        certificate = device.rights.erase()
    finally:
        keyring.set_keyring(before)
    assert len(certificate.withstood) == 1
    assert "keyring" in certificate.withstood[0]
    assert ErasureCertificate.verify(certificate.to_bytes()).withstood == certificate.withstood
    assert certificate.files_left == 0


# -- the certificate ---------------------------------------------------------------------------------------------------


def issue() -> ErasureCertificate:
    return ErasureCertificate.issue(
        store_id="ab" * 16,
        erased_at_s=1_800_000_000.25,
        records={"events": 3},
        commits=7,
        withstood=(),
        files_left=0,
        audit=[{"at_s": 1.0, "right": "erasure", "purpose": "", "counts": {"records": 3}}],
    )


def test_a_certificate_is_read_back_as_it_was_issued_and_is_signed_by_a_key_of_its_own() -> None:
    one, two = issue(), issue()
    assert ErasureCertificate.verify(one.to_bytes()) == one
    assert one.public_key != two.public_key
    assert one.document()["erased_at"].startswith("2027-01-15T08:00:00")


def test_a_certificate_that_was_altered_anywhere_is_refused() -> None:
    whole = issue().to_bytes()
    for place in range(0, len(whole), 3):
        altered = bytearray(whole)
        altered[place] ^= 1
        with pytest.raises(WireError):
            ErasureCertificate.verify(bytes(altered))


def test_a_certificate_of_another_kind_or_by_another_key_is_refused() -> None:
    import nacl.signing

    certificate, stranger = issue(), nacl.signing.SigningKey.generate()
    with pytest.raises(WireError, match="not by key"):
        ErasureCertificate.verify(
            seal_envelope(certificate.envelope.kind, certificate.envelope.payload, stranger).to_bytes()
        )
    with pytest.raises(WireError):
        ErasureCertificate.verify(
            Envelope(
                "application/other",
                certificate.envelope.payload,
                certificate.envelope.signer,
                certificate.envelope.signature,
            ).to_bytes()
        )


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.just(b'{"payload":"e30="}'))
def test_what_is_no_certificate_gives_one_kind_of_error(content: bytes) -> None:
    with pytest.raises(WireError):
        ErasureCertificate.verify(content)


@pytest.mark.parametrize("wrong", [None, "text", 7, b"x" * (2 << 20)])
def test_what_is_not_even_a_document_is_refused(wrong: bytes) -> None:
    with pytest.raises(TacitError):
        ErasureCertificate.verify(wrong)
