"""`tacit-privacy`: what the privacy officer types. Works offline, on files."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nacl.signing

from privacy.enrolment import REST_DAYS, EnrolmentRegister
from privacy.keys import fingerprint, load_public_key, load_signing_key, new_key_pair
from privacy.ledger import read_entries
from privacy.policy import Policy, parse_policy, sign_policy
from privacy.policy_role import sign_policy_role
from privacy.policy_text import (
    DEFAULT_SHARES,
    HEAD_PURPOSE,
    PAIRED_ITEMS,
    PolicyDraft,
    default_shares,
    draft_policy,
    explain_policy,
    halt_text,
)
from privacy.report_page import render_html
from privacy.reports import build_report, read_ledger, verify_ledger
from shared_models.canonical import Envelope
from shared_models.errors import ConfigError, LedgerError, PolicyError, TacitError
from shared_models.wire import MODE_DISTRIBUTED, MODE_TRUSTED

Command = Callable[[argparse.Namespace], int]


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the ledger does not hold, 2 the call cannot be taken."""
    options = _parser().parse_args(arguments)
    try:
        run: Command = options.run
        return run(options)
    except TacitError as error:
        print(f"tacit-privacy: {_printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 1 if isinstance(error, LedgerError) else 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tacit-privacy", description="Privacy officer: keys, policy, ledger, report.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    keys = commands.add_parser("keys", help="make key pairs").add_subparsers(required=True, metavar="new")
    new = keys.add_parser("new", help="make an Ed25519 key pair NAME.key, NAME.pub")
    new.add_argument("name")
    new.add_argument("--dir", type=Path, default=Path("."))
    new.set_defaults(run=_keys_new)

    policy = commands.add_parser("policy", help="draft, explain, sign, halt").add_subparsers(
        required=True, metavar="DO"
    )
    init = policy.add_parser("init", help="draft a policy from a wish in epsilon")
    init.add_argument("--fleet", required=True)
    init.add_argument("--aggregator", type=Path, required=True, metavar="AGGREGATOR.pub")
    init.add_argument("--epsilon", type=float, default=4.0)
    init.add_argument("--participations", type=int, default=8, help="of one device within the period")
    init.add_argument("--population", type=int, required=True, help="enrolled users (sets delta)")
    init.add_argument("--min-survivors", type=int, required=True, help="below this nothing is released")
    init.add_argument("--period-days", type=int, default=90)
    init.add_argument("--separation-s", type=int, default=0)
    init.add_argument("--valid-days", type=int, default=14)
    init.add_argument(
        "--mode",
        choices=(MODE_DISTRIBUTED, MODE_TRUSTED),
        default=MODE_DISTRIBUTED,
        help="the only mode that devices accept",
    )
    init.add_argument(
        "--enrolment-key", type=Path, metavar="ENROLMENT.pub", help="of the authority that certifies devices"
    )
    init.add_argument("--colluding-share", type=float, default=0.1, help="of a cohort, assumed to collude (gamma)")
    init.add_argument(
        "--purpose",
        action="append",
        default=[],
        metavar="NAME[=PART]",
        help=f"divide the budget: {', '.join(DEFAULT_SHARES)}, each with its part of rho, or none with a part "
        f"(default: {HEAD_PURPOSE} alone)",
    )
    init.add_argument(
        "--all-purposes", action="store_true", help="all of them, in parts that the draft shows and explains"
    )
    init.add_argument(
        "--catalogue-items", type=int, default=PAIRED_ITEMS, help="how many items can be liked (preference-model)"
    )
    init.add_argument("--out", type=Path, default=Path("policy.yaml"))
    init.set_defaults(run=_policy_init)
    explain = policy.add_parser("explain", help="say what a policy allows (draft or signed)")
    explain.add_argument("file", type=Path)
    explain.add_argument("--officer", type=Path, metavar="OFFICER.pub", help="check the signature with this key")
    explain.set_defaults(run=_policy_explain)
    sign = policy.add_parser("sign", help="sign a draft with the officer's key")
    sign.add_argument("file", type=Path)
    sign.add_argument("--key", type=Path, required=True, metavar="OFFICER.key")
    sign.add_argument("--out", type=Path, default=Path("policy.signed.json"))
    sign.set_defaults(run=_policy_sign)
    halt = policy.add_parser("halt", help="sign a newer policy that stops all contributions")
    halt.add_argument("file", type=Path, help="the signed policy in force")
    halt.add_argument("--key", type=Path, required=True, metavar="OFFICER.key")
    halt.add_argument("--reason", required=True)
    halt.add_argument("--out", type=Path, default=Path("policy.halt.json"))
    halt.set_defaults(run=_policy_halt)

    enrolment = commands.add_parser(
        "enrolment", help="certify devices; with a key that operators do not hold"
    ).add_subparsers(required=True, metavar="DO")
    authority = enrolment.add_parser("keys", help="make an authority: its key pair and its register")
    authority.add_argument("authority", type=Path, metavar="DIR")
    authority.set_defaults(run=_enrolment_keys)
    certify = enrolment.add_parser("certify", help="certify the device of a user: one per user and period")
    certify.add_argument("--authority", type=Path, required=True, metavar="DIR")
    certify.add_argument("--fleet", required=True)
    certify.add_argument(
        "--user", required=True, help="a reference that is unique to a person; only a salted hash is kept"
    )
    certify.add_argument("--identity", type=Path, required=True, metavar="DEVICE.pub")
    certify.add_argument("--days", type=int, default=90)
    certify.add_argument(
        "--rest-days",
        type=int,
        default=REST_DAYS,
        help=f"before another device of the same user; no less than the policy's period_days (default: {REST_DAYS})",
    )
    certify.add_argument("--out", type=Path, required=True)
    certify.set_defaults(run=_enrolment_certify)
    listing = enrolment.add_parser("list", help="list the certificates of an authority")
    listing.add_argument("--authority", type=Path, required=True, metavar="DIR")
    listing.set_defaults(run=_enrolment_list)

    ledger = commands.add_parser("ledger", help="show or verify a ledger").add_subparsers(required=True, metavar="DO")
    for name, function, what in (
        ("show", _ledger_show, "list the entries"),
        ("verify", _ledger_verify, "check chain, signatures and arithmetic"),
    ):
        command = ledger.add_parser(name, help=what)
        command.add_argument("ledger", type=Path)
        command.add_argument("--officer", type=Path, metavar="OFFICER.pub")
        command.set_defaults(run=function)
    report = commands.add_parser("report", help="write the privacy report from a ledger alone")
    report.add_argument("ledger", type=Path)
    report.add_argument("--officer", type=Path, metavar="OFFICER.pub")
    report.add_argument("--html", type=Path)
    report.add_argument("--json", type=Path)
    report.set_defaults(run=_report)
    return parser


def _keys_new(options: argparse.Namespace) -> int:
    secret, public = new_key_pair(options.dir, options.name)
    print(f"{secret}  keep it where only you can read it\n{public}  fingerprint {fingerprint(load_public_key(public))}")
    return 0


def _policy_init(options: argparse.Namespace) -> int:
    if options.out.exists():
        raise ConfigError(f"{options.out}: exists already")
    if (options.mode == MODE_DISTRIBUTED) != (options.enrolment_key is not None):
        raise ConfigError(
            f"mode {MODE_DISTRIBUTED}, the default, needs --enrolment-key ENROLMENT.pub (`tacit-privacy enrolment keys DIR` "
            f"makes one); mode {MODE_TRUSTED} takes none, and there the aggregator sees each device's vector"
        )
    text = draft_policy(
        PolicyDraft(
            fleet=options.fleet,
            aggregator_key=load_public_key(options.aggregator),
            epsilon=options.epsilon,
            participations=options.participations,
            population=options.population,
            min_survivors=options.min_survivors,
            separation_s=options.separation_s,
            period_days=options.period_days,
            valid_days=options.valid_days,
            colluding_share=options.colluding_share,
            enrolment_key=load_public_key(options.enrolment_key) if options.enrolment_key else None,
            shares=_shares(options),
            catalogue_items=options.catalogue_items,
        )
    )
    # A draft that could not be signed is no draft.
    _parse_unsigned(text)
    write_atomically(options.out, text.encode())
    print(f"{options.out}  read it, change it, then: tacit-privacy policy sign {options.out} --key OFFICER.key")
    return 0


def _shares(options: argparse.Namespace) -> dict[str, float] | None:
    if options.all_purposes and options.purpose:
        raise ConfigError("--all-purposes names all purposes: give it, or --purpose, not both")
    if options.all_purposes:
        return dict(DEFAULT_SHARES)
    if not options.purpose:
        return None
    named = [text.partition("=") for text in options.purpose]
    if len({name for name, _, _ in named}) != len(named):
        raise ConfigError("a purpose stands twice")
    if not any(equals for _, equals, _ in named):
        return default_shares([name for name, _, _ in named])
    try:
        return {name: float(part) for name, _, part in named}
    except ValueError as error:
        raise ConfigError(
            "each --purpose takes a part of the budget, as in preference-model=0.3, or none does"
        ) from error


def _policy_explain(options: argparse.Namespace) -> int:
    raw = _read(options.file)
    if raw.lstrip().startswith(b"{"):
        envelope = Envelope.from_bytes(raw)
        if options.officer is None:
            print("Signed, but not checked: give --officer OFFICER.pub to check the signature.")
            policy = _parse_unsigned(envelope.payload.decode("utf-8", "replace"))
        else:
            key = load_public_key(options.officer)
            policy = parse_policy(envelope, key)
            print(f"Signed by the officer's key {fingerprint(key)}.")
    else:
        print("A draft: not signed yet.")
        policy = _parse_unsigned(raw.decode("utf-8", "replace"))
    print("\n".join(map(_printable, explain_policy(policy))))
    return 0


def _policy_sign(options: argparse.Namespace) -> int:
    text = _read(options.file).decode("utf-8", "replace")
    return _write_signed(text, load_signing_key(options.key), options.out)


def _policy_halt(options: argparse.Namespace) -> int:
    key = load_signing_key(options.key)
    current = Envelope.from_bytes(_read(options.file))
    parse_policy(current, bytes(key.verify_key))
    return _write_signed(halt_text(current.payload.decode(), options.reason), key, options.out)


def role_path(signed: Path) -> Path:
    """Where the officer's bundle metadata lies beside a signed policy."""
    return signed.with_name(f"{signed.stem}.role.json")


def sign_for_fleet(text: str, key: nacl.signing.SigningKey) -> tuple[Envelope, bytes]:
    """The signed policy, and the officer's metadata of the bundle's role `privacy-policy` for it. Raises PolicyError."""
    envelope = sign_policy(text, key)
    policy = parse_policy(envelope, bytes(key.verify_key))
    expires = datetime.fromtimestamp(policy.expires_s, UTC)
    return envelope, sign_policy_role(key, envelope.to_bytes(), policy.sequence, expires)


def _write_signed(text: str, key: nacl.signing.SigningKey, out: Path) -> int:
    envelope, role = sign_for_fleet(text, key)
    write_atomically(role_path(out), role)
    write_atomically(out, envelope.to_bytes())
    print(
        f"{out}\n{role_path(out)}\nsigned by {envelope.signer}; both go to the central team: tacit-fleet policy FLEET {out}"
    )
    return 0


def _enrolment_keys(options: argparse.Namespace) -> int:
    register = EnrolmentRegister.create(options.authority)
    print(
        f"{options.authority}  keep it where only the enrolment authority can read it\n"
        f"{options.authority / 'enrolment.pub'}  fingerprint {fingerprint(register.public_key)}, goes into the policy"
    )
    return 0


def _enrolment_certify(options: argparse.Namespace) -> int:
    register = EnrolmentRegister(options.authority)
    identity = load_public_key(options.identity)
    certificate = register.certify(options.fleet, options.user, identity, time.time(), options.days, options.rest_days)
    write_atomically(options.out, certificate.to_bytes())
    print(f"{options.out}  in force until {_minute(certificate.not_after_s)}, for device {fingerprint(identity)}")
    return 0


def _enrolment_list(options: argparse.Namespace) -> int:
    for user, certificate in EnrolmentRegister(options.authority).entries():
        times = f"{_minute(certificate.not_before_s)} to {_minute(certificate.not_after_s)}"
        print(
            f"{times}  user {user[:16]}  device {fingerprint(certificate.identity_key)}  {_printable(certificate.fleet)}"
        )
    return 0


def _minute(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _ledger_show(options: argparse.Namespace) -> int:
    for _, entry in read_entries(_ledger_lines(options)):
        time = datetime.fromtimestamp(entry.time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
        facts = {
            name: value
            for name, value in entry.body.items()
            if isinstance(value, int | float | str) and len(str(value)) <= 80
        }
        # Nothing is verified yet, and a terminal obeys control characters: JSON escapes them all.
        print(f"{entry.index:5d}  {time}  {json.dumps(entry.kind[:40]):<14} {json.dumps(facts)}")
    return _ledger_verify(options)


def _ledger_verify(options: argparse.Namespace) -> int:
    ledger = verify_ledger(_ledger_lines(options), _trusted_key(options))
    trusted = "the trusted officer's key" if options.officer else "the officer's key that it names itself"
    print(
        f"{len(ledger.entries)} entries hold: chain, signatures, arithmetic. Policy by {trusted}: "
        f"{fingerprint(ledger.officer_key)}. Last entry {ledger.head[:16]}."
    )
    return 0


def _report(options: argparse.Namespace) -> int:
    report = build_report(_ledger_lines(options), _trusted_key(options))
    if options.html:
        write_atomically(options.html, render_html(report).encode())
        print(options.html)
    if options.json:
        write_atomically(options.json, (json.dumps(report, indent=2) + "\n").encode())
        print(options.json)
    if not options.html and not options.json:
        print(json.dumps(report, indent=2))
    return 0


def _ledger_lines(options: argparse.Namespace) -> list[bytes]:
    if not options.ledger.is_file():
        raise ConfigError(f"{options.ledger}: no such file")
    return read_ledger(options.ledger)


def _trusted_key(options: argparse.Namespace) -> bytes | None:
    return load_public_key(options.officer) if options.officer else None


def _printable(text: str) -> str:
    """Text of a file that somebody else wrote, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _parse_unsigned(text: str) -> Policy:
    """Parse a draft by signing it with a key that is thrown away: one parser, one set of checks."""
    throwaway = nacl.signing.SigningKey.generate()
    return parse_policy(sign_policy(text, throwaway), bytes(throwaway.verify_key))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing. Raises ConfigError."""
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
