"""`tacit-fleet`: what the central team types. Commands on one fleet's folder; the heavy parts are loaded when they are needed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator import context_commands, operating
from shared_models.errors import ConfigError, PolicyError, TacitError

if TYPE_CHECKING:
    pass

Command = Callable[[argparse.Namespace], int]
# Flower reports its use unless told otherwise, and may install packages at run time.
os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    RAY_USAGE_STATS_ENABLED="0",
)
# Small matrices gain nothing from BLAS threads and lose tenfold on a busy machine; numpy reads this when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


CONTRIBUTIONS = (
    operating.HEAD,
    "item_gram",
    "bandit_moments",
    "policy_value_sums",
    "drift_count",
    "fairness_slices",
)
"""What `run --contribute` takes; aggregator.fleet_studies makes the studies, and is loaded when one is run."""


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a round or a check failed, 2 the call cannot be taken, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        run: Command = options.run
        return run(options)
    except TacitError as error:
        print(f"tacit-fleet: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tacit-fleet", description="Central team: models, fleets, federated rounds.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, help_text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "a simulated fleet does the main job on the real parts")
    demo.add_argument("--users", type=int, default=2000)
    demo.add_argument("--rounds", type=int, default=6)
    demo.add_argument("--complete", type=int, default=100, help="devices with an encrypted store; the others are light")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--extra-seeds", type=int, default=2, help="further populations for the intervals")
    demo.add_argument("--data", type=Path, metavar="FILE.jsonl", help="utterances: text, intent, optional user")
    demo.add_argument("--domain", type=Path, metavar="DIR")
    demo.add_argument("--out", type=Path, default=Path("demo-out"))

    build = command("build", _build, "make a bootstrap bundle that devices can open")
    build.add_argument("out", type=Path)
    build.add_argument("--domain", type=Path, metavar="DIR")

    init = command("init", _init, "make a fleet's folder: keys, certificates, bootstrap model, first bundle")
    init.add_argument("fleet", type=Path)
    init.add_argument("--officer", type=Path, required=True, metavar="OFFICER.pub")
    init.add_argument("--name", help="the fleet's name (default: the folder's)")
    init.add_argument("--domain", type=Path, metavar="DIR")
    init.add_argument("--hostname", action="append", default=[], help="further names or addresses for the certificate")

    policy = command("policy", _policy, "take a signed policy of the officer's into force")
    policy.add_argument("fleet", type=Path)
    policy.add_argument("signed", type=Path, metavar="policy.signed.json")

    enrol = command("enrol", operating.enrol, "admit devices by their public keys")
    enrol.add_argument("fleet", type=Path)
    enrol.add_argument("keys", type=Path, nargs="+", metavar="DEVICE.pem")

    serve = command("serve", operating.serve, "serve devices: rounds and bundles, on loopback unless told otherwise")
    serve.add_argument("fleet", type=Path)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8443)

    run = command("run", operating.run, "run federated rounds with the devices that are online")
    run.add_argument("fleet", type=Path)
    run.add_argument("--rounds", type=int, default=1, help="how many more")
    run.add_argument(
        "--contribute",
        choices=CONTRIBUTIONS,
        default=CONTRIBUTIONS[0],
        help="what devices are asked for (default: rounds of the shared head); anything else makes its artefacts in one run",
    )
    run.add_argument(
        "--judge",
        choices=("prior", "uniform", "candidate"),
        default="prior",
        help="for policy_value_sums: choosing by the published prior, at random, or by the prior that the fleet has made since",
    )
    resume = command("resume", operating.resume, "go on with rounds that were interrupted")
    resume.add_argument("fleet", type=Path)
    for sub in (run, resume):
        sub.add_argument("--cohort", type=int, default=0, help="devices invited per round; 0: all that are online")
        sub.add_argument("--deadline-s", type=int, default=600, help="how long a round waits for answers")
        sub.add_argument(
            "--drop-out", type=float, default=0.3, help="share of the devices that a secure sum is built to lose"
        )
        sub.add_argument("--wait-s", type=int, default=120, help="how long to wait for enough devices")

    status = command("status", _status, "counts, budget, why the last round aborted, what the next one costs")
    status.add_argument("fleet", type=Path)
    status.add_argument("--json", action="store_true")
    stop = command("stop", operating.stop, "stop the rounds that are running")
    stop.add_argument("fleet", type=Path)
    publish = command("publish", _publish, "sign and publish the model that the rounds have made")
    publish.add_argument("fleet", type=Path)
    rollback = command("rollback", _rollback, "publish an older release under a new number")
    rollback.add_argument("fleet", type=Path)
    rollback.add_argument("version", type=int)
    ledger = command("ledger", _ledger, "export the ledger for the officer or an auditor")
    ledger.add_argument("fleet", type=Path)
    ledger.add_argument("--out", type=Path, default=Path("ledger.jsonl"))

    card = command(
        "model-card", _model_card, "write the card of what is published: data, privacy, evaluation, groups, limits"
    )
    card.add_argument("fleet", type=Path)
    card.add_argument(
        "--evaluation", type=Path, metavar="FILE.json", help="what was measured: a list of name, value, data, low, high"
    )
    card.add_argument("--out", type=Path, default=Path("model-card"), metavar="DIR")
    context_commands.add_commands(commands)
    domain = commands.add_parser("domain", help="an app's own world").add_subparsers(required=True, metavar="DO")
    for name, function, what in (
        ("new", _domain_new, "write a small domain to start from"),
        ("check", _domain_check, "lint a domain's wording"),
    ):
        sub = domain.add_parser(name, help=what)
        sub.add_argument("folder", type=Path)
        sub.set_defaults(run=function)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from aggregator.demo import DemoOptions, run_demo
    from shared_models.domain import TRAVEL

    return run_demo(
        DemoOptions(
            out=options.out,
            users=options.users,
            rounds=options.rounds,
            complete=options.complete,
            seed=options.seed,
            extra_seeds=options.extra_seeds,
            data=options.data,
            domain=options.domain or TRAVEL,
        )
    )


def _build(options: argparse.Namespace) -> int:
    from aggregator.fleet import build_bundle
    from aggregator.publish import default_keys_dir, published_sizes
    from privacy.keys import load_public_key, new_key_pair
    from shared_models.domain import TRAVEL, load_domain

    domain = load_domain(options.domain or TRAVEL)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ConfigError(f"{options.out}: exists and is not empty; a bundle is only ever made in a new folder")
    keys = default_keys_dir(options.out)
    public = {}
    for name in ("officer", "aggregator"):
        if not (keys / f"{name}.pub").exists():
            new_key_pair(keys, name)
        public[name] = load_public_key(keys / f"{name}.pub")
    build_bundle(
        options.out,
        domain,
        officer_public_key=public["officer"],
        aggregator_public_key=public["aggregator"],
        fleet=domain.name,
        progress=_print_progress,
    )
    sizes = published_sizes(options.out)
    parts = ", ".join(f"{name.split('/')[0]} {size / 1024:,.0f} KB" for name, size in sizes.items() if size >= 10_240)
    print(
        f"{options.out}  {len(domain.labels)} intents; keys in {keys}\n"
        f"{sum(sizes.values()) / 1024 / 1024:.1f} MB to fetch once: {parts}\ntacit-device chat --bundle {options.out}"
    )
    return 0


def _init(options: argparse.Namespace) -> int:
    from aggregator.fleet import Fleet
    from privacy.keys import load_public_key
    from shared_models.domain import TRAVEL

    fleet = Fleet.create(
        options.fleet,
        name=options.name or options.fleet.name,
        domain=options.domain or TRAVEL,
        officer_public_key=load_public_key(options.officer),
        hostnames=tuple(options.hostname),
        progress=_print_progress,
    )
    print(
        f"{fleet.directory}  fleet {fleet.name!r}, first bundle published\nNext, by the privacy officer:\n"
        f"  tacit-privacy policy init --fleet {fleet.name} --aggregator {fleet.directory / 'keys' / 'aggregator.pub'} "
        "--population N --min-survivors M"
    )
    return 0


def _policy(options: argparse.Namespace) -> int:
    from privacy.cli import role_path
    from privacy.policy_text import explain_policy

    try:
        signed, role = options.signed.read_bytes(), role_path(options.signed).read_bytes()
    except OSError as error:
        raise PolicyError(
            f"{options.signed}: cannot be read, or {role_path(options.signed).name} is not beside it"
        ) from error
    print("\n".join(explain_policy(operating.open_fleet(options).adopt_policy(signed, role))))
    return 0


def _status(options: argparse.Namespace) -> int:
    from aggregator.status import status_document, status_lines

    document = status_document(operating.open_fleet(options))
    print(json.dumps(document, indent=2) if options.json else "\n".join(status_lines(document)))
    return 0


def _publish(options: argparse.Namespace) -> int:
    fleet = operating.open_fleet(options)
    print(f"release {fleet.publish()} published in {fleet.bundle}")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from aggregator.registry import Registry

    print(
        f"release {options.version} published again as {Registry(operating.open_fleet(options).bundle).rollback(options.version)}"
    )
    return 0


def _ledger(options: argparse.Namespace) -> int:
    state = operating.open_fleet(options).state(read_only=True)
    try:
        state.export_ledger(options.out)
    finally:
        state.close()
    print(options.out)
    return 0


def _model_card(options: argparse.Namespace) -> int:
    from aggregator.model_card import card_of_fleet, read_evaluation, write_model_card

    measured = read_evaluation(options.evaluation) if options.evaluation else ()
    for path in write_model_card(options.out, card_of_fleet(operating.open_fleet(options), measured)):
        print(path)
    return 0


def _domain_new(options: argparse.Namespace) -> int:
    from aggregator.domain_scaffold import write_scaffold

    write_scaffold(options.folder)
    print(
        f"{options.folder}\ntacit-fleet domain check {options.folder}\ntacit-fleet build BUNDLE --domain {options.folder}"
    )
    return 0


def _domain_check(options: argparse.Namespace) -> int:
    from shared_models.domain_lint import main as lint

    return lint([str(options.folder)])


def _print_progress(step: str, share: float) -> None:
    print(f"  {share:4.0%}  {step}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
