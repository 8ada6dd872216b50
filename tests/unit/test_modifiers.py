"""Every change of a token's state, by table and by long random walks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from apicas._documents import encode
from apicas.exceptions import TransitionError
from apicas.modifiers import (
    CLAIM_FIELDS,
    JOB_ID_FIELDS,
    BasicTokenModifier,
    Claim,
    NestedTokenModifier,
    Owner,
    batch_job_ids,
)
from apicas.tokens import (
    ERROR_MARK,
    MAX_HISTORY,
    TRANSITIONS,
    Change,
    Token,
    TokenState,
    annex,
    claim_of,
    count,
    generation_of,
    is_suspect,
    not_before,
    state_of,
    taken_from,
)
from tests.unit.json_values import HOSTILE, VALUES
from tests.unit.test_tokens import NOW, token_in

OWNER = Owner(pilot="p1", hostname="node1", process="b.7.5", job_ids={"slurm_job_id": "42_1"})
USER_FIELDS = {"input": {"n": 1}, "output": [2], "uploads": {"u": 3}, "mine": {"deep": [4]}}
modifier = BasicTokenModifier()


def claim(number: int = 1, now: float = NOW) -> Claim:
    return Claim(claim_id=f"c{number}", owner=OWNER, now=now, lease=60.0)


Apply = Callable[[dict[str, Any]], dict[str, Any]]
CHANGES: dict[Change, Apply] = {
    Change.LOCK: lambda token: modifier.lock(token, claim()),
    Change.REFRESH: lambda token: modifier.refresh(token, NOW + 10),
    Change.UNLOCK: modifier.unlock,
    Change.CLOSE: lambda token: modifier.close(token, NOW + 20),
    Change.UNCLOSE: modifier.unclose,
    Change.ADD_OUTPUT: lambda token: modifier.add_output(token, {"result": 1}),
    Change.SCRUB: lambda token: modifier.scrub(token, NOW + 20),
    Change.SET_ERROR: lambda token: modifier.set_error(token, "why", "trace", NOW + 20),
    Change.RELEASE: lambda token: modifier.release(token, NOW + 20),
    Change.RECLAIM: lambda token: modifier.reclaim(token, NOW + 20),
    Change.CRASH: lambda token: modifier.crash(token, NOW + 20),
    Change.RESET: lambda token: modifier.reset(token, NOW + 20),
}
ODD_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("scrub_count", "error", "hostname", "exit_code", *JOB_ID_FIELDS), VALUES),
        "apicas": st.one_of(
            VALUES,
            st.fixed_dictionaries(
                {},
                optional=dict.fromkeys(
                    (
                        *(*CLAIM_FIELDS, "generation", "crashes", "releases", "suspect", "taken"),
                        *("not_before", "history", "settled"),
                    ),
                    VALUES,
                ),
            ),
        ),
    },
)


def test_every_change_of_the_table_has_a_modifier() -> None:
    assert CHANGES.keys() == TRANSITIONS.keys() == set(Change)


def test_every_transition_of_the_table_happens() -> None:
    reached = set()
    for change, moves in TRANSITIONS.items():
        for state in moves:
            for exit_code in (0, 1) if state is TokenState.LOCKED else (token_in(state)["exit_code"],):
                token = CHANGES[change](token_in(state, exit_code=exit_code))
                reached.add((change, state, state_of(token)))
    table = {(change, state, goal) for change, moves in TRANSITIONS.items() for state in moves for goal in moves[state]}
    assert reached == table


@pytest.mark.parametrize("state", TokenState)
@pytest.mark.parametrize("change", Change)
@settings(max_examples=20)
@given(fields=ODD_FIELDS)
def test_a_change_leads_where_the_table_says(change: Change, state: TokenState, fields: dict[str, Any]) -> None:
    """Whatever stands in the other fields; an illegal one leaves the token as it was."""
    token = token_in(state, **USER_FIELDS)
    token |= {name: value for name, value in fields.items() if name != "exit_code" or state is TokenState.LOCKED}
    before = copy.deepcopy(token)
    if state not in TRANSITIONS[change]:
        with pytest.raises(TransitionError, match=str(state)):
            CHANGES[change](token)
        assert token == before
        return
    changed = CHANGES[change](token)
    assert changed is token  # PiCaS actors rely on the change, and on what is returned
    assert state_of(token) in TRANSITIONS[change][state]
    assert {name: token[name] for name in USER_FIELDS} == USER_FIELDS
    encode(token)


@pytest.mark.parametrize("change", [Change.LOCK, Change.SCRUB, Change.RELEASE, Change.RECLAIM, Change.RESET])
@settings(max_examples=40)
@given(fields=ODD_FIELDS)
def test_odd_fields_are_written_back_as_they_should_be(change: Change, fields: dict[str, Any]) -> None:
    token = token_in(next(iter(TRANSITIONS[change])))
    token |= fields | {"exit_code": ""}
    CHANGES[change](token)
    assert type(token["scrub_count"]) is int
    assert type(token["error"]) is list
    assert isinstance(token["apicas"], dict)


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["scrub_count", "error", "hostname", "exit_code", "slurm_job_id", "apicas"])
def test_no_field_is_too_odd_for_a_life(name: str, value: Any) -> None:
    """Lock, beat, scrub, lock, close: the ordinary life of a token that somebody else has written to."""
    token = token_in(TokenState.TODO) | {name: value}
    modifier.refresh(modifier.lock(token, claim()), NOW + 5)
    modifier.scrub(token, NOW + 6)
    modifier.close(modifier.lock(token, claim(2)), NOW + 9)
    assert state_of(token) is TokenState.DONE
    assert token["scrub_count"] == count(1 if name != "scrub_count" else count(value) + 1)
    if not isinstance(value, list):  # a list of errors is kept, whatever is in it
        assert len(encode(token)) < 2_000


@pytest.mark.parametrize("exit_code", [[], {}, {"toString": 1}, True, False, 10**400, "x", "1", 0.5, 2.0])
def test_a_closed_token_is_always_in_a_view(exit_code: Any) -> None:
    token = modifier.lock(token_in(TokenState.TODO), claim()) | {"exit_code": exit_code}
    modifier.close(token, NOW)
    assert state_of(token) in {TokenState.DONE, TokenState.ERROR}


@pytest.mark.parametrize("exit_code", ["", None, 0, "0", 0.0, False, "0x0", [], {"toString": 1}, {}, True])
def test_set_error_leaves_no_exit_code_that_shows_as_done(exit_code: Any) -> None:
    token = modifier.set_error(token_in(TokenState.LOCKED, exit_code=exit_code), now=NOW)
    assert state_of(token) is TokenState.ERROR
    assert token["exit_code"] == 1
    assert token["lock"] == token["done"] == ERROR_MARK  # PiCaS's tools look for it


def test_set_error_keeps_an_exit_code_that_says_why() -> None:
    assert modifier.set_error(token_in(TokenState.LOCKED, exit_code=137), now=NOW)["exit_code"] == 137


def test_set_error_adds_to_the_reasons() -> None:
    token = token_in(TokenState.LOCKED, error=[{"time": 1, "message": "first"}])
    modifier.set_error(token, "second", "Traceback", NOW)
    assert token["error"][0]["message"] == "first"
    assert token["error"][1] == {"time": NOW, "message": "second", "exception": "Traceback"}


def test_closing_twice_is_legal_and_changes_nothing() -> None:
    """PiCaS actors close themselves, and the pilot then closes again."""
    token = modifier.close(modifier.lock(token_in(TokenState.TODO), claim()), NOW + 5)
    once = copy.deepcopy(token)
    assert modifier.close(token, NOW + 99) == once


def test_closing_does_not_turn_an_error_into_a_success() -> None:
    """PiCaS's set_error leaves the exit code empty, which is an error by lock and done."""
    token = modifier.close(token_in(TokenState.ERROR, exit_code=""), NOW)
    assert state_of(token) is TokenState.ERROR


