"""Whose job goes in next, and how much of the scheduler one person may fill."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.dispatch.fairness import Held, choose


def jobs(**numbers: int) -> list[tuple[str, str]]:
    """So many candidates of each person, one person's after the other's."""
    return [(owner, f"{owner}{number}") for owner, count in numbers.items() for number in range(count)]


def owners(names: list[str]) -> Counter[str]:
    return Counter(name.rstrip("0123456789") for name in names)


def test_everybodys_first_before_anybodys_second() -> None:
    assert choose(jobs(ann=3, bob=2), {}, 100, 100, 4) == ["ann0", "bob0", "ann1", "bob1"]


def test_whoever_has_much_in_the_scheduler_already_comes_after_those_who_have_nothing() -> None:
    held = {"ann": Held(5, 0)}
    assert choose(jobs(ann=2, bob=2), held, 100, 100, 3) == ["bob0", "bob1", "ann0"]


def test_ten_thousand_jobs_of_one_person_leave_room_for_the_next() -> None:
    chosen = choose(jobs(ann=10_000), {}, 1000, 10_000, 10_000)
    assert len(chosen) == 800
    held = {"ann": Held(800, 0)}
    assert choose(jobs(ann=9_200, bob=1), held, 1000, 10_000, 10_000) == ["bob0"]


def test_two_share_and_still_leave_room() -> None:
    chosen = owners(choose(jobs(ann=2000, bob=2000), {}, 900, 2000, 2000))
    assert chosen["ann"] == chosen["bob"] == 400


def test_what_one_person_has_waiting_in_the_scheduler_is_bounded() -> None:
    held = {"ann": Held(50, 8)}
    assert choose(jobs(ann=5, bob=20), held, 1000, 10, 100) == [*(f"bob{n}" for n in range(10)), "ann0", "ann1"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_small_cap_is_used_to_the_full(most: int) -> None:
    assert len(choose(jobs(ann=10), {}, most, 100, 100)) == most


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 30)),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 30)),
    st.integers(1, 60),
)
def test_the_cap_holds_and_nobody_new_is_left_out_as_long_as_there_is_a_place(
    numbers: dict[str, int], held_jobs: dict[str, int], most: int
) -> None:
    held = {owner: Held(count, 0) for owner, count in held_jobs.items()}
    chosen = owners(choose(jobs(**numbers), held, most, 100, 1000))
    total = sum(held_jobs.values()) + chosen.total()
    assert chosen.total() == 0 or total <= most
    newcomers = [owner for owner in numbers if not held_jobs.get(owner)]
    if total < most:
        assert all(chosen[owner] > 0 for owner in newcomers)
    for owner, count in chosen.items():
        assert count <= numbers[owner]
