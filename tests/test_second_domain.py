"""Another app's world, with no change of code: a scaffold that builds and talks, and folders that are damaged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator.cli import main as fleet_main
from edge_client import EdgeClient
from shared_models.domain import load_domain
from shared_models.errors import DomainError

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domains") / "shop"
    assert fleet_main(["domain", "new", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def shop_bundle(shop: Path) -> Path:
    bundle = shop.parent / "bundle"
    assert fleet_main(["build", str(bundle), "--domain", str(shop)]) == 0
    return bundle


def test_a_scaffold_passes_its_own_lint(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet_main(["domain", "check", str(shop)]) == 0
    assert load_domain(shop).labels == ("find_item", "return_item", "track_order")
    assert fleet_main(["domain", "new", str(shop)]) == 2, "a folder that holds something is never written to"
    assert "exists and is not empty" in capsys.readouterr().err


def test_a_bundle_of_it_holds_a_whole_conversation(shop_bundle: Path, tmp_path: Path) -> None:
    with EdgeClient.open(tmp_path / "home", key=KEY, bundle=shop_bundle) as client:
        answer = client.respond("my package has not come, can you see where it is")
        assert (answer.intent, answer.action) == ("track_order", "answer")
        assert answer.text == "I will check the delivery. Which order do you mean?"
        by_rule = client.respond("these boots pinch, I would like to send them back")
        assert by_rule.text == "A colleague prepares your return by hand. Which item is it?"
        assert "returns-by-hand" in by_rule.rule_ids
        outside = client.respond("compose a symphony for eleven kettledrums")
        assert outside.recognition.out_of_scope
        assert outside.text.startswith("That is not something I can do here.")
        client.consent.grant("personal-learning")
        client.consent.grant("intent-model")
        assert client.feedback("got any wellies", intent="find something").kept
        assert client.recognize("got any wellies").intent == "find_item"
        embeddings, intents = client.training_examples()
        assert (embeddings.shape, intents) == ((1, 384), ["find_item"])
        assert client.define_intent("gift_wrap", ["wrap it as a present", "with a ribbon please", "gift paper"]) == 3
        assert client.recognize("please put a ribbon around it").intent == "gift_wrap"
    with EdgeClient.open(tmp_path / "home", key=KEY) as again:
        assert again.recognize("got any wellies").intent == "find_item", "it works offline from what it has"
        again.forget()


def test_a_device_of_one_domain_refuses_the_bundle_of_another_fleet(
    shop_bundle: Path, tiny_domain_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet_main(["build", str(tmp_path / "bundle"), "--domain", str(tiny_domain_dir)]) == 0
    with EdgeClient.open(tmp_path / "home", key=KEY, bundle=tmp_path / "bundle") as client:
        assert client.respond("until when are you open on Fridays").intent == "opening_hours"
        assert "renew_loan" in client.intents()
    from edge_client.cli import main as device_main

    key_file = tmp_path / "key"
    key_file.write_bytes(KEY)
    arguments = ["chat", "--home", str(tmp_path / "home"), "--key-file", str(key_file), "--bundle", str(shop_bundle)]
    capsys.readouterr()
    assert device_main(arguments) == 2
    assert "is not the one that is pinned here" in capsys.readouterr().err


# -- damaged folders -------------------------------------------------------------------------------------------------


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(raw)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return damage


def a_folder(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no domain.yaml": (remove("domain.yaml"), "domain.yaml: missing"),
    "no intents": (remove("intents"), "0 intent files, expected 2"),
    "empty file": (write("domain.yaml", ""), "domain.yaml: file: expected a mapping"),
    "a list": (write("domain.yaml", "- a\n- b\n"), "expected a mapping, got list"),
    "not YAML": (write("templates.yaml", "a: [1, 2\nb: }"), "templates.yaml: not valid YAML"),
    "an object of Python": (write("domain.yaml", "!!python/object/apply:os.getcwd []"), "not valid YAML"),
    "binary": (write("intents/find_item.yaml", b"\x00\xff\xfe\x80"), "find_item.yaml: cannot be read"),
    "a folder for a file": (a_folder("domain.yaml"), "domain.yaml: cannot be read"),
    "too large": (write("out_of_scope.yaml", "test: [" + "a, " * 2_000_000 + "b]"), "larger than"),
    "too deep": (write("out_of_scope.yaml", "test: " + "[" * 20_000), "not valid YAML"),
    "a bad name": (replace("domain.yaml", "domain: shop", "domain: Shop 1!"), "is not a name"),
    "a file of another name": (
        lambda folder: (folder / "intents/find_item.yaml").rename(folder / "intents/look.yaml"),
        "expected the file's own name 'look'",
    ),
    "a reserved name": (
        write("intents/unsure.yaml", "intent: unsure\nseeds: [a b]\n"),
        "'unsure' is reserved",
    ),
    "no seeds": (write("intents/find_item.yaml", "intent: find_item\n"), "seeds: expected a list of at least 1"),
    "a number as a seed": (write("intents/find_item.yaml", "intent: find_item\nseeds: [7]\n"), "is not a text"),
    "a label without an intent": (replace("domain.yaml", "labels:", "labels:\n  nothing: x"), "labels names 'nothing'"),
    "a template without an intent": (write("templates.yaml", "nothing: [x]\n"), "'nothing' is not an intent"),
    "a rule for an unknown intent": (replace("rules.yaml", "return_item", "nothing"), "nothing"),
    "a rule of an unknown kind": (replace("rules.yaml", "kind: reply", "kind: shout"), "shout"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_folder_is_one_clear_error(
    kind: str, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shop, tmp_path / "domain"))
    damage, words = DAMAGES[kind]
    damage(folder)
    with pytest.raises(DomainError, match=re.escape(words)):
        load_domain(folder)
    capsys.readouterr()
    assert fleet_main(["build", str(tmp_path / "bundle"), "--domain", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert words in said.err
    assert not (tmp_path / "bundle").exists(), "nothing half-made"
    assert fleet_main(["domain", "check", str(folder)]) != 0


def test_a_folder_that_is_not_there_names_the_command_that_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet_main(["domain", "check", str(tmp_path / "nowhere")]) != 0
    said = capsys.readouterr()
    assert "tacit-fleet domain new" in said.err + said.out