def test_a_commit_sets_lock_back_to_the_claim() -> None:
    """So that `done - lock` is the duration, as in PiCaS, though the heartbeat moved the lock."""
    token = modifier.lock(token_in(TokenState.TODO), claim())
    for beat in range(1, 10):
        modifier.refresh(token, NOW + 15 * beat)
    assert modifier.close(token, NOW + 150)["lock"] == NOW
    assert token["done"] - token["lock"] == 150


@pytest.mark.parametrize("claimed", [0, -5, True, "x", None, 1.5])
def test_an_odd_claim_time_does_not_take_a_done_token_out_of_its_view(claimed: Any) -> None:
    token = modifier.lock(token_in(TokenState.TODO), claim())
    token["apicas"]["claimed"] = claimed
    assert state_of(modifier.close(token, NOW + 1)) is TokenState.DONE


def test_a_lock_that_somebody_else_wrote_is_left_as_it_is() -> None:
    token = modifier.lock(token_in(TokenState.TODO), claim()) | {"lock": NOW + 500}
    assert modifier.close(token, NOW + 600)["lock"] == NOW + 500


def test_a_claim_says_who_holds_the_token() -> None:
    token = modifier.lock(token_in(TokenState.TODO, exit_code=3, pbs_job_id="old"), claim())
    assert (token["lock"], token["done"], token["hostname"], token["exit_code"]) == (NOW, 0, "node1", "")
    assert (token["slurm_job_id"], "pbs_job_id" in token) == ("42_1", False)
    assert set(CLAIM_FIELDS) - {"isolated", "claimed"} <= set(annex(token))
    assert (annex(token)["lease"], annex(token)["lock"], annex(token)["pilot"]) == (60.0, NOW, "p1")


