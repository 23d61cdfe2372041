"""`tacit-device chat`: the conversation in a terminal, or over a pipe. It shows what the assistant says and why; nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TextIO

from edge_client.answer.cards import Card
from edge_client.answer.respond import Reply
from edge_client.client import EdgeClient
from shared_models.errors import TacitError
from shared_models.purposes import PURPOSES

HELP = """/meant INTENT      what I should have understood just now
/good              that was right
/up [N], /down [N] [because …]   whether you like suggestion N (the first, if you name none)
/why [N]           why suggestion N; without N, all that led to the last answer
/new               a new conversation
/intents           what I can help with
/teach NAME: PHRASE | PHRASE   an intent of your own
/consent [grant|withdraw PURPOSE]
/learned           what I keep about you
/quit"""


class Chat:
    """One conversation over two text streams."""

    def __init__(self, client: EdgeClient, source: TextIO, sink: TextIO) -> None:
        self._client = client
        self._source = source
        self._sink = sink
        self._interactive = source.isatty() and sink.isatty()
        self._dim = ("\x1b[2m", "\x1b[0m") if sink.isatty() and not os.environ.get("NO_COLOR") else ("", "")
        self._last: Reply | None = None
        self._cards: tuple[Card, ...] = ()
        """The last suggestions, numbered from 1."""
        self._commands: dict[str, Callable[[str], None]] = {
            "/meant": self._meant,
            "/good": self._good,
            "/up": lambda rest: self._react("up", rest),
            "/down": lambda rest: self._react("down", rest),
            "/new": self._begin,
            "/why": self._why,
            "/intents": self._intents,
            "/teach": self._teach,
            "/consent": self._consent,
            "/learned": self._learned,
            "/help": lambda _: self._say(HELP),
        }

    def run(self) -> None:
        """Until /quit or the end of input. An error of one turn is shown and ends nothing."""
        self._welcome()
        self._ask_consent()
        for line in self._lines():
            word, _, rest = line.partition(" ")
            if word in ("/quit", "/exit", "/q"):
                break
            try:
                if word.startswith("/"):
                    self._commands.get(word, self._unknown)(rest.strip())
                else:
                    self._turn(line)
            except TacitError as error:
                self._whisper(str(error))

    # -- turns ----------------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> None:
        reply = self._client.respond(text)
        self._last = reply
        self._say(reply.text)
        if reply.suggestions:
            self._cards = reply.suggestions
        for number, card in enumerate(reply.suggestions, 1):
            self._say(f"{number}. {card.title}" + (f", {_price(card)}" if card.price is not None else ""))
            for sign, texts in (("+", card.reasons), ("-", card.drawbacks)):
                for text in texts:
                    self._whisper(f"{sign} {text}")
        self._whisper("because: " + "; ".join(reply.reasons))

    def _meant(self, intent: str) -> None:
        if self._last is None or not intent:
            self._whisper("say something first, then: /meant INTENT (see /intents)")
            return
        result = self._client.feedback(self._last, intent=intent)
        self._whisper(f"understood: {result.intent}; {result.reason}")
        if not result.kept:
            self._whisper("to let me remember: /consent grant personal-learning")

    def _good(self, _: str) -> None:
        if self._last is None:
            self._whisper("say something first, then: /good")
            return
        result = self._client.accept(self._last)
        self._whisper(f"thank you; {result.reason}")

    def _react(self, verdict: str, rest: str) -> None:
        card, because = self._meant_card(rest)
        if card is None:
            self._whisper("there is no such suggestion; after one: /up 2, /down 1 too cold")
            return
        result = self._client.react(card.decision_id, verdict, because)
        self._whisper(f"{card.title}: {result.reason}")
        for limit in result.excludes:
            self._whisper(f"from now on: {limit}")
        if not result.understood:
            self._whisper("I did not understand the reason; it counts all the same")

    def _meant_card(self, rest: str) -> tuple[Card | None, str]:
        """The suggestion that a command names by its number, and what follows it."""
        number, _, because = rest.partition(" ")
        if not number.isdecimal():
            number, because = "1", rest
        place = int(number) - 1
        return (self._cards[place] if 0 <= place < len(self._cards) else None), because.strip()

    def _begin(self, _: str) -> None:
        self._client.new_conversation()
        self._last, self._cards = None, ()
        self._whisper("a new conversation")

    def _why(self, rest: str) -> None:
        if rest.isdecimal():
            card, _ = self._meant_card(rest)
            reasons = self._client.why(card.decision_id) if card is not None else ("there is no such suggestion",)
            for reason in reasons:
                self._whisper(f"- {reason}")
            return
        if self._last is None:
            self._whisper("say something first, then: /why")
            return
        reply, found = self._last, self._last.recognition
        for reason in reply.reasons:
            self._whisper(f"- {reason}")
        own = ", one of your own" if found.personal else ""
        self._whisper(f"understood: {found.intent} ({found.confidence:.2f}{own}), model {found.model_version}")
        for other in found.alternatives:
            self._whisper(f"otherwise: {other.intent} ({other.confidence:.2f})")
        self._whisper(f"done: {reply.action} {reply.intent}; rules: {', '.join(reply.rule_ids) or 'none'}")

    def _intents(self, _: str) -> None:
        for name, label in self._client.intents().items():
            self._say(f"{name:24} {label}")

    def _teach(self, rest: str) -> None:
        name, colon, phrases = rest.partition(":")
        if not colon:
            self._whisper("/teach NAME: PHRASE | PHRASE …")
            return
        count = self._client.define_intent(name.strip(), [phrase.strip() for phrase in phrases.split("|")])
        self._whisper(f"{name.strip()} has {count} phrases now; three to five are enough, and they stay on this device")

    def _consent(self, rest: str) -> None:
        action, _, purpose = rest.partition(" ")
        if action == "grant":
            self._client.consent.grant(purpose.strip())
        elif action == "withdraw":
            self._client.consent.withdraw(purpose.strip())
        elif action:
            self._whisper("/consent, /consent grant PURPOSE or /consent withdraw PURPOSE")
            return
        for line in consent_lines(self._client):
            self._say(line)

    def _learned(self, _: str) -> None:
        known = self._client.inspect()
        if not known["examples"] and not known["own_intents"]:
            self._say("Nothing about you is kept here.")
        for example in known["examples"]:
            self._say(
                f"{example['intent']:24} {example['text']}" + (f" ({example['count']} times)" * (example["count"] > 1))
            )
        for name, phrases in known["own_intents"].items():
            self._say(f"{name:24} your own: {' | '.join(phrases)}")

    def _unknown(self, _: str) -> None:
        self._whisper("there is no such command; /help lists them")

    # -- first words ----------------------------------------------------------------------------------------------

    def _welcome(self) -> None:
        bundle = self._client.status()["bundle"]
        self._say(
            f"Assistant for {bundle['domain']}: {bundle['intents']} intents, model {bundle['version']}, {bundle['staleness']}."
        )
        self._whisper("what you write stays on this device; /help shows what else you can type")

    def _ask_consent(self) -> None:
        model = self._client.config.local_model
        elsewhere = model is not None and not model.stays_here
        open_questions = [
            purpose
            for purpose in PURPOSES.values()
            if not self._client.consent.was_asked(purpose.name) and (elsewhere or not purpose.needs_remote_model)
        ]
        if any(purpose.needs_policy for purpose in open_questions):
            from edge_client.share.device import purposes_in_policy

            # Nobody is asked to allow what this fleet does not do.
            done = purposes_in_policy(self._client)
            open_questions = [x for x in open_questions if not x.needs_policy or x.name in done]
        if not open_questions:
            return
        if not self._interactive:
            self._whisper("nothing you type is kept: no consent was given (tacit-device consent grant PURPOSE)")
            return
        for purpose in open_questions:
            self._say(f"{purpose.title}? {purpose.description}")
            self._sink.write("Allow this? [y/N] ")
            self._sink.flush()
            if self._source.readline().strip().casefold() in ("y", "yes"):
                self._client.consent.grant(purpose.name)
            else:
                self._client.consent.decline(purpose.name)

    # -- streams --------------------------------------------------------------------------------------------------

    def _lines(self) -> Iterator[str]:
        while True:
            if self._interactive:
                try:
                    line = input("> ")
                except EOFError:
                    return
            else:
                line = self._source.readline()
                if not line:
                    return
            if line.strip():
                yield line.strip()

    def _say(self, text: str) -> None:
        self._sink.write(text + "\n")
        self._sink.flush()

    def _whisper(self, text: str) -> None:
        self._say(f"{self._dim[0]}  {text}{self._dim[1]}")


def _price(card: Card) -> str:
    unit = f" a {card.per}" if card.per else ""
    return f"{card.price:g} {card.currency}{unit}"


def consent_lines(client: EdgeClient) -> list[str]:
    """The switches, one line each."""
    return [
        f"{'on ' if entry['granted'] else 'off'} {name:18} {entry['title']}"
        + (f" (since {spoken_time(entry['since_s'])})" if entry["granted"] else "")
        for name, entry in client.consent.document().items()
    ]


def spoken_time(unix_s: float) -> str:
    """Date and time in UTC; "at an unknown time" for what no calendar has."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return "an unknown time"


def run_chat(client: EdgeClient) -> None:
    """Chat over the process's own streams."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (line editing; it keeps no history on disk)
    Chat(client, sys.stdin, sys.stdout).run()
