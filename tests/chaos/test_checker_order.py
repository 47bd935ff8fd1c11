"""The rules about messages among each other: order, groups, transactions. See test_checker.py."""

import pytest

from tests.chaos.stories import Story, broken


class TestDisordered:
    """A producer's order within a lane."""

    def test_two_messages_the_wrong_way_round(self, story: Story) -> None:
        story.send(1, 2)
        story.consume(2, 1)
        assert broken(story) == {"disordered"}

    def test_without_a_receipt_on_one_connection(self, story: Story) -> None:
        story.send(1, 2, answer=None)
        story.consume(2, 1)
        assert broken(story) == {"disordered"}

    def test_receipted_and_then_from_another_connection(self, story: Story) -> None:
        story.open("p2", "b")
        story.send(1)
        story.send(2, by="p2")
        story.consume(2, 1)
        assert broken(story) == {"disordered"}

    def test_without_a_receipt_from_another_connection(self, story: Story) -> None:
        story.open("p2", "b")
        story.send(1, answer=None)
        story.send(2, by="p2")
        story.consume(2, 1)
        assert broken(story) == set()

    def test_lanes_and_producers_do_not_wait_for_each_other(self, story: Story) -> None:
        story.send(1)
        story.send(2, producer="r")
        story.consume("r2", 1)
        assert broken(story) == set()

    def test_a_transaction_counts_from_its_commit(self, story: Story) -> None:
        story.send(2, transaction="t")
        story.send(1)
        story.end("t", by="p")
        story.consume(1, 2)
        assert broken(story) == set()

    def test_seen_by_two_consumers_in_any_order(self, story: Story) -> None:
        """What is on two sockets has no order that anybody could see."""
        story.send(1, 2)
        story.consume(2, to="d")
        story.consume(1)
        assert broken(story) == set()

    @pytest.mark.parametrize(("server", "verdict"), [("b", {"disordered"}), ("x", {"disordered"}), ("a", set())])
    def test_a_consumer_that_came_later_gets_the_earlier_one(
        self, story: Story, server: str, verdict: set[str]
    ) -> None:
        """Server a may have taken it before, for its other consumer."""
        story.send(1, 2)
        story.consume(2, to="d")
        story.open("e", server, "q")
        story.consume(1, to="e")
        assert broken(story) == verdict

    def test_credit_shows_when_a_message_was_handed_out(self) -> None:
        story = Story(credit=1)
        story.send(1, 2, 3)
        story.deliver(1)
        story.consume(3, to="d")
        story.ack(1)
        story.consume(2)
        assert broken(story) == {"disordered"}

    def test_a_repeat_may_come_after_its_successors(self, story: Story) -> None:
        story.send(1, 2)
        story.deliver(1)
        story.deliver(2)
        story.settle("nack", 1)
        story.consume(1)
        story.ack(2)
        assert broken(story) == set()

    def test_what_was_given_back_takes_its_own_place(self, story: Story) -> None:
        story.send(1, 2)
        story.deliver(1)
        story.settle("nack", 1)
        story.consume(2, 1)
        assert broken(story) == {"disordered"}

    def test_what_is_retried_later_does_not(self, story: Story) -> None:
        story.send(1, 2)
        story.deliver(1)
        story.settle("nack-later", 1)
        story.consume(2, 1)
        assert broken(story) == set()

    def test_what_one_consumer_left_behind_comes_in_order(self, story: Story) -> None:
        story.send(1, 2)
        story.deliver(1)
        story.deliver(2)
        story.close("c")
        story.consume(2, 1, to="d")
        assert broken(story) == {"disordered"}

    def test_handed_to_somebody_who_died_unseen(self, story: Story) -> None:
        story.send(1, 2)
        story.consume(2)
        story.deliver(1, count=2)
        story.ack(1)
        assert broken(story) == set()

    def test_another_gateways_broken_claim_holds_a_message_back(self, story: Story) -> None:
        story.send(1, 2)
        story.fault("backend-kill", "b")
        story.consume(2, 1)
        assert broken(story) == set()

    @pytest.mark.parametrize("server", ["a", "x"])
    def test_a_fault_of_its_own_or_of_who_does_not_consume_is_no_excuse(self, story: Story, server: str) -> None:
        story.send(1, 2)
        story.fault("backend-kill", server)
        story.consume(2, 1)
        assert broken(story) == {"disordered"}