@pytest.mark.parametrize("change", [Change.UNLOCK, Change.SCRUB, Change.RELEASE, Change.RECLAIM, Change.RESET])
def test_a_token_sent_back_carries_nothing_of_its_claim(change: Change) -> None:
    token = CHANGES[change](modifier.lock(token_in(TokenState.TODO), claim()))
    assert not set(CLAIM_FIELDS) & set(annex(token))
    assert not set(JOB_ID_FIELDS) & set(token)
    assert (token["lock"], token["done"], token["exit_code"]) == (0, 0, "")


@pytest.mark.parametrize("change", [Change.UNLOCK, Change.CLOSE, Change.SCRUB, Change.SET_ERROR, Change.RELEASE])
def test_the_writer_of_an_outcome_can_recognise_it(change: Change) -> None:
    token = CHANGES[change](modifier.lock(token_in(TokenState.TODO), claim()))
    assert annex(token)["settled"] == "c1"


@pytest.mark.parametrize("change", [Change.RECLAIM, Change.RESET])
def test_what_others_did_is_not_taken_for_an_outcome(change: Change) -> None:
    token = CHANGES[change](modifier.lock(token_in(TokenState.TODO), claim()))
    assert "settled" not in annex(token)


def test_an_outcome_after_the_users_own_close_can_still_be_recognised() -> None:
    """process_token closed the token, and then asked for a retry."""
    token = modifier.close(modifier.lock(token_in(TokenState.TODO), claim()), NOW)
    modifier.scrub(token, NOW, not_before=NOW + 60)
    assert annex(token)["settled"] == "c1"
    assert annex(token)["not_before"] == NOW + 60


def test_a_scrub_forgets_an_old_not_before() -> None:
    token = modifier.set_error(token_in(TokenState.TODO, apicas={"not_before": NOW + 999}), now=NOW)
    assert "not_before" not in annex(modifier.scrub(token, NOW))


def test_a_foreign_token_gets_no_sub_object_without_need() -> None:
    assert "apicas" not in modifier.unlock(token_in(TokenState.LOCKED))


def test_a_reset_starts_again_and_keeps_what_was_found() -> None:
    token = modifier.lock(token_in(TokenState.TODO, scrub_count=4, _attachments={"log": {"stub": True}}), claim())
    modifier.set_error(modifier.add_output(token, {"output": 5}), "why", now=NOW)
    modifier.reset(token, NOW)
    assert (token["scrub_count"], token["hostname"], token["output"]) == (0, "", 5)
    assert [error["message"] for error in token["error"]] == ["why"]
    assert token["_attachments"] == {"log": {"stub": True}}


@pytest.mark.parametrize("change", [Change.CLOSE, Change.SCRUB, Change.SET_ERROR, Change.RELEASE, Change.RESET])
def test_without_a_clock_nothing_is_half_changed(change: Change) -> None:
    token = modifier.lock(token_in(TokenState.TODO), claim())
    before = copy.deepcopy(token)
    without_clock: dict[Change, Callable[[], Any]] = {
        Change.CLOSE: lambda: modifier.close(token),
        Change.SCRUB: lambda: modifier.scrub(token),
        Change.SET_ERROR: lambda: modifier.set_error(token, "why"),
        Change.RELEASE: lambda: modifier.release(token),
        Change.RESET: lambda: modifier.reset(token),
    }
    with pytest.raises(TypeError, match="pass now="):
        without_clock[change]()
    assert token == before


