"""What one client holds in memory of its active bundle: wording, encoder, intent model, and what its optional targets hold.

Loaded when first needed, and None where the bundle lacks the target. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_client.answer.respond import Responder
from edge_client.bundles import ActiveBundle
from edge_client.know.own_intents import OwnIntents
from shared_models.bundle import (
    BANDIT_PRIOR_TARGET,
    CATALOGUE_TARGET,
    FEED_TARGET,
    ITEM_SPACE_TARGET,
    ITEMS_TARGET,
    PLACES_TARGET,
    PROFILE_TARGET,
    Wording,
    words_target,
)
from shared_models.errors import BundleTamperedError, DomainError, ModelDamagedError, WireError

if TYPE_CHECKING:
    from edge_client.understand.intent import IntentModel
    from edge_client.understand.places import Gazetteer
    from shared_models.bandit_prior import BanditPrior
    from shared_models.context_feed import BroadcastFeed
    from shared_models.preference import ItemSpaceSession
    from shared_models.profile import ProfileSchema
    from shared_models.text_encoder import TextEncoder
    from shared_models.travel.catalogue import Catalogue


class HeldModels:
    """Loaded when first needed; the owner gives the active bundle with each call, and drops all when it changes."""

    def __init__(self, own: OwnIntents) -> None:
        self._own = own
        self.change_for: Callable[[str, int, int], Any] | None = None
        """What was learned of the user's words for a head (improve/personal_head.py); the owner sets it."""
        self.drop()

    def drop(self) -> None:
        self._words: dict[str, Responder] = {}
        self._read: dict[str, Any] = {}
        self._encoder: TextEncoder | None = None
        self._model: IntentModel | None = None
        self._with_own = False

    def forget_texts(self) -> None:
        """The encoder has the vectors of no text at hand any more."""
        if self._encoder is not None:
            self._encoder.forget()

    def drop_model(self) -> None:
        """The user's own intents have changed."""
        self._model = None

    def words(self, bundle: ActiveBundle, language: str = "") -> Responder:
        """Speaks `language` if the bundle has its words, otherwise the bundle's own; "" is the bundle's own.

        Each language has one Responder, so that its variants take turns. Raises BundleTamperedError.
        """
        said: Wording | None = self._value(bundle, words_target(language), Wording.from_bytes) if language else None
        known = language if said is not None else ""
        if known not in self._words:
            templates, labels = bundle.templates, bundle.intent_labels
            if said is not None:
                # What was not put into other words is said in the bundle's own rather than not at all.
                templates, labels = said.templates, {**labels, **said.intent_labels}
            self._words[known] = Responder(templates, labels, known or "en")
        return self._words[known]

    def schema(self, bundle: ActiveBundle | None) -> ProfileSchema | None:
        """What may be known about the user, as the bundle's domain has it; None without a bundle, too."""
        from shared_models.optional_targets import read_profile

        found: ProfileSchema | None = None if bundle is None else self._value(bundle, PROFILE_TARGET, read_profile)
        return found

    def items(self, bundle: ActiveBundle) -> tuple[str, ...] | None:
        """The items that `items.json` names. Raises BundleTamperedError, as all below."""
        from shared_models.optional_targets import read_items

        found: tuple[str, ...] | None = self._value(bundle, ITEMS_TARGET, read_items)
        return found

    def item_space(self, bundle: ActiveBundle) -> ItemSpaceSession | None:
        """What the population's tastes say about items."""
        from edge_client.loaded_models import load_item_space

        found: ItemSpaceSession | None = self._value(bundle, ITEM_SPACE_TARGET, load_item_space)
        return found

    def bandit_prior(self, bundle: ActiveBundle) -> BanditPrior | None:
        """Where this device's policy starts."""
        from shared_models.bandit_prior import BanditPrior

        found: BanditPrior | None = self._value(bundle, BANDIT_PRIOR_TARGET, BanditPrior.from_bytes)
        return found

    def catalogue(self, bundle: ActiveBundle) -> Catalogue | None:
        """What can be suggested."""
        from shared_models.travel.catalogue import Catalogue

        found: Catalogue | None = self._value(bundle, CATALOGUE_TARGET, Catalogue.from_bytes)
        return found

    def feed(self, bundle: ActiveBundle) -> BroadcastFeed | None:
        """Weather, holidays and events of everywhere. How old it is, `feed.staleness(now_s)` says: it may be `expired`."""
        from shared_models.context_feed import BroadcastFeed

        found: BroadcastFeed | None = self._value(bundle, FEED_TARGET, BroadcastFeed.from_checked_bytes)
        return found

    def gazetteer(self, bundle: ActiveBundle) -> Gazetteer | None:
        """Names of places: those of `places.json` and of the catalogue; None if the bundle has neither."""
        if "gazetteer" not in self._read:
            from edge_client.loaded_models import load_gazetteer

            catalogue = self.catalogue(bundle)
            nothing = catalogue is None and PLACES_TARGET not in bundle.optional_files
            found = None if nothing else _typed(PLACES_TARGET, lambda: load_gazetteer(bundle, catalogue))
            self._read["gazetteer"] = found
        held: Gazetteer | None = self._read["gazetteer"]
        return held

    def _value(self, bundle: ActiveBundle, target: str, read: Callable[[bytes], Any]) -> Any:
        if target not in self._read:
            raw = bundle.optional(target)
            self._read[target] = None if raw is None else _typed(target, lambda: read(raw))
        return self._read[target]

    def encoder(self, bundle: ActiveBundle) -> TextEncoder:
        """Held from the first text on: who gives feedback only would load 23 MB again for each. Raises ModelError."""
        if self._encoder is None:
            from edge_client.loaded_models import load_encoder

            self._encoder = load_encoder(bundle).remembering()
        return self._encoder

    def model(self, bundle: ActiveBundle, *, with_own: bool) -> IntentModel:
        """`with_own`: with the user's own intents, and with what was learned of the user's words. Raises ModelError."""
        if self._model is None or self._with_own != with_own:
            from edge_client.loaded_models import load_head
            from edge_client.understand.intent import IntentModel

            encoder, manifest = self.encoder(bundle), bundle.manifest
            usable = with_own and len(self._own)
            own = self._own.vectors(encoder.encode_one, manifest.encoder_sha256) if usable else {}
            # A newer release may have an intent of the same name: then the published one is meant.
            own = {name: vectors for name, vectors in own.items() if name not in manifest.labels}
            head = load_head(bundle)
            change = None
            if with_own and self.change_for is not None:
                change = self.change_for(head.sha256, len(head.labels), encoder.dimension)
            self._model, self._with_own = IntentModel(encoder, head, own, change), with_own
        return self._model


def _typed(target: str, read: Callable[[], Any]) -> Any:
    """Contents were checked when the bundle came; a version that checks more than the one that fetched it may refuse them."""
    from edge_client.loaded_models import nothing_collected

    try:
        with nothing_collected():
            return read()
    except (WireError, DomainError, ModelDamagedError) as error:
        raise BundleTamperedError(
            f"{target} of the active bundle cannot be used: {error}; refresh the bundle"
        ) from error
