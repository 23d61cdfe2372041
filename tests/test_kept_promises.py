"""Every promise that a user is shown, in a notice or in the privacy centre, is held by a test that is named here.

Whoever changes a promise changes this table, and names the test that holds the new one. What the tests do is their own business:
here stands only that they are there. The pages in docs/ are held to the tests that they name in the same way.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from shared_models.purposes import PURPOSES

ROOT = Path(__file__).parents[1]
CENTRE = ROOT / "edge_client" / "sidecar" / "centre"

NOTICES = {
    "When you correct or confirm the assistant, it may remember what you wrote, encrypted and on this device only.": (
        "test_nothing_is_kept_without_consent",
        "test_feedback_is_kept_with_consent_and_remembered",
        "test_after_an_erasure_nothing_is_found_and_old_copies_of_the_data_stay_shut",
        "test_devices_open_connections_in_three_places_only",
    ),
    "The app may remember what you do in it, encrypted and on this device only, and suggest what fits you;": (
        "test_only_what_the_schema_names_is_kept_and_the_rest_is_counted_by_name",
        "test_nothing_is_kept_without_consent",
        "test_nobody_is_called_from_the_sidecar",
    ),
    "switched off, all of that is erased.": (
        "test_withdrawal_takes_profile_events_windows_and_decisions_at_once_and_for_good",
        "test_after_a_withdrawal_nothing_of_the_purpose_is_found_raw_or_decrypted_or_in_old_copies",
    ),
    "This device may add a small, noise-protected learning step from your kept examples to the model that all users share;": (
        "test_training_examples_need_both_consents_and_are_embeddings_of_the_texts",
        "test_the_next_round_gets_nothing_and_costs_nothing_until_the_consent_counts_again",
        "test_only_the_gate_makes_what_leaves_a_device",
    ),
    "This device may add, noise-protected, which things you liked to a sum over many people, from which everybody's "
    "suggestions start;": (
        "test_liked_items_and_their_pairs_are_in_it_and_nothing_else",
        "test_no_vector_is_longer_than_the_clip_norm",
        "test_a_device_whose_user_did_not_allow_the_purpose_refuses_and_is_not_in_the_sum",
    ),
    "your own list never leaves it.": (
        "test_only_the_gate_makes_what_leaves_a_device",
        "test_every_study_goes_through_real_gates_and_leaves_its_artefacts",
    ),
    "This device may add, noise-protected, how kinds of suggestions were received to a sum over many people, from which new "
    "users' suggestions start;": (
        "test_every_study_goes_through_real_gates_and_leaves_its_artefacts",
        "test_a_device_whose_user_did_not_allow_the_purpose_refuses_and_is_not_in_the_sum",
    ),
    "no suggestion and no answer of yours leaves it.": ("test_only_the_gate_makes_what_leaves_a_device",),
    "This device may be counted, noise-protected, in sums over many people: how often the assistant was right, for which groups, "
    "whether that changes, and what other rules would have earned.": (
        "test_every_study_goes_through_real_gates_and_leaves_its_artefacts",
        "test_devices_without_data_say_zeros_and_all_spend_no_more_than_the_officer_allowed",
    ),
    "Nothing that you said or did leaves it.": ("test_only_the_gate_makes_what_leaves_a_device",),
    "What the assistant is about to tell you, and what you wrote if the app has set that, may be sent to the language model that "
    "the app has named;": (
        "test_only_who_has_a_model_on_another_machine_is_asked_about_one",
        "test_without_the_users_consent_nothing_is_sent_to_a_model_on_another_machine",
    ),
    "switched off, answers are worded on this device.": (
        "test_without_the_users_consent_nothing_is_sent_to_a_model_on_another_machine",
    ),
    "your words never leave it.": (
        "test_a_round_carries_nothing_of_the_users_words",
        "test_no_log_line_says_what_the_user_said",
    ),
}

PAGES = {
    "Nothing on it is sent anywhere.": (
        "test_pages_load_nothing_and_have_names_labels_and_landmarks",
        "test_no_file_of_the_package_can_open_a_connection",
    ),
    "It lies encrypted on this device.": (
        "test_after_an_erasure_nothing_is_found_and_old_copies_of_the_data_stay_shut",
    ),
    "Each of these is off until you switch it on.": ("test_every_purpose_is_off_until_it_is_granted",),
    "Switching one off erases what was kept for it.": (
        "test_a_switch_changes_the_consent_and_erases",
        "test_a_withdrawal_in_the_centre_leaves_nothing_to_contribute",
        "test_after_a_withdrawal_nothing_of_the_purpose_is_found_raw_or_decrypted_or_in_old_copies",
    ),
    "If you object, nothing above is used, whatever its switch says.": (
        "test_an_objection_stops_every_profiling_purpose_and_its_end_restores_only_what_was_not_withdrawn",
        "test_nothing_is_captured_while_the_user_objects",
        "test_the_next_round_gets_nothing_and_costs_nothing_until_the_consent_counts_again",
    ),
    "The assistant still answers, the same for you as for anybody.": (
        "test_whoever_objects_is_answered_as_anybody_would_be_and_leaves_no_trace",
    ),
    "A browser that sends the signal “Sec-GPC” objects for you.": (
        "test_global_privacy_control_is_heeded_before_the_event_and_stands",
    ),
    "Without your consent to suggestions no decision is kept.": (
        "test_nothing_is_captured_or_decided_while_a_purpose_is_restricted_and_everything_is_back_afterwards",
        "test_withdrawal_takes_profile_events_windows_and_decisions_at_once_and_for_good",
    ),
    "What you stop stays stopped until you restore it, whatever you allow elsewhere.": (
        "test_stopping_silences_it_until_it_is_restored",
        "test_the_buttons_of_the_centre_stop_and_restore",
        "test_disabled_stops_the_channel_and_a_withdrawal_leaves_nothing_to_see",
    ),
    "Your words, your profile and what you do never leave.": (
        "test_a_round_carries_nothing_of_the_users_words",
        "test_nothing_personal",
        "test_nobody_is_called_from_the_sidecar",
    ),
    "It never leaves the device.": (
        "test_only_the_gate_makes_what_leaves_a_device",
        "test_what_nights_have_learned_stands_there_and_is_forgotten_at_a_press",
    ),
    "Nothing is sent to a language model on another machine without your consent to just that.": (
        "test_without_the_users_consent_nothing_is_sent_to_a_model_on_another_machine",
    ),
    "What may leave, in rounds that you have allowed, is one vector of numbers with noise in it, of which only the sum over "
    "many devices can be read.": (
        "test_only_the_gate_makes_what_leaves_a_device",
        "test_the_next_round_gets_nothing_and_costs_nothing_until_the_consent_counts_again",
        "test_noise_and_sum",
        "test_secure_sum",
    ),
    "Each time costs a little of your privacy budget, ρ, which this device enforces itself.": ("test_gate_budget",),
    "“Proven” stands only where this device has checked a proof that the fleet's public ledger counts this contribution.": (
        "test_what_left_has_its_cost_and_a_tick_only_where_a_proof_was_checked",
    ),
    "First the keys are destroyed, then the files.": (
        "test_after_an_erasure_nothing_is_found_and_old_copies_of_the_data_stay_shut",
        "test_erasure_leaves_nothing_but_a_certificate",
    ),
    "The assistant ends and starts anew, knowing nothing.": (
        "test_what_was_erased_cannot_be_opened_again",
        "test_erasing_in_the_centre_leaves_no_file",
    ),
    "It is signed, holds counts and times only, and is kept nowhere else.": (
        "test_a_certificate_is_read_back_as_it_was_issued_and_is_signed_by_a_key_of_its_own",
        "test_erasing_in_the_centre_leaves_no_file",
    ),
    "A file that other programs can read: your profile and where it is from, your events, decisions and their reasons, "
    "consents, receipts and what they cost.": (
        "test_an_export_holds_all_that_is_kept_in_the_layout_that_is_published",
        "test_everything_can_be_taken_away_as_a_file",
    ),
}

SCHEDULE = {
    "An invited device answers": (
        "test_six_invited_devices_all_answer_and_the_sum_holds_those_that_trained",
        "test_the_process_that_carries_the_answer_survives_the_abort_and_never_sees_the_data",
        "test_an_answer_with_zeros_is_held_as_long_as_one_with_a_training",
    ),
    "Being online": (
        "test_being_online_hangs_on_the_pause_and_the_networks_cost_alone",
        "test_a_pause_takes_the_device_offline_between_rounds_only",
        "test_the_users_presence_and_power_do_not_take_the_device_offline",
    ),
    "The rules": (
        "test_it_is_allowed_exactly_if_there_is_no_reason_against_it",
        "test_the_end_is_the_first_moment_that_is_not_quiet",
        "test_pause_separation_and_last_outcome_survive_a_restart",
        "test_a_clock_that_is_set_back_makes_nobody_wait_for_years",
    ),
    "The user comes back": (
        "test_the_apps_word_that_the_user_is_back_leaves_no_process_behind",
        "test_a_watch_works_while_another_thread_holds_the_store",
        "test_the_training_process_does_not_outlive_a_killed_owner",
    ),
    "The probes": ("test_a_probe_that_fails_or_talks_nonsense_is_unknown", "test_probes"),
    "Visible to the user": ("test_the_privacy_centre_gets_plain_json_with_everything_in_it",),
}

PROMISING = re.compile(
    r"\b(never|nothing|only|erases|encrypted|off until|no decision|enforces|objects for you)\b", re.I
)
"""Words of a promise: a sentence of the privacy centre that holds one of them has to be in the table."""

STATES = {
    "There is no privacy policy in force that says how much may be spent, so nothing can leave now.",
    "Nothing yet.",
    "Nothing is kept.",
    "Nothing has left this device.",
    "It has learned nothing about your hours.",
}
"""Sentences that say how it is now, and promise nothing."""


def names_of_all_tests() -> set[str]:
    """Names of all test functions, and of all test files without `.py`."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found.add(path.stem)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


