"""Opening a client: which bundle it starts with."""

from __future__ import annotations

from pathlib import Path

from edge_client.bundle_words import no_model_text
from edge_client.bundles import BundleStore
from edge_client.config import EdgeConfig
from edge_client.platform import private_folder
from shared_models.errors import BundleRollbackError, BundleUnavailableError, ConfigError, ModelMissingError

BUNDLE_FOLDER = "bundle"


def active_bundles(home: Path, bundle: Path | str | None, trust: Path | None, config: EdgeConfig) -> BundleStore:
    """The bundles of `home`, one of them active, refreshed from `bundle` if one is named and can be reached.

    Raises ModelMissingError, BundleError, ConfigError.
    """
    if home.exists() and not home.is_dir():
        raise ConfigError(f"{home}: is not a folder; the assistant needs one of its own")
    bundles = config.bundles or BundleStore(
        config.bundle_folder or home / BUNDLE_FOLDER, config.clock, timeout_s=config.fetch_timeout_s
    )
    if bundle is not None:
        private_folder(home)
        try:
            bundles.refresh(bundle, trust)
        except (BundleUnavailableError, BundleRollbackError):
            # Offline is normal, and a folder that the app ships may be older than what arrived since: what is active
            # stays active, and says how old it is.
            if bundles.current() is None:
                raise
    elif bundles.current() is None:
        raise ModelMissingError(no_model_text())
    return bundles
