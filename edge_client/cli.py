"""`tacit-device`: what the user of a device types. Every TacitError becomes one line; nothing here decides anything.

Commands stand in the table COMMANDS; those of edge_client/share are loaded only when they are called.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_client.platform import default_home
from shared_models.errors import ConfigError, KeyUnavailableError, StoreError, TacitError, TextError
from shared_models.purposes import PURPOSES

if TYPE_CHECKING:
    from edge_client.client import EdgeClient
    from edge_client.know.store.keys import KeySource
    from shared_models.profile import ProfileSchema

PASSPHRASE_VARIABLE = "TACIT_PASSPHRASE"
MAX_SECRET_FILE_BYTES = 4096


@dataclass(frozen=True)
class Command:
    """One subcommand: `module` has `arguments_NAME(parser)` and `run_NAME(options) -> exit code`."""

    name: str
    help: str
    module: str = __name__

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        getattr(importlib.import_module(self.module), f"arguments_{self.name}")(parser)

    def run(self, options: argparse.Namespace) -> int:
        code: int = getattr(importlib.import_module(self.module), f"run_{self.name}")(options)
        return code


COMMANDS = (
    Command("chat", "talk to the assistant"),
    Command("inspect", "show all that is known and kept about you"),
    Command("consent", "show, grant or withdraw what the assistant may do"),
    Command("export", "save all that is kept about you, for other programs to read", "edge_client.rights_cli"),
    Command("forget", "erase everything about you on this device"),
    Command("doctor", "check key, store, bundle, disk and clock"),
    Command(
        "serve", "let apps on this device use the assistant, and open the privacy centre", "edge_client.sidecar.cli"
    ),
    Command("enrol", "join a fleet: make this device's key for it", "edge_client.share.cli"),
    Command("certificate", "keep the enrolment authority's certificate for this device", "edge_client.share.cli"),
    Command("agent", "take part in federated rounds until stopped", "edge_client.share.cli"),
    Command("shared", "show what left this device, and what it cost", "edge_client.share.cli"),
    Command("schedule", "show, pause or resume learning for others", "edge_client.share.schedule_cli"),
    Command("nightly", "learn now what is learned at night, show it, or take it back", "edge_client.improve.cli"),
    Command("delivery", "show, stop or restore what the assistant says by itself", "edge_client.delivery_cli"),
)


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 trouble found by `doctor`, 2 the call could not be carried out, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        options = _parser(given).parse_args(given)
        command: Command = options.command
        return command.run(options)
    except TacitError as error:
        print(f"tacit-device: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; without this Python complains when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser(given: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tacit-device", description="Your assistant on this device.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = common_options()
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help, parents=[shared])
        sub.set_defaults(command=command)
        if command.module == __name__ or command.name in given:
            command.arguments(sub)
    return parser


def common_options() -> argparse.ArgumentParser:
    """Where the device lives, what opens it, where its model comes from."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--home", type=Path, help="the device's folder (default: in this user's data folder)")
    shared.add_argument("--bundle", help="folder or URL of a bundle; needed once")
    shared.add_argument("--trust", type=Path, help="the fleet's trust.json, for the first time from a URL")
    shared.add_argument("--schema", type=Path, metavar="FILE", help="what the app may know, in YAML; needed once")
    shared.add_argument("--passphrase-file", type=Path, metavar="FILE", help=f"or set {PASSPHRASE_VARIABLE}")
    shared.add_argument("--key-file", type=Path, metavar="FILE", help="a key of 32 bytes, raw or as 64 hex digits")
    return shared


# -- what several commands need ----------------------------------------------------------------------------------------


def home_of(options: argparse.Namespace) -> Path:
    return options.home if options.home is not None else default_home()


def key_of(options: argparse.Namespace) -> bytes | str | KeySource | None:
    """The key that the call names; else the system's keyring; else a passphrase, asked for at a terminal.

    Raises ConfigError, KeyUnavailableError.
    """
    if options.key_file is not None and options.passphrase_file is not None:
        raise ConfigError("give --key-file or --passphrase-file, not both")
    if options.key_file is not None:
        return _raw_key(options.key_file)
    if options.passphrase_file is not None:
        try:
            return _secret(options.passphrase_file).decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{options.passphrase_file}: a passphrase is text in UTF-8") from error
    if PASSPHRASE_VARIABLE in os.environ:
        return os.environ[PASSPHRASE_VARIABLE]
    return _keyring_or_prompt(home_of(options))


def _keyring_or_prompt(home: Path) -> str | None:
    from edge_client.know.store.keys import keyring_available, stored_kind

    kind = stored_kind(home)
    if kind == "raw":
        raise KeyUnavailableError("this store was made with a raw key: give --key-file FILE")
    if kind == "keyring" or (kind is None and keyring_available()):
        return None
    if not sys.stdin.isatty():
        raise KeyUnavailableError(
            f"no key: this system offers no keyring or the store has a passphrase; give --passphrase-file FILE, --key-file FILE "
            f"or set {PASSPHRASE_VARIABLE}"
        )
    passphrase = getpass.getpass(
        "Passphrase of your assistant: " if kind else "Choose a passphrase for your assistant: "
    )
    if kind is None and getpass.getpass("Once more: ") != passphrase:
        raise ConfigError("the two passphrases differ; nothing was made")
    return passphrase


