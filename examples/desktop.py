"""A desktop app in a few lines: open a bundle, answer, learn from "I meant …". Run: python examples/desktop.py HOME BUNDLE"""

from __future__ import annotations

import sys

from edge_client import EdgeClient


def main(home: str, bundle: str) -> None:
    # key=None would ask the system's keyring; here a passphrase stands for whatever your app unlocks with.
    with EdgeClient.open(home, key="correct horse battery staple", bundle=bundle) as client:
        client.consent.grant("personal-learning")  # only after your user has said yes to it

        text = "it came in the wrong size"
        reply = client.respond(text)
        print(f"{reply.text}\n  because: {'; '.join(reply.reasons)}")

        kept = client.feedback(reply, intent="return_item")
        print(f"{kept.intent}: {kept.reason}")
        print(f"next time: {client.recognize(text).intent}")

        client.define_intent("gift_wrap", ["wrap it as a present", "put a bow on it", "gift paper please"])
        print(f"your own: {client.recognize('please wrap this as a present').intent}")


if __name__ == "__main__":
    main(*sys.argv[1:])
