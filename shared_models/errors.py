"""Every error that Tacit raises on purpose. Catch `TacitError` to catch them all.

TacitError
├── InputError                 something a caller passed cannot be used (also a ValueError)
│   ├── TextError              not text, too long
│   ├── SignalError            an interaction of the user with an item cannot be used
│   ├── UnknownIntentError     no such intent in this model and not one of the user's own
│   ├── UnknownDecisionError   no such decision here, or not any more
│   ├── DecisionError          features, rewards or probabilities that nothing can be decided or learned from
│   ├── RowsError              rows of an import that cannot be used; one message per row and field in `rows`
│   ├── CaptureError           an event or a value is not what the schema allows; one message per field in `fields`
│   └── ConfigError            an option or a configuration file cannot be used
├── CaptureBusyError           too many events at once: send this one again a little later
├── ConnectorError             a source of the user's data could not be read; nothing of that reading was kept
│   ├── ConnectorUnavailableError  it does not answer, or asks to come back later (`retry_after_s`)
│   ├── ConnectorRefusedError  it does not accept the token
│   └── ConnectorDataError     what came is malformed, too large, or leads to another host
├── DomainError                a domain folder cannot be used; says file and field
│   └── SensitiveError         names as a feature what is never inferred about a user (sensitive.yaml)
├── ModelError                 a model file cannot be used
│   ├── ModelMissingError      there is no model yet; says which command makes one
│   └── ModelDamagedError      bytes do not match their hash, or do not load
├── BundleError                a published bundle was not accepted
│   ├── BundleUnavailableError nothing to be had at that address
│   │   └── BundleExpiredError only what its publisher no longer vouches for
│   ├── BundleTamperedError    signature, hash or length wrong
│   ├── BundleRollbackError    older than what this device has already accepted
│   └── TrustError             no trust anchor, or another one than the pinned one
├── StoreError                 the encrypted store
│   ├── WrongKeyError          the key does not open this store
│   ├── KeyUnavailableError    no keyring on this system, or no entry in it for this store
│   ├── StoreDamagedError      bytes changed or cut
│   ├── StoreRolledBackError   an older copy of the store was put in place
│   ├── StoreLockedError       another process has it open
│   ├── StoreSchemaError       written by a newer version
│   ├── StoreWriteError        disk full, read-only; nothing committed was lost
│   └── StoreClosedError       used after close() or forget()
├── WireError                  a message or a signed envelope is malformed
│   └── SignatureError         signature missing, wrong, or by a key that is not trusted for this
├── RefusedError               the device will not contribute; the reason stays on the device
│   ├── ConsentError           no consent for this purpose
│   ├── PolicyError            no policy, not valid, or the plan exceeds it
│   │   ├── PolicyExpiredError
│   │   └── HaltedError        the officer has stopped contributions
│   ├── CertificateError       no enrolment certificate, or one that is not in force, not for this device or not signed
│   ├── BudgetExceededError    the budget of rho or of participations does not allow it
│   ├── MemoryLostError        the device's own record of what it has spent may have been lost to damage
│   └── ReplayError            this round was already answered, or reserved and lost in a crash
├── ContributionError          a contribution has the wrong shape, type or range
│   └── NotTrainedError        the schedule did not allow training, or the user came back: zeros go out instead
├── LedgerError                the ledger is damaged, was altered, or cannot be accounted
├── CheckpointError            the aggregator's state cannot be used
├── SecureSumError             a message of the secure sum is not what the protocol allows; the device reveals nothing
├── RoundError                 a round could not be run
│   └── TooFewSurvivorsError   fewer than n_min answered: nothing was released
├── ContextFeedError           a source of weather, holidays or events failed, or said what cannot be used
├── LocalModelError            the language model beside the app was refused, did not answer, or said what the data does not
├── SidecarError               a call to the local service was not accepted; `status` is what HTTP says to it
│   ├── AccessError            token, host, origin, session or scope
│   ├── ParameterError         a parameter of the OpenAI-compatible chat is wrong, or cannot be honoured; `param` says which
│   └── LimitError             larger or faster than the service accepts
├── AgentError                 the training process of a device failed
└── FleetError                 the link to the aggregator failed or was refused
    ├── FleetRefusedError      this key or certificate is not accepted; retrying does not help
    └── FleetLimitError        a message or object is larger than this device accepts
"""

