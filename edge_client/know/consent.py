"""The user's consents: off until granted, one switch for each purpose, and a receipt for every change.

A consent counts only while nothing speaks against it: no newer notice, no damage to the store that may have taken a withdrawal
away, no restriction of the purpose, no objection to profiling.
All these keep what was kept and stop its use; a withdrawal erases it, by destroying the purpose's key: in the transaction that
changes the switch, so that a kill leaves both or neither. Nothing here asks the user.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from edge_client.know.audit import (
    OBJECTION,
    OBJECTION_WITHDRAWN,
    RESTRICTION,
    RESTRICTION_LIFTED,
    SIGNAL,
    SIGNAL_WITHDRAWN,
    WITHDRAWAL,
    AuditTrail,
)
from edge_client.know.consent_record import (
    DECLINED,
    GRANTED,
    WITHDRAWN,
    ConsentReceipt,
    ConsentTerms,
    Controller,
    check_version,
    consent_record,
)
from edge_client.know.store import Store
from shared_models.errors import ConfigError
from shared_models.purposes import PURPOSES, find_purpose, notice_sha256

__all__ = ["Consent", "ConsentReceipt", "ConsentTerms", "Controller"]
_log = logging.getLogger(__name__)


class Consent:
    """The switches of one store. Implements `privacy.gate.ConsentSource`."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        on_withdrawal: Mapping[str, Callable[[], None]] | None = None,
        terms: ConsentTerms | None = None,
    ) -> None:
        """`on_withdrawal[purpose]` erases what was kept for a purpose; it runs inside the transaction of the withdrawal.

        `terms`: what the app states with each consent, and the version of the notices in force.
        """
        self._store = store
        self._switches = store.table("consent")
        self._receipts = store.table("consent-receipts")
        self._notices = store.table("consent-notices")
        self._states = store.table("consent-states")
        self._clock = clock
        self._terms = terms or ConsentTerms()
        self._audit = AuditTrail(store, clock)
        self._hooks: dict[str, list[Callable[[], None]]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._unwritten: set[str] = set()
        """Objections that the disk did not take: honoured until this object goes, all the same."""
        for purpose, hook in (on_withdrawal or {}).items():
            self.when_withdrawn(purpose, hook)

    # -- the switch -----------------------------------------------------------------------------------------------

    def grant(self, purpose: str, *, notice_version: int | None = None) -> ConsentReceipt:
        """Allow `purpose` from now on; granting again renews it (a looser policy asks for that).

        `notice_version`: what the user saw; None for the notice in force. Lifts neither a restriction nor an objection.
        Raises ConfigError, among others for a notice older than the one in force; StoreWriteError.
        """
        return self._change(purpose, GRANTED, notice_version)

    def withdraw(self, purpose: str) -> ConsentReceipt:
        """Forbid `purpose` from now on, and erase what was kept for it. What was contributed cannot be called back.

        Raises ConfigError, StoreWriteError: then the consent stands, or (`is_granted` says so) it is withdrawn and only the key
        of what was erased could not be destroyed, which the next withdrawal or the next opening does.
        """
        return self._change(purpose, WITHDRAWN, None)

    def decline(self, purpose: str, *, notice_version: int | None = None) -> ConsentReceipt:
        """Note that the user was asked and did not allow `purpose`, so that nobody asks again. Erases like a withdrawal."""
        return self._change(purpose, DECLINED, notice_version)

    def when_withdrawn(self, purpose: str, hook: Callable[[], None]) -> None:
        """Let `hook` erase more when `purpose` is withdrawn or declined: inside the transaction, after the earlier hooks.

        If it raises, nothing was withdrawn. Raises ConfigError.
        """
        self._hooks.setdefault(find_purpose(purpose).name, []).append(hook)

    def when_narrowed(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each withdrawal, restriction, objection, `Sec-GPC` and erasure: for words kept in memory alone.

        It runs when that was committed, or could not be: what it raises is logged. Returns what takes it away again.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def tell_narrowed(self) -> None:
        """Call those listeners: for whoever erases everything past this object."""
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception as error:  # noqa: BLE001
                # The user's word stands, whatever somebody makes of it.
                _log.warning("a listener to consents failed: %s", type(error).__name__)

    # -- what counts now ------------------------------------------------------------------------------------------

    def was_asked(self, purpose: str) -> bool:
        """True if the user has decided about `purpose`; False again when the consent has become stale."""
        return self.state(purpose) not in ("unasked", "stale")

    def is_granted(self, purpose: str) -> bool:
        """True if `purpose` may be pursued now. Raises ConfigError for a purpose that does not exist."""
        return self.state(purpose) == "granted"

    def granted_since(self, purpose: str) -> float | None:
        """Unix time of the consent in force; None if there is none, or if something speaks against it now."""
        return self.given_since(purpose) if self.state(purpose) == "granted" else None

    def given_since(self, purpose: str) -> float | None:
        """Unix time of the consent that was given and not withdrawn, whether or not it counts now; None if there is none."""
        switch = self._switches.glance(find_purpose(purpose).name)
        return float(switch["since_s"]) if switch is not None and switch["granted"] else None

    def state(self, purpose: str) -> str:
        """`granted`; `unasked`; `off` (declined or withdrawn); or given but not counting: `stale`, `restricted`, `objected`."""
        asked = find_purpose(purpose)
        with self._store.lock:
            switch = self._switches.glance(asked.name)
            if switch is None:
                return "unasked"
            if not switch["granted"]:
                return "off"
            if int(switch["notice_version"]) < self._terms.notice_version or switch.get("losses", 0) != self._losses():
                return "stale"
            if f"restricted/{asked.name}" in self._states:
                return "restricted"
            return "objected" if asked.profiling and self.objects_to_profiling else "granted"

    @property
    def objects_to_profiling(self) -> bool:
        """True while the user objects to profiling, or after `Sec-GPC: 1`: no profiling purpose counts as granted."""
        state = self._states.glance("objection")
        return bool(self._unwritten) or (state is not None and bool(state["by_user"] or state["by_signal"]))

    # -- what speaks against it -----------------------------------------------------------------------------------

    def restrict(self, purpose: str) -> None:
        """Keep what was kept for `purpose`, but do not use it (GDPR, article 18), until `lift`. Twice is fine."""
        name = find_purpose(purpose).name
        try:
            with self._store.transaction():
                if f"restricted/{name}" not in self._states:
                    self._states.put(f"restricted/{name}", {"since_s": float(self._clock())})
                    self._audit.note(RESTRICTION, purpose=name)
        finally:
            self.tell_narrowed()

    def lift(self, purpose: str) -> None:
        """End a restriction: the consent that was given before counts again. Without one nothing happens."""
        name = find_purpose(purpose).name
        with self._store.transaction():
            if self._states.delete(f"restricted/{name}"):
                self._audit.note(RESTRICTION_LIFTED, purpose=name)

    def object_to_profiling(self) -> None:
        """The user objects (GDPR, article 21): from now on no profiling purpose counts as granted. Twice is fine.

        Raises StoreWriteError; then the objection is honoured until the app ends, but not remembered.
        """
        self._set_objection("by_user", True, OBJECTION)

    def withdraw_objection(self) -> None:
        """The user no longer objects: consents that were not withdrawn meanwhile count again, unless `Sec-GPC` stands."""
        self._set_objection("by_user", False, OBJECTION_WITHDRAWN)

    def signal_gpc(self, on: bool) -> None:
        """Global Privacy Control: `Sec-GPC: 1` was received (True), or the user has switched the signal off (False).

        Durable. A request without the header says nothing and must not be passed on as False. Raises ConfigError, and
        StoreWriteError; then the signal is honoured until the app ends, but not remembered.
        """
        if not isinstance(on, bool):
            raise ConfigError(f"signal_gpc takes True or False, got {str(on)[:60]!r}")
        self._set_objection("by_signal", on, SIGNAL if on else SIGNAL_WITHDRAWN)

    # -- evidence -------------------------------------------------------------------------------------------------

    def receipts(self) -> list[ConsentReceipt]:
        """Every change, oldest first."""
        return [ConsentReceipt.from_document(document) for document in self._receipts.entries()]

    def records(self) -> list[dict[str, Any]]:
        """One consent record for each purpose that was ever decided about, in the structure of ISO/IEC TS 27560:2023."""
        by_purpose: dict[str, list[ConsentReceipt]] = {}
        for receipt in self.receipts():
            by_purpose.setdefault(receipt.purpose, []).append(receipt)
        return [consent_record(receipts) for receipts in by_purpose.values()]

    def notices(self) -> dict[str, str]:
        """The texts that receipts refer to: their SHA-256 → the text."""
        return {digest: str(notice["text"]) for digest, notice in self._notices.items()}

    def document(self) -> dict[str, Any]:
        """All switches as plain JSON."""
        return {
            name: {
                "title": purpose.title,
                "description": purpose.description,
                "granted": self.is_granted(name),
                "since_s": self.granted_since(name),
                "state": self.state(name),
            }
            for name, purpose in PURPOSES.items()
        }

    # -- inside ---------------------------------------------------------------------------------------------------

    def _change(self, name: str, action: str, notice_version: int | None) -> ConsentReceipt:
        try:
            return self._changed(name, action, notice_version)
        finally:
            if action != GRANTED:
                self.tell_narrowed()

    def _changed(self, name: str, action: str, notice_version: int | None) -> ConsentReceipt:
        purpose = find_purpose(name)
        version = self._terms.notice_version if notice_version is None else notice_version
        check_version(version)
        if action == GRANTED and version < self._terms.notice_version:
            raise ConfigError(
                f"notice_version is {version}, but version {self._terms.notice_version} is in force: show that one"
            )
        with self._store.transaction():
            receipt = self._receipt(purpose.name, action, version)
            switch = {
                "granted": action == GRANTED,
                "since_s": receipt.at_s,
                "notice_version": version,
                "losses": self._losses(),
            }
            self._switches.put(purpose.name, switch)
            self._receipts.put(f"{receipt.number:08d}", receipt.document())
            if action != GRANTED:
                self._states.delete(f"restricted/{purpose.name}")
                for hook in self._hooks.get(purpose.name, ()):
                    hook()
                self._store.destroy_purpose(purpose.name)
            if action == WITHDRAWN:
                self._audit.note(WITHDRAWAL, purpose=purpose.name)
        return receipt

    def _receipt(self, purpose: str, action: str, version: int) -> ConsentReceipt:
        """A new receipt; with it the text of the notice is kept, once."""
        digest = ""
        if version == self._terms.notice_version:
            text = self._terms.notice(purpose)
            digest = notice_sha256(text)
            if digest not in self._notices:
                self._notices.put(digest, {"text": text})
        return ConsentReceipt(
            # Not their number: damage may have taken one from the middle.
            number=1 + max(map(int, self._receipts.keys()), default=0),
            purpose=purpose,
            action=action,
            at_s=float(self._clock()),
            notice_version=version,
            notice_sha256=digest,
            notice_reference=self._terms.notice_reference,
            language=self._terms.language,
            retention=self._terms.retention,
            record_id=self._random_id(f"record/{purpose}"),
            principal_id=self._random_id("principal"),
            data=PURPOSES[purpose].data,
            recipients=PURPOSES[purpose].recipients,
            controllers=tuple(dict(party.__dict__) for party in self._terms.controllers),
        )

    def _losses(self) -> int:
        """How many commits the store has lost to damage, if a withdrawal may have been among them."""
        return int(self._store.describe()["quarantine"]["commits"]) if self._store.quarantined else 0

    def _random_id(self, key: str) -> str:
        """The identifier under `key`, made at the first call: random, so that it says nothing about anybody."""
        known = self._states.get(key)
        if known is None:
            known = {"id": str(uuid.uuid4())}
            self._states.put(key, known)
        return str(known["id"])

    def _set_objection(self, who: str, on: bool, right: str) -> None:
        changed = False
        try:
            with self._store.lock:
                state = self._states.get("objection") or {"by_user": False, "by_signal": False}
                changed = state[who] != on
                self._write_objection(state, who, on, right)
        finally:
            if on and (changed or who == "by_user"):
                self.tell_narrowed()

    def _write_objection(self, state: Mapping[str, Any], who: str, on: bool, right: str) -> None:
        with self._store.lock:
            if state[who] != on:
                # A browser sends the signal with every request: only a change is written.
                self._unwritten |= {who} if on else set()
                with self._store.transaction():
                    self._states.put("objection", {**state, who: on})
                    self._audit.note(right)
            self._unwritten.discard(who)
