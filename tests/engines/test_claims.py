"""Work that processes share by claims."""

import time

import pytest

from slotworks.files import Claims, only_one


@pytest.fixture
def claims(tmp_path):
    def make(count=4, first=0):
        def done(k):
            return (tmp_path / f"done{k}").exists()

        def claim(k):
            return only_one(tmp_path / f"lock{k}", wait=False)

        return Claims(range(count), claim, done, lambda: {k for k in range(count) if done(k)}, first)

    return make


def test_two_share_all_and_none_twice(claims, tmp_path):
    one, other = claims(4), claims(4, first=2)
    assert [one.take(), other.take(), one.take()] == [0, 2, 1]
    (tmp_path / "done2").touch()
    other.release(2)
    assert other.take() == 3
    for k in (0, 1, 3):
        (tmp_path / f"done{k}").touch()
    assert one.take() is None
    assert other.take() is None


def test_what_was_given_up_is_taken_by_another(claims, tmp_path, monkeypatch):
    monkeypatch.setattr(Claims, "PAUSES", (0.01, 0.01))
    one, other = claims(2), claims(2)
    assert one.take() == 0
    assert other.take() == 1
    one.close()  # as at its death
    assert other.take() == 0


def test_pauses_grow_while_others_work(claims, tmp_path, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 12:
            (tmp_path / "done0").touch()

    monkeypatch.setattr(time, "sleep", sleep)
    with only_one(tmp_path / "lock0"):
        assert claims(1).take() is None
    assert slept == [min(30, 0.1 * 2**k) for k in range(12)]


def test_what_is_listed_is_not_asked_for(tmp_path):
    asked = []

    def done(k):
        asked.append(k)
        return k == 3  # it was finished after the listing

    claims = Claims(range(5), lambda k: only_one(tmp_path / str(k), wait=False), done, lambda: {0, 2})
    assert [claims.take(), claims.take(), claims.take()] == [1, 4, None]
    assert asked == [1, 3, 4]


def test_no_work_and_a_closed_one(claims):
    assert claims(0).take() is None
    closed = claims(2)
    closed.close()
    assert closed.take() is None
