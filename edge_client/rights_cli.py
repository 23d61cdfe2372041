"""`tacit-device export`: everything that is kept about the user, as one file that other programs can read."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edge_client.cli import opened_without_model
from edge_client.platform import write_atomically
from shared_models.errors import ConfigError


def arguments_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write there (readable for you alone), not to the screen"
    )


def run_export(options: argparse.Namespace) -> int:
    with opened_without_model(options) as client:
        text = json.dumps(client.export(), indent=2, sort_keys=True, ensure_ascii=False)
    if options.out is None:
        sys.stdout.write(f"{text}\n")
        return 0
    try:
        write_atomically(options.out.absolute(), f"{text}\n".encode(), "export")
    except OSError as error:
        raise ConfigError(f"{options.out}: cannot be written: {error.strerror or error}") from error
    print(f"{options.out}: everything that is kept about you, readable for you alone.")
    return 0