class TestGroups:
    """A message group never overlaps, and waits for its head."""

    def test_two_of_a_group_at_once(self, story: Story) -> None:
        story.send(1, group="g")
        story.send(1, group="g", producer="r")
        story.deliver(1)
        story.deliver("r1", "d")
        story.ack(1)
        story.ack("r1", by="d")
        assert broken(story) == {"group-overlap"}

    def test_one_after_the_other(self, story: Story) -> None:
        story.send(1, 2, group="g")
        story.send(1, group="g", producer="r")
        story.consume(1)
        story.consume("r1", to="d")
        story.consume(2, to="d")
        assert broken(story) == set()

    def test_groups_and_queues_do_not_wait_for_each_other(self, story: Story) -> None:
        story.send(1, group="g")
        story.send(2, group="h")
        story.deliver(1)
        story.deliver(2, "d")
        story.ack(1)
        story.ack(2, by="d")
        assert broken(story) == set()

    def test_the_next_before_the_head_is_acked(self, story: Story) -> None:
        story.send(1, 2, group="g")
        story.deliver(1)
        story.settle("nack", 1)
        story.consume(2, 1)
        assert broken(story) == {"group-order"}

    def test_the_group_waits_for_a_delayed_retry(self, story: Story) -> None:
        story.send(1, 2, group="g")
        story.deliver(1)
        story.settle("nack-later", 1)
        story.consume(2, 1)
        assert broken(story) == {"group-order"}

    def test_the_wrong_way_round(self, story: Story) -> None:
        story.send(1, 2, group="g")
        story.consume(2, 1)
        assert broken(story) == {"group-order"}

    def test_the_head_comes_back_after_its_successor(self, story: Story) -> None:
        story.send(1, 2, group="g")
        story.deliver(1)
        story.ack(1, answer=None)
        story.consume(2)
        story.consume(1)
        assert broken(story) == {"group-order"}

    def test_a_consumer_that_died_lets_the_group_go_on_with_its_head(self, story: Story) -> None:
        story.send(1, 2, group="g")
        story.deliver(1)
        story.close("c")
        story.consume(1, 2, to="d")
        assert broken(story) == set()

    def test_a_head_that_went_in_a_crash_holds_nobody_up(self, story: Story) -> None:
        story.send(1, group="g", persistent=False)
        story.send(2, group="g")
        story.fault("postgres-kill", "postgres")
        story.consume(2)
        assert broken(story) == set()


class TestTransactions:
    """All or nothing."""

    @staticmethod
    def of_two_sends_and_an_ack(story: Story, answer: str | None, *, commit: bool = True) -> None:
        story.send(1)
        story.deliver(1)
        story.send(10, 11, by="c", producer="f", transaction="t")
        story.settle("ack", 1, transaction="t")
        story.end("t", commit=commit, answer=answer)  # type: ignore[arg-type]

    def test_committed(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, "done")
        story.consume("f10", "f11")
        assert broken(story) == set()

    def test_aborted(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, "done", commit=False)
        story.ack(1)
        assert broken(story) == set()

    def test_committed_and_a_send_is_missing(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, "done")
        story.consume("f10")
        assert broken(story) == {"torn", "lost"}

    def test_committed_and_the_ack_is_missing(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, "done")
        story.consume("f10", "f11")
        story.close("c")
        story.consume(1, to="d")
        assert broken(story) == {"torn", "resurrected"}

    def test_aborted_and_delivered(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, "done", commit=False)
        story.ack(1)
        story.consume("f10")
        assert broken(story) == {"torn"}

    def test_abandoned_and_delivered(self, story: Story) -> None:
        story.send(10, by="c", transaction="t")
        story.close("c")
        story.consume(10, to="d")
        assert broken(story) == {"torn"}

    def test_refused_and_acked_all_the_same(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, "refused")
        assert broken(story) == {"torn", "lost"}

    def test_unknown_and_whole(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, None)
        story.close("c")
        story.consume("f10", "f11", to="d")
        assert broken(story) == set()

    def test_unknown_and_nothing(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, None)
        story.close("c")
        story.consume(1, to="d")
        assert broken(story) == set()

    def test_unknown_and_half_of_the_sends(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, None)
        story.close("c")
        story.consume("f10", to="d")
        assert broken(story) == {"torn"}

    def test_unknown_and_sends_without_the_ack(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, None)
        story.close("c")
        story.consume(1, "f10", "f11", to="d")
        assert broken(story) == {"torn"}

    def test_unknown_and_the_ack_without_sends(self, story: Story) -> None:
        self.of_two_sends_and_an_ack(story, None)
        story.close("c")
        assert broken(story) == {"torn"}

    def test_what_it_acked_may_have_died_unwritten_with_its_gateway(self, story: Story) -> None:
        story.send(1, answer=None)
        story.deliver(1)
        story.send(10, 11, by="c", producer="f", transaction="t")
        story.settle("ack", 1, transaction="t")
        story.end("t", commit=True, answer=None)
        story.close("c")
        assert broken(story) == {"torn"}
        story.session_over("a")
        assert broken(story) == set()