def test_a_bound_modifier_uses_its_owners_name_and_clock() -> None:
    bound = BasicTokenModifier()
    bound.bind(OWNER, lambda: NOW + 3.7)
    token = bound.scrub(token_in(TokenState.LOCKED))
    assert token["hostname"] == "node1"
    assert annex(token)["history"][-1]["time"] == NOW + 3


def reclaimed(times: int, **keywords: Any) -> dict[str, Any]:
    token = token_in(TokenState.TODO)
    for number in range(times):
        modifier.reclaim(modifier.lock(token, claim(number)), NOW + number, **keywords)
    return token


def test_the_first_silence_makes_a_suspect_and_the_next_ones_are_charged() -> None:
    """A pilot takes all its tokens with it, most of them innocent; a suspect had a process of its own."""
    assert [(is_suspect(reclaimed(times)), Token(reclaimed(times)).crashes) for times in range(4)] == [
        (False, 0),
        (True, 0),
        (True, 1),
        (True, 2),
    ]


def test_a_suspect_that_had_a_process_of_its_own_is_not_charged_with_its_pilots_end() -> None:
    """Its own crash would not have taken the pilot along. It is counted apart, since everything comes to an end."""
    token = reclaimed(1)
    for number in range(2):
        lock = Claim(claim_id=f"i{number}", owner=OWNER, now=NOW, lease=900, isolated=True)
        modifier.reclaim(modifier.lock(token, lock), NOW)
    assert (Token(token).crashes, annex(token)["vanished"]) == (0, 2)
    modifier.reclaim(modifier.lock(token, claim(9)), NOW)
    assert (Token(token).crashes, annex(token)["vanished"]) == (1, 2)
    assert "vanished" not in annex(modifier.reset(token, NOW))


def test_a_silence_that_is_nobodys_fault_is_not_charged() -> None:
    token = reclaimed(3, charge=False)
    assert not is_suspect(token)
    assert "crashes" not in annex(token)
    assert Token(token).generation == 6


def test_a_late_result_is_known_until_the_next_claim() -> None:
    token = reclaimed(1)
    assert taken_from(token) == claim(0).claim_id
    assert taken_from(modifier.set_error(dict(token), "too many", None, NOW)) == claim(0).claim_id
    for ended in (modifier.lock(dict(token), claim(1)), modifier.reset(dict(token), NOW)):
        assert taken_from(ended) is None


def test_a_crash_is_charged_and_makes_a_suspect() -> None:
    token = modifier.crash(modifier.lock(token_in(TokenState.TODO), claim()), NOW + 5, not_before=NOW + 50)
    assert (token["lock"], token["scrub_count"], Token(token).crashes, not_before(token)) == (0, 0, 1, NOW + 50)
    assert is_suspect(token)
    assert annex(token)["history"][-1]["event"] == "crashed"
    assert not is_suspect(modifier.reset(token, NOW + 6))


def test_the_sub_object_stays_small() -> None:
    """It is in every write of the token, for all its life."""
    token = token_in(TokenState.TODO, hostname="h" * 100_000)
    for number in range(3000):
        modifier.lock(token, claim(number))
        (modifier.scrub, modifier.release, modifier.reclaim, modifier.crash)[number % 4](token, NOW + number)
    assert len(annex(token)["history"]) == MAX_HISTORY
    assert len(encode(annex(token))) < 4_000


