"""Each rule of the checker catches its fault, in a history made by hand, and lets pass what only looks like it."""

from pathlib import Path

import pytest

from tests.chaos.checker import RULES, check
from tests.chaos.excerpt import excerpt
from tests.chaos.history import Sending, describe, load, save
from tests.chaos.stories import Story, broken


def test_a_quiet_history_breaks_nothing(story: Story) -> None:
    story.send(1, 2, 3)
    story.consume(1, 2, 3)
    assert broken(story) == set()


def test_a_history_survives_its_file(story: Story, tmp_path: Path) -> None:
    story.send(1)
    story.deliver(1)
    story.settle("ack", 1, transaction="t")
    story.end("t", answer=None)
    story.fault("postgres-kill", "postgres")
    story.session_over("a")
    save(story.events, tmp_path / "history.jsonl")
    assert load(tmp_path / "history.jsonl") == story.events


class TestLost:
    """Nothing receipted is lost."""

    def test_receipted_and_never_delivered(self, story: Story) -> None:
        story.send(1, 2)
        story.consume(2)
        assert broken(story) == {"lost"}

    def test_given_back_and_never_delivered_again(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.settle("nack", 1)
        assert broken(story) == {"lost"}

    def test_with_a_consumer_that_died(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.close("c")
        assert broken(story) == {"lost"}

    def test_sent_by_a_committed_transaction(self, story: Story) -> None:
        story.send(1, transaction="t")
        story.end("t", by="p")
        assert broken(story) == {"lost", "torn"}

    def test_acked_by_an_aborted_transaction(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.settle("ack", 1, transaction="t")
        story.end("t", commit=False)
        assert broken(story) == {"lost"}

    def test_acked_too_late_though_receipted(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.session_over("a")
        story.ack(1)
        assert broken(story) == {"lost"}

    def test_an_ack_that_is_overtaken_by_the_next_delivery_to_the_same_consumer(self, story: Story) -> None:
        """It names the message, not the delivery: after a further delivery it is good for that."""
        story.send(1)
        story.deliver(1)
        story.session_over("a")
        story.settle("ack", 1, transaction="t")
        story.end("t", answer=None)
        story.deliver(1)
        story.close("c")
        assert broken(story) == set()

    def test_an_ack_without_a_receipt_may_have_ended_it(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.ack(1, answer=None)
        story.close("c")
        assert broken(story) == set()

    def test_without_a_receipt_nothing_is_promised(self, story: Story) -> None:
        story.send(1, answer=None)
        assert broken(story) == set()

    def test_only_what_is_persistent_outlives_postgres(self, story: Story) -> None:
        story.send(1, persistent=False)
        story.send(2)
        story.fault("postgres-kill", "postgres")
        assert [violation.messages for violation in check(story.events)] == [("2",)]

    def test_what_is_not_persistent_outlives_a_gateway(self, story: Story) -> None:
        story.send(1, persistent=False)
        story.fault("gateway-kill", "a")
        assert broken(story) == {"lost"}

    def test_what_is_left_of_a_killed_postgres_may_take_a_message_and_lose_it(self, story: Story) -> None:
        story.fault("postgres-kill", "postgres")
        story.send(1, persistent=False)
        story.fault("postgres-back", "postgres")
        assert broken(story) == set()

    def test_a_crash_before_the_send_is_no_excuse(self, story: Story) -> None:
        story.fault("postgres-kill", "postgres")
        story.fault("postgres-back", "postgres")
        story.send(1, persistent=False)
        assert broken(story) == {"lost"}


def test_what_the_drain_leaves_behind_is_stuck(story: Story) -> None:
    story.send(1, answer=None)
    story.remain(1)
    assert broken(story) == {"stuck"}


class TestUnmarked:
    """Nothing unmarked is repeated."""

    def test_delivered_twice_as_if_for_the_first_time(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.close("c")
        story.deliver(1, "d", count=1)
        story.ack(1, by="d")
        assert broken(story) == {"unmarked"}

    def test_a_count_without_the_mark(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.close("c")
        story.deliver(1, "d", redelivered=False)
        story.ack(1, by="d")
        assert broken(story) == {"unmarked"}

    def test_a_count_that_stands_still(self, story: Story) -> None:
        story.send(1)
        for name, count in (("c", 1), ("e", 2), ("f", 2)):
            story.open(name, "a", "q")
            story.deliver(1, name, count)
            story.close(name)
        story.consume(1, to="d")
        assert broken(story) == {"unmarked"}

    def test_a_marked_repeat(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.close("c")
        story.consume(1, to="d")
        assert broken(story) == set()

    def test_the_first_one_may_be_seen_last(self, story: Story) -> None:
        """It lay in a frozen gateway's memory while its session ended."""
        story.send(1)
        story.fault("gateway-freeze", "a")
        story.session_over("a")
        story.deliver(1, "d", count=2)
        story.deliver(1, "c", count=1)
        story.ack(1, by="d", count=2)
        assert broken(story) == set()


class TestResurrected:
    """Nothing acked comes back."""

    def test_after_a_receipted_ack(self, story: Story) -> None:
        story.send(1)
        story.consume(1)
        story.consume(1, to="d")
        assert broken(story) == {"resurrected"}

    def test_after_a_committed_ack(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.settle("ack", 1, transaction="t")
        story.end("t")
        story.consume(1, to="d")
        assert broken(story) == {"resurrected", "torn"}

    def test_an_ack_whose_outcome_is_unknown_may_have_failed(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.ack(1, answer=None)
        story.close("c")
        story.consume(1, to="d")
        assert broken(story) == set()

    def test_an_ack_that_came_too_late_is_void(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.session_over("a")
        story.ack(1)
        story.consume(1, to="d")
        assert broken(story) == set()

    def test_another_process_losing_its_session_is_no_excuse(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.session_over("b")
        story.ack(1)
        story.consume(1, to="d")
        assert broken(story) == {"resurrected"}


class TestHeldTwice:
    """One consumer holds a message at a time."""

    def test_with_two_consumers_at_once(self, story: Story) -> None:
        story.send(1)
        story.deliver(1)
        story.deliver(1, "d")
        story.ack(1, by="d")
        assert "held-twice" in broken(story)

    @pytest.mark.parametrize("how", ["close", "unsubscribe", "session", "kill"])
    def test_whoever_lost_it_holds_it_no_longer(self, story: Story, how: str) -> None:
        story.send(1)
        story.deliver(1)
        {
            "close": lambda: story.close("c"),
            "unsubscribe": lambda: story.unsubscribe("c"),
            "session": lambda: story.session_over("a"),
            "kill": lambda: story.fault("gateway-kill", "a"),
        }[how]()
        story.consume(1, to="d")
        assert broken(story) == set()

    def test_a_server_that_hangs_up_over_an_ack_gave_it_back_before_we_saw(self, story: Story) -> None:
        story.send(1, 2)
        story.deliver(1)
        story.deliver(2)
        story.ack(1, answer=None)
        story.deliver(2, "d")
        story.close("c", by="error")
        story.ack(2, by="d")
        assert broken(story) == set()


class TestPhantom:
    """Only what was sent is delivered."""

    def test_what_nobody_sent(self, story: Story) -> None:
        story.deliver("spook")
        assert broken(story) == {"phantom"}

    def test_what_was_refused(self, story: Story) -> None:
        story.send(1, answer="refused")
        story.consume(1)
        assert broken(story) == {"phantom"}

    def test_from_another_queue(self, story: Story) -> None:
        story.send(1)
        story.deliver(1, queue="elsewhere")
        story.ack(1)
        assert broken(story) == {"phantom"}

    def test_before_its_transaction_was_committed(self, story: Story) -> None:
        story.send(1, transaction="t")
        story.consume(1)
        story.end("t", by="p")
        assert broken(story) == {"phantom"}


def test_more_messages_than_the_credit_allows() -> None:
    story = Story(credit=2)
    story.send(1, 2, 3)
    story.consume(1)
    story.deliver(2)
    story.deliver(3)
    story.ack(2, 3)
    assert broken(story) == set()
    greedy = Story(credit=2)
    greedy.send(1, 2, 3)
    for number in (1, 2, 3):
        greedy.deliver(number)
    greedy.ack(1, 2, 3)
    assert broken(greedy) == {"overdrawn"}


def test_every_rule_is_caught_here() -> None:
    """A rule without a test that breaks it would be a rule that nobody has seen at work."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_checker*.py"))
    assert [rule for rule in RULES if f'"{rule}"' not in tests] == []


def test_an_excerpt_shows_the_violation_and_little_else(story: Story) -> None:
    for number in range(1, 40):
        story.send(number)
    story.consume(*range(1, 20), 21, 20, *range(22, 40))
    story.open("idle", "b", "q")
    (violation,) = check(story.events)
    shown = excerpt(story.events, violation)
    assert {event.message for event in shown if isinstance(event, Sending)} == {"20", "21"}
    assert not any("idle" in line for line in describe(shown))
    assert check(shown) == [violation]
