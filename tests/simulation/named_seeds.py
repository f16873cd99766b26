"""Every bug that the simulation found, with the history that showed it.

A seed means another history once the simulation, or the order in which the portal takes its steps, has changed: the
tests named here hold each mend by itself, whatever becomes of the seed.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class NamedSeed:
    """One find."""

    name: str
    seed: int
    what_it_was: str
    held_by: str
    """The test of the mend."""


NAMED_SEEDS = (
    NamedSeed(
        "a zombie that mails",
        289,
        "Where nodes mail, a node that came back after its job was told as failed mailed the success, and the portal "
        "mailed the correction as well: two Message-IDs for one outcome.",
        "tests/quick/test_polling.py::test_where_nodes_mail_the_nodes_own_word_of_a_late_success_is_the_correction",
    ),
    NamedSeed(
        "a zombie that mails while another attempt is opened",
        276,
        "A node that came back between the verdict and the folder of the next attempt mailed a success that nobody was "
        "to hear of.",
        "tests/quick/test_polling.py::"
        "test_a_node_that_tells_of_its_success_while_another_attempt_is_being_opened_is_believed",
    ),
    NamedSeed(
        "a sender overtaken while it writes",
        977,
        "A sender stood still between making a message and handing it over, while another dispatcher took over and "
        "sent its own: the same Message-ID went out with two different contents.",
        "tests/quick/test_mail_outbox.py::test_a_sender_that_was_overtaken_while_it_wrote_the_message_does_not_send_it",
    ),
    NamedSeed(
        "a predecessor's last step",
        20,
        "A dispatcher stood still in the middle of mending a job's files, was overtaken, and on waking removed the "
        "verdict and the marker that its successor had published; nobody looked at them before the next take-over.",
        "tests/quick/test_polling.py::test_what_a_predecessor_does_when_it_wakes_up_late_is_mended",
    ),
)
