"""A desktop app in a few lines: events, a trigger, a decision with reasons, a chat that learns "I meant …".

Run: python examples/desktop.py HOME BUNDLE
"""

from __future__ import annotations

import sys

from edge_client import EdgeClient
from edge_client.know.triggers import Condition, Firing, Trigger


def main(home: str, bundle: str) -> None:
    # key=None would ask the system's keyring; here a passphrase stands for whatever your app unlocks with.
    with EdgeClient.open(home, key="correct horse battery staple", bundle=bundle) as client:
        for purpose in ("personalisation", "personal-learning"):
            client.consent.grant(purpose)  # only after your user has said yes to it

        def suggest(firing: Firing) -> None:
            category = firing.event.properties["category"]
            client.profile.observe("favourite_category", category, source="inferred", at_s=firing.event.at_s)
            client.decisions.record("suggestion", f"more from {category}", [f"you looked at {category} again"])

        again = Condition("count.product_viewed.1h", ">=", 2)
        client.capture.on(Trigger("looks again", (again,), events=("product_viewed",)), suggest)
        for product in ("bench", "hammock"):
            properties = {"product_id": product, "category": "garden"}
            client.capture.receive({"type": "track", "event": "Product Viewed", "properties": properties})
        decision = client.decisions.recent(1)[0]
        print(f"{decision['chosen']}\n  because: {'; '.join(decision['reasons'])}")

        text = "it came in the wrong size"
        reply = client.respond(text)
        print(f"{reply.text}\n  because: {'; '.join(reply.reasons)}")
        kept = client.feedback(reply, intent="return_item")
        print(f"{kept.intent}: {kept.reason}")
        print(f"next time: {client.recognize(text).intent}")


if __name__ == "__main__":
    main(*sys.argv[1:])
