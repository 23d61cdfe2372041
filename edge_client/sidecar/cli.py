"""`tacit-device serve`: registers apps, then serves this device to them on loopback or on a Unix socket."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_client.cli import home_of, opened_without_model
from edge_client.platform import remove_tree, write_atomically
from edge_client.sidecar.tokens import DEFAULT_SCOPES, FOLDER, SCOPES, Apps
from shared_models.errors import ConfigError

if TYPE_CHECKING:
    from edge_client.know.triggers import Trigger

DEFAULT_PORT = 8765
MAX_TRIGGERS_BYTES = 256 * 1024
CERTIFICATE_WAITS_S = 300.0
"""How long the centre still serves after everything was erased, so that the user can save the certificate."""


def arguments_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"on loopback; 0 is any free one ({DEFAULT_PORT})"
    )
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1 or ::1; nothing else is possible")
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="a Unix socket in place of a port (no privacy centre)"
    )
    parser.add_argument("--app", metavar="NAME", help="register an app and print its token, once; again: a new token")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="write the token there (mode 0600), print nothing"
    )
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web origin whose pages may use this app's token",
    )
    parser.add_argument(
        "--scope",
        action="append",
        default=[],
        choices=tuple(SCOPES),
        help="; ".join(f"{name}: {words}" for name, words in SCOPES.items())
        + f" (default: {' and '.join(DEFAULT_SCOPES)})",
    )
    parser.add_argument("--remove-app", metavar="NAME", help="make the token of an app worthless")
    parser.add_argument("--triggers", type=Path, metavar="FILE", help="YAML or JSON list of triggers for the stream")
    parser.add_argument(
        "--only-register", action="store_true", help="do not serve: a sidecar that runs sees the change"
    )


def run_serve(options: argparse.Namespace) -> int:
    apps = Apps(home_of(options))
    triggers = read_triggers(options.triggers) if options.triggers is not None else []
    if options.only_register:
        change_apps(apps, options)
        return 0
    try:
        from edge_client.sidecar import serving
        from edge_client.sidecar.app import Sidecar
        from edge_client.sidecar.deliveries import StreamedDeliveries
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'tacit[sidecar]'") from error
    from edge_client.improve.night_watch import NightWatch
    from edge_client.share.probes import system_probes
    from edge_client.share.scheduler import SCHEDULE_TABLE, Scheduler, kept_rules

    # The server gives a signal that ended it on to this process, which must still tidy up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with opened_without_model(options) as client:
        # The store is ours now, and so is the socket of this home.
        change_apps(apps, options)
        listening = (
            serving.unix_socket(options.socket)
            if options.socket
            else serving.loopback_socket(options.host, options.port)
        )

        def end_soon() -> None:
            remove_tree(client.store.folder / FOLDER)
            timer = threading.Timer(CERTIFICATE_WAITS_S, signal.raise_signal, (signal.SIGINT,))
            timer.daemon = True
            timer.start()

        memory = client.store.table(SCHEDULE_TABLE)
        scheduler = Scheduler(kept_rules(memory), system_probes(), client.config.clock, memory)
        sidecar = Sidecar(client, apps, triggers=triggers, scheduler=scheduler, after_erasure=end_soon)
        address = serving.address_of(listening)
        print(f"Serving {address}  (stop with Ctrl-C)", flush=True)
        if not apps.all():
            print("No app is registered yet: tacit-device serve --app NAME", flush=True)
        if options.socket is None:
            print(f"Privacy centre, once, within ten minutes: {address}{sidecar.centre_path()}", flush=True)
            print(f"Chat, once, within ten minutes: {address}{sidecar.chat_path()}", flush=True)
        # An agent and a sidecar never have the store at the same time: whoever has it keeps the nights.
        nights = NightWatch(client, scheduler, tell=lambda line: print(line, flush=True))
        nights.start()
        try:
            with StreamedDeliveries(client.delivery, sidecar.hub):
                serving.serve(sidecar, listening)
        except KeyboardInterrupt:
            return 0
        finally:
            nights.stop()
            if options.socket is not None:
                options.socket.unlink(missing_ok=True)
    return 0


def change_apps(apps: Apps, options: argparse.Namespace) -> None:
    """Register or remove the apps that the call names. Raises ConfigError, StoreWriteError."""
    if options.app is None and (options.origin or options.scope or options.token_file):
        raise ConfigError("--origin, --scope and --token-file belong to --app NAME")
    if options.remove_app is not None and not apps.remove(options.remove_app):
        raise ConfigError(f"there is no app {options.remove_app[:40]!r}")
    if options.app is None:
        if options.only_register and options.remove_app is None:
            raise ConfigError("--only-register needs --app NAME or --remove-app NAME")
        return
    token = apps.register(options.app, options.origin, options.scope or DEFAULT_SCOPES)
    if options.token_file is not None:
        try:
            write_atomically(options.token_file.absolute(), f"{token}\n".encode(), "token")
        except OSError as error:
            raise ConfigError(f"{options.token_file}: cannot be written: {error.strerror or error}") from error
    else:
        print(f"Token of {options.app}, shown once: {token}", flush=True)


def read_triggers(path: Path) -> list[Trigger]:
    """Triggers for the stream, in the form of `Trigger.from_document`. Raises ConfigError."""
    import yaml

    from edge_client.know.triggers import Trigger

    try:
        if os.stat(path).st_size > MAX_TRIGGERS_BYTES:
            raise ConfigError(f"{path}: more than {MAX_TRIGGERS_BYTES} bytes")
        document: Any = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: neither YAML nor JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(document, list):
        raise ConfigError(f"{path}: expected a list of triggers")
    return [Trigger.from_document(entry) for entry in document]
