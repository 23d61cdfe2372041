"""What the user and support are told about the bundle in use, or about its lack."""

from __future__ import annotations

from typing import Any

from edge_client.bundles import ActiveBundle
from shared_models.bundle import Staleness
from shared_models.errors import TacitError


def describe_bundle(
    bundle: ActiveBundle | None, problem: TacitError | None, staleness: Staleness | None
) -> dict[str, Any] | None:
    """The active bundle as plain JSON; {"problem": words} if it cannot be used, None before there is one."""
    if bundle is None:
        return None if problem is None else {"problem": str(problem)}
    return {
        "version": bundle.manifest.version,
        "published_s": bundle.manifest.published_s,
        "domain": bundle.manifest.domain,
        "fleet": bundle.trust.fleet,
        "intents": len(bundle.manifest.labels),
        "rules": len(bundle.rules.rules),
        "encoder_sha256": bundle.manifest.encoder_sha256,
        "policy": bundle.policy is not None,
        "staleness": staleness,
        "fresh_until_s": bundle.fresh_until_s,
        "valid_until_s": bundle.valid_until_s,
        "optional": sorted(bundle.optional_files),
        "context_until_s": bundle.context_until_s,
    }


def no_model_text() -> str:
    """What to do when there is no model yet."""
    return (
        "there is no model yet: `tacit-fleet build DIR` makes a bundle; then open with bundle=DIR "
        "(`tacit-device chat --bundle DIR`)"
    )