from __future__ import annotations

from collections.abc import Mapping


class TacitError(Exception):
    """The root. Its message says what was wrong, what was expected and what to do."""


class InputError(TacitError, ValueError): ...


class TextError(InputError): ...


class SignalError(InputError): ...


class UnknownIntentError(InputError): ...


class UnknownDecisionError(InputError): ...


class DecisionError(InputError): ...


class CaptureError(InputError):
    def __init__(self, fields: Mapping[str, str]) -> None:
        """`fields`: name of a field of the event -> what is wrong with it, in words."""
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in fields.items()))
        self.fields: dict[str, str] = dict(fields)


class RowsError(InputError):
    def __init__(self, rows: Mapping[int, Mapping[str, str]], total: int) -> None:
        """`rows`: number of the row (from 1, the header not counted) -> field -> what is wrong; `total` rows have errors."""
        shown = "; ".join(f"row {n}, {name}: {what}" for n, row in list(rows.items())[:5] for name, what in row.items())
        super().__init__(f"{total} of the rows cannot be used, so nothing was imported: {shown}")
        self.rows: dict[int, dict[str, str]] = {number: dict(row) for number, row in rows.items()}
        self.total = total


class ConfigError(InputError): ...


class CaptureBusyError(TacitError): ...


class ConnectorError(TacitError): ...


class ConnectorUnavailableError(ConnectorError):
    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: seconds after which the server said to come back; None if it did not say."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConnectorRefusedError(ConnectorError): ...


class ConnectorDataError(ConnectorError):
    def __init__(self, message: str, status: int | None = None) -> None:
        """`status`: the HTTP status, if it was one that says that this request will never do."""
        super().__init__(message)
        self.status = status


class DomainError(TacitError): ...


class SensitiveError(DomainError): ...


class ModelError(TacitError): ...


class ModelMissingError(ModelError): ...


class ModelDamagedError(ModelError): ...


class BundleError(TacitError): ...


class BundleUnavailableError(BundleError): ...


class BundleExpiredError(BundleUnavailableError): ...


class BundleTamperedError(BundleError): ...


class BundleRollbackError(BundleError): ...


class TrustError(BundleError): ...


class StoreError(TacitError): ...


class WrongKeyError(StoreError): ...


class KeyUnavailableError(StoreError): ...


class StoreDamagedError(StoreError): ...


class StoreRolledBackError(StoreError): ...


class StoreLockedError(StoreError): ...


class StoreSchemaError(StoreError): ...


class StoreWriteError(StoreError): ...


class StoreClosedError(StoreError): ...


class WireError(TacitError): ...


class SignatureError(WireError): ...


class RefusedError(TacitError): ...


class ConsentError(RefusedError): ...


class PolicyError(RefusedError): ...


class PolicyExpiredError(PolicyError): ...


class HaltedError(PolicyError): ...


class CertificateError(RefusedError): ...


class BudgetExceededError(RefusedError): ...


class MemoryLostError(RefusedError): ...


class ReplayError(RefusedError): ...


class ContributionError(TacitError): ...


class NotTrainedError(ContributionError): ...


class LedgerError(TacitError): ...


class CheckpointError(TacitError): ...


class SecureSumError(TacitError): ...


class RoundError(TacitError): ...


class TooFewSurvivorsError(RoundError): ...


class ContextFeedError(TacitError): ...


class LocalModelError(TacitError): ...


class SidecarError(TacitError):
    def __init__(self, message: str, status: int, retry_after_s: float | None = None) -> None:
        """`status`: of HTTP, 4xx. `retry_after_s`: when to try again, if that helps."""
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class AccessError(SidecarError): ...


class ParameterError(SidecarError):
    param: str = ""
    code: str = "invalid_value"

    def __init__(self, param: str, message: str, code: str = "invalid_value", status: int = 400) -> None:
        """`param`: where it stands in the request (`messages[2].content`); `code`: OpenAI's short word for what is wrong."""
        super().__init__(f"{param}: {message}", status)
        self.param = param
        self.code = code


class LimitError(SidecarError): ...


class AgentError(TacitError): ...


class FleetError(TacitError): ...


class FleetRefusedError(FleetError): ...


class FleetLimitError(FleetError): ...