def sentences(text: str) -> list[str]:
    return [each.strip() for each in re.split(r"(?<=[.;!?])\s+", text) if each.strip()]


def centre_sentences() -> set[str]:
    """What the pages say in words of their own, without tags and placeholders."""
    found = set()
    for path in sorted(CENTRE.glob("*.html")):
        text = re.sub(
            r"\{%.*?%\}|</?(p|h\d|li|td|th|button|label|title|div|section|dt|dd)\b[^>]*>", "\n", path.read_text("utf-8")
        )
        for line in re.sub(r"<[^>]*>", "", text).splitlines():
            found |= {each for each in sentences(line) if "{{" not in each}
    return found


@pytest.fixture(scope="module")
def there() -> set[str]:
    return names_of_all_tests()


@pytest.mark.parametrize("promise", [*NOTICES, *PAGES, *SCHEDULE])
def test_the_tests_that_hold_a_promise_are_there(promise: str, there: set[str]) -> None:
    named = {**NOTICES, **PAGES, **SCHEDULE}[promise]
    assert named
    assert [name for name in named if name not in there] == []


def test_every_sentence_of_every_notice_is_in_the_table() -> None:
    shown = {each for purpose in PURPOSES.values() for each in sentences(purpose.description)}
    assert shown == set(NOTICES)


def test_every_promise_of_the_privacy_centre_is_in_the_table_and_stands_on_a_page() -> None:
    shown = centre_sentences()
    assert set(PAGES) <= shown, set(PAGES) - shown
    assert {each for each in shown if PROMISING.search(each)} - set(PAGES) <= STATES


def test_every_section_of_the_schedulers_page_is_in_the_table() -> None:
    text = (ROOT / "docs" / "scheduler.md").read_text("utf-8")
    assert set(re.findall(r"^## (.+)$", text, re.M)) == set(SCHEDULE)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_every_test_that_a_page_names_is_there(page: str, there: set[str]) -> None:
    named = re.findall(r"`(test_\w+)(?:\.py)?`", (ROOT / page).read_text("utf-8"))
    assert [name for name in named if name not in there] == []
