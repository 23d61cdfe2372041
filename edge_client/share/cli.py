"""`tacit-device enrol`, `agent` and `shared`: joining a fleet, taking part in its rounds, seeing what left.

The node's key is made here, kept in the encrypted store, and never shown; the fleet gets its public half.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from pathlib import Path

from edge_client.account import shared_document
from edge_client.cli import open_client
from edge_client.client import EdgeClient
from edge_client.share.agent.fleet import FleetConfig, new_node_key
from edge_client.share.device import open_gate
from edge_client.share.probes import system_probes
from edge_client.share.schedule_cli import arguments_when, schedule_rules
from edge_client.share.scheduler import SCHEDULE_TABLE, Scheduler, keep_rules
from edge_client.share.taking_part import TakingPart
from privacy.enrolment import Certificate
from shared_models.errors import ConfigError
from shared_models.purposes import SHARED
from shared_models.wire import MODE_DISTRIBUTED

LINK_TABLE = "fleet"


def arguments_enrol(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fleet", required=True, metavar="HOST:PORT", help="address of the fleet's service")
    parser.add_argument("--ca", type=Path, required=True, metavar="ca.pem", help="the fleet's certificate authority")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="public key to hand to the central team; beside it FILE with the ending .identity, for the enrolment authority",
    )


def run_enrol(options: argparse.Namespace) -> int:
    identity_path = options.out.with_suffix(".identity")
    if identity_path == options.out:
        raise ConfigError(f"{options.out}: choose another name than one that ends in .identity")
    with open_client(options) as client:
        public = enrol(client, options.fleet, _read(options.ca))
        identity = open_gate(client).identity_key()
    options.out.write_bytes(public)
    identity_path.write_text(f"{identity.hex()}\n", encoding="ascii")
    print(f"{options.out}  give it to the central team: tacit-fleet enrol FLEET {options.out}")
    print(
        f"{identity_path}  give it to the enrolment authority: tacit-privacy enrolment certify --identity {identity_path} ..."
    )
    return 0


def arguments_certificate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="what `tacit-privacy enrolment certify` wrote")


def run_certificate(options: argparse.Namespace) -> int:
    certificate = Certificate.from_bytes(_read(options.file))
    with open_client(options) as client:
        open_gate(client).install_certificate(certificate)
    until = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after_s))
    print(f"Certified for fleet {certificate.fleet} until {until}.")
    return 0


def arguments_agent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="stop after answering N messages; 0: go on")
    parser.add_argument("--heartbeat-s", type=float, default=30.0)
    parser.add_argument("--poll-s", type=float, default=3.0)
    parser.add_argument("--log", type=Path, help="file for what the agent's processes print")
    parser.add_argument("--log-level", default="WARNING", choices=("DEBUG", "INFO", "WARNING"))
    arguments_when(parser)


def run_agent(options: argparse.Namespace) -> int:
    rules = schedule_rules(options)
    stopping = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopping.set())
    with open_client(options) as client:
        if not any(client.consent.is_granted(name) for name in SHARED):
            print("Contributing is off: rounds will be refused until `tacit-device consent grant intent-model`.")
        gate = open_gate(client)
        if gate.policy is not None and MODE_DISTRIBUTED in gate.policy.modes and gate.certificate is None:
            print("Not certified: secure sums will be refused until `tacit-device certificate FILE`.")
        config = fleet_config(client, options.heartbeat_s, options.poll_s, options.log_level)
        memory = client.store.table(SCHEDULE_TABLE)
        scheduler = Scheduler(rules, system_probes(), client.config.clock, memory)
        keep_rules(memory, rules)

        def tell(line: str) -> None:
            print(line, flush=True)

        taking_part = TakingPart(client, config, scheduler, tell=tell, bundle=options.bundle, log_path=options.log)
        with taking_part:
            accepted = taking_part.run(stopping, options.rounds)
        return 0 if accepted else 1


def arguments_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")


def run_shared(options: argparse.Namespace) -> int:
    with open_client(options) as client:
        document = shared_document(client)
    if options.json:
        print(json.dumps(document, indent=2))
        return 0
    if document["problem"]:
        print(f"No policy is in force: {document['problem']}")
    if not document["receipts"]:
        print("Nothing has left this device.")
    for receipt in document["receipts"]:
        body = receipt["body"]
        note = f" ({body['note']})" if body["note"] else ""
        print(f"round {body['round_id']}: {body['contribution']} for {body['purpose']}, rho {body['rho']:.4g}{note}")
    if document["epsilon_spent"] is not None:
        print(
            f"Spent epsilon {document['epsilon_spent']:.3f} of {document['epsilon_limit']:.3f} "
            f"at delta {document['delta']:.2g} in this period."
        )
    for name, spent in document["purposes"].items():
        if spent["rho_spent"] > 0.0:
            print(f"  {name}: rho {spent['rho_spent']:.4g} of {spent['rho_limit']:.4g}")
    return 0


def enrol(client: EdgeClient, address: str, ca_pem: bytes) -> bytes:
    """Make the node's key, once, and remember the way to the fleet; returns the public key, PEM. Raises ConfigError."""
    table = client.store.table(LINK_TABLE)
    known = table.get("node")
    private, public = (
        (known["private_pem"].encode(), known["public_pem"].encode()) if known is not None else new_node_key()
    )
    FleetConfig(address, ca_pem, private)
    with client.store.transaction():
        table.put("node", {"private_pem": private.decode(), "public_pem": public.decode()})
        table.put("link", {"address": address, "ca_pem": ca_pem.decode("ascii", "replace")})
    return public


def fleet_config(client: EdgeClient, heartbeat_s: float, poll_s: float, log_level: str = "WARNING") -> FleetConfig:
    """The enrolled device's way to its fleet. Raises ConfigError before `enrol`."""
    table = client.store.table(LINK_TABLE)
    node, link = table.get("node"), table.get("link")
    if node is None or link is None:
        raise ConfigError(
            "this device is not enrolled yet: `tacit-device enrol --fleet HOST:PORT --ca ca.pem --out FILE`"
        )
    return FleetConfig(
        link["address"],
        link["ca_pem"].encode(),
        node["private_pem"].encode(),
        heartbeat_interval_s=heartbeat_s,
        poll_interval_s=poll_s,
        log_level=log_level,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