def _raw_key(path: Path) -> bytes:
    raw = _secret(path)
    if len(raw) == 32:
        return raw
    try:
        key = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"{path}: expected a key of 32 bytes, raw or as 64 hexadecimal digits")
    return key


def _secret(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_SECRET_FILE_BYTES:
        raise ConfigError(f"{path}: too large to hold a key or a passphrase")
    return raw


def open_client(options: argparse.Namespace) -> EdgeClient:
    """The device that the call names, with a model. Raises TacitError."""
    from edge_client.client import EdgeClient

    return EdgeClient.open(
        home_of(options),
        key=key_of(options),
        bundle=options.bundle,
        trust=options.trust,
        schema=schema_of(options),
    )


def schema_of(options: argparse.Namespace) -> ProfileSchema | None:
    """The schema that ships, extended by the file that the call names; None if it names none. Raises ConfigError, DomainError."""
    from shared_models.profile import ProfileSchema, default_schema
    from shared_models.profile_file import MAX_FILE_BYTES

    if options.schema is None:
        return None
    try:
        with options.schema.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{options.schema}: cannot be read: {error.strerror or error}") from error
    return default_schema().extended(ProfileSchema.from_yaml(raw))


@contextlib.contextmanager
def opened_without_model(options: argparse.Namespace) -> Iterator[EdgeClient]:
    """The same for what needs no model: works before the first bundle, and when the bundle is damaged."""
    from edge_client.bundles import BundleStore
    from edge_client.client import BUNDLE_FOLDER, EdgeClient
    from edge_client.config import EdgeConfig
    from edge_client.know.store import Store

    if options.bundle is not None:
        with open_client(options) as client:
            yield client
        return
    home = home_of(options)
    config = EdgeConfig()
    with EdgeClient(
        Store(home, key=key_of(options)), BundleStore(home / BUNDLE_FOLDER, config.clock), config, schema_of(options)
    ) as client:
        yield client


# -- commands ----------------------------------------------------------------------------------------------------------


def arguments_chat(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run_chat(options: argparse.Namespace) -> int:
    from edge_client.chat import run_chat as chat

    with open_client(options) as client:
        chat(client)
    return 0


def arguments_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def run_inspect(options: argparse.Namespace) -> int:
    from edge_client.chat import consent_lines

    with opened_without_model(options) as client:
        known = client.inspect()
        if options.json:
            print(json.dumps(known, indent=2, sort_keys=True, ensure_ascii=False))
            return 0
        print(f"home      {known['home']}")
        storage = known["storage"]
        print(f"store     {storage['size_bytes']} bytes, {storage['commits']} commits, key from {storage['key']}")
        print(f"bundle    {_bundle_line(known['bundle'])}")
        for line in consent_lines(client):
            print(f"consent   {line}")
    print(f"examples  {known['counts']['examples']}")
    for example in known["examples"]:
        print(f"          {example['intent']:24} {example['text']}")
    print(f"own       {known['counts']['own_intents']} intents of your own")
    for name, phrases in known["own_intents"].items():
        print(f"          {name:24} {' | '.join(phrases)}")
    return 0


def _bundle_line(bundle: dict[str, Any] | None) -> str:
    if bundle is None:
        return "none yet"
    if "problem" in bundle:
        return f"cannot be used: {bundle['problem']}"
    return f"{bundle['domain']} model {bundle['version']}, {bundle['staleness']}"


def arguments_consent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("show", "grant", "withdraw"))
    parser.add_argument("purposes", nargs="*", metavar="PURPOSE", help=f"{', '.join(PURPOSES)}, or all")


def run_consent(options: argparse.Namespace) -> int:
    from edge_client.chat import consent_lines, spoken_time
    from shared_models.purposes import find_purpose

    purposes = list(PURPOSES) if options.purposes == ["all"] else [find_purpose(name).name for name in options.purposes]
    if options.action != "show" and not purposes:
        raise ConfigError(f"which purpose? {', '.join(PURPOSES)}, or all")
    with opened_without_model(options) as client:
        with client.store.transaction():
            for name in purposes:
                if options.action == "grant":
                    client.consent.grant(name)
                elif options.action == "withdraw":
                    client.consent.withdraw(name)
        for line in consent_lines(client):
            print(line)
        if options.action == "show":
            for receipt in client.consent.receipts():
                print(f"    {receipt.number}. {spoken_time(receipt.at_s)} {receipt.action} {receipt.purpose}")
    return 0


def arguments_forget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run_forget(options: argparse.Namespace) -> int:
    from edge_client.know.store.erasure import erase_home

    home = home_of(options)
    if not home.is_dir():
        print(f"There is nothing in {home}.")
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError("this erases everything and cannot be undone: say --yes")
        if input(f"Erase everything in {home}? This cannot be undone. Type yes: ").strip().casefold() != "yes":
            raise TextError("nothing was erased")
    problems = erase_home(home)
    for problem in problems:
        print(f"tacit-device: {problem}", file=sys.stderr)
    if problems:
        raise StoreError("the files are erased, but not everything elsewhere")
    print("Everything about you on this device is erased. What was contributed before cannot be traced back to you.")
    return 0


def arguments_doctor(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run_doctor(options: argparse.Namespace) -> int:
    from edge_client.doctor import examine

    trouble = False
    for finding in examine(home_of(options), lambda: key_of(options), time.time):
        trouble = trouble or not finding.good
        print(f"{'ok ' if finding.good else 'BAD'} {finding.topic:12} {finding.text}")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