class Life(RuleBasedStateMachine):
    """A token that any mix of pilots, users and scripts changes, each as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.token = token_in(TokenState.TODO, **USER_FIELDS)
        self.claims = 0

    def counters(self) -> dict[str, int]:
        annexed = annex(self.token)
        return {
            "generation": generation_of(self.token),
            "scrub_count": count(self.token.get("scrub_count")),
            "crashes": count(annexed.get("crashes")),
            "releases": count(annexed.get("releases")),
        }

    @rule(change=st.sampled_from([change for change in Change if change is not Change.LOCK]))
    def change(self, change: Change) -> None:
        self.apply(change, CHANGES[change])

    @rule()
    def lock(self) -> None:
        self.claims += 1
        self.apply(Change.LOCK, lambda token: modifier.lock(token, claim(self.claims)))

    @precondition(lambda self: state_of(self.token) is TokenState.LOCKED)
    @rule(exit_code=st.sampled_from([0, 1, "", "x", 2.0]))
    def end(self, exit_code: Any) -> None:
        self.token["exit_code"] = exit_code

    def apply(self, change: Change, apply: Apply) -> None:
        state, before, counters = state_of(self.token), copy.deepcopy(self.token), self.counters()
        try:
            apply(self.token)
        except TransitionError:
            assert state not in TRANSITIONS[change]
            assert self.token == before
            return
        assert state_of(self.token) in TRANSITIONS[change][state]
        for name, number in self.counters().items():
            assert number >= counters[name] or (change is Change.RESET and name != "generation" and number == 0)

    @invariant()
    def the_users_fields_are_the_users(self) -> None:
        assert {name: self.token[name] for name in USER_FIELDS} == USER_FIELDS

    @invariant()
    def only_a_token_that_is_locked_has_a_claim(self) -> None:
        assert claim_of(self.token) is None or state_of(self.token) is TokenState.LOCKED

    @invariant()
    def the_token_can_be_stored(self) -> None:
        assert len(encode(annex(self.token))) < 4_000


def test_a_life_is_always_in_order() -> None:
    run_state_machine_as_test(Life, settings=settings(max_examples=50, stateful_step_count=40))


@pytest.mark.parametrize(
    ("environ", "fields"),
    [
        ({}, {}),
        ({"SLURM_JOB_ID": "7"}, {"slurm_job_id": "7"}),
        ({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "3"}, {"slurm_job_id": "6_3"}),
        ({"PBS_JOBID": "p", "SLURM_JOB_ID": "7"}, {"pbs_job_id": "p"}),
        ({"CREAM_JOBID": "c", "PBS_JOBID": "p"}, {"cream_job_id": "c"}),
        ({"GLITE_WMS_JOBID": "https://w", "CREAM_JOBID": "c"}, {"wms_job_id": "https://w"}),
        ({"GLITE_WMS_JOBID": "Undefined", "CREAM_JOBID": "c"}, {}),
        ({"DIRACJOBID": "d", "GLITE_WMS_JOBID": "https://w"}, {"dirac_job_id": "d"}),
    ],
)
def test_the_outermost_batch_job_is_told(environ: dict[str, str], fields: dict[str, str]) -> None:
    assert batch_job_ids(environ) == fields


def test_a_nested_token_lives_like_any_other() -> None:
    """In place, inside its document, and without a type of its own."""
    document: dict[str, Any] = {"_id": "d", "type": "record", "parts": [{"lock": 0, "done": 0}, {"lock": 0, "done": 0}]}
    nested = NestedTokenModifier()
    nested.bind(OWNER, lambda: NOW)
    path = ("parts", 1)
    assert nested.lock(path, document, claim()) is document
    nested.refresh(path, document, NOW + 5)
    nested.scrub(path, document)
    nested.lock(path, document, claim(2))
    nested.release(path, document)
    nested.lock(path, document, claim(3))
    nested.reclaim(path, document, NOW)
    nested.lock(path, document, claim(4))
    nested.unlock(path, document)
    nested.lock(path, document, claim(5))
    nested.add_output(path, document, {"output": 1})
    nested.close(path, document)
    nested.unclose(path, document)
    nested.set_error(path, document, "why")
    token = nested.get_token(path, document)
    assert (token["lock"], token["scrub_count"], token["output"]) == (99, 1, 1)
    assert nested.reset(path, document)["parts"][1]["lock"] == 0
    assert document["parts"][0] == {"lock": 0, "done": 0}


@pytest.mark.parametrize("path", ["absent", ("parts", 5), ("parts", "x"), ("_id", 0), ("_id",), ("parts",)])
def test_a_path_to_nothing_is_a_key_error(path: Any) -> None:
    with pytest.raises(KeyError):
        NestedTokenModifier().get_token(path, {"_id": "d", "parts": []})
