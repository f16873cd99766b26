"""Slurm's words, read on purpose: each state of its documentation, the reasons why jobs wait, sbatch's refusals."""

import pytest

from portal.schedulers.base import Deferred, InDoubt, Rejected, SchedulerState
from portal.schedulers.slurm_words import (
    FLAGS_WITHOUT_MEANING,
    STATES,
    is_held,
    never_runs,
    refusal_of,
    state_of,
    why_it_ended,
    why_it_waits,
    word_of,
)
from tests.slurm_recordings import VERSIONS, recorded

# "JOB STATE CODES" of squeue(1) and sacct(1), whole: the same in 22.05, 24.11 and 26.05.
DOCUMENTED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "CONFIGURING", "COMPLETING", "DEADLINE", "FAILED", "NODE_FAIL",
    "OUT_OF_MEMORY", "PENDING", "PREEMPTED", "RUNNING", "RESV_DEL_HOLD", "REQUEUE_FED", "REQUEUE_HOLD", "REQUEUED",
    "RESIZING", "REVOKED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT",
}  # fmt: skip


def test_every_documented_state_has_its_place_and_no_other_has() -> None:
    assert set(STATES) == DOCUMENTED


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("BOOT_FAIL", SchedulerState.NODE_FAILURE),
        ("NODE_FAIL", SchedulerState.NODE_FAILURE),
        ("DEADLINE", SchedulerState.TIME_LIMIT),
        ("TIMEOUT", SchedulerState.TIME_LIMIT),
        ("OUT_OF_MEMORY", SchedulerState.OUT_OF_MEMORY),
        ("CONFIGURING", SchedulerState.PENDING),
        ("REQUEUE_HOLD", SchedulerState.HELD),
        ("STAGE_OUT", SchedulerState.COMPLETING),
        ("REVOKED", SchedulerState.UNKNOWN),
    ],
)
def test_what_the_less_common_states_mean(word: str, state: SchedulerState) -> None:
    assert state_of(word) is state


# `--json` lists more flags: those of 26.05's data parsers.
FLAGS = {
    "COMPLETING", "CONFIGURING", "EXPEDITING", "LAUNCH_FAILED", "POWER_UP_NODE", "RECONFIG_FAIL", "REQUEUED",
    "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "REVOKED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT",
    "STOPPED", "UPDATE_DB",
}  # fmt: skip


@pytest.mark.parametrize("flag", sorted(FLAGS))
def test_a_flag_says_what_text_says_or_nothing(flag: str) -> None:
    assert word_of(["RUNNING", flag]) == ("RUNNING" if flag in FLAGS_WITHOUT_MEANING else flag)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["RUNNING"], "RUNNING"),
        (["CANCELLED", "COMPLETING"], "COMPLETING"),
        (["PENDING", "REQUEUED", "SPECIAL_EXIT"], "REQUEUED"),
        (["NODE_FAIL", "LAUNCH_FAILED"], "NODE_FAIL"),
        (["RUNNING", "CONFIGURING", "POWER_UP_NODE"], "CONFIGURING"),
        (["COMPLETED", "DREAMING"], "DREAMING"),
        (["LAUNCH_FAILED"], ""),
        ([], ""),
    ],
)
def test_a_state_and_its_flags_are_one_word(words: list[str], word: str) -> None:
    assert word_of(words) == word


def test_only_ends_are_final() -> None:
    ends = {word for word, state in STATES.items() if state.is_final}
    assert ends == {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "TIMEOUT",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["", "DREAMING", "completed", "COMPLETED ", "RUNNING+"])
def test_an_unknown_word_is_unknown_and_said_so(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert state_of(word) is SchedulerState.UNKNOWN
    assert "does not know" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Resources", "it waits for free nodes"),
        ("Priority", "other jobs have priority"),
        ("JobHeldAdmin", "it is held by an administrator of the cluster"),
        ("QOSMaxJobsPerUserLimit", "the portal's account has as many jobs at work as it may"),
        ("AssocMaxWallDurationPerJobLimit", "it asks for more than a single job may have here"),
        ("QOSMaxCpuPerJobLimit", "it asks for more than a single job may have here"),
        ("AssocGrpCpuLimit", "a limit of the portal's account on the cluster is reached"),
        ("ReqNodeNotAvail, UnavailableNodes:node[1-3]", "the nodes that it needs are not available"),
        ("PartitionTimeLimit", "its time limit is longer than the partition allows"),
    ],
)
def test_why_a_job_waits_in_plain_words_and_slurms_own(reason: str, words: str) -> None:
    assert why_it_waits(reason) == f"{words} ({reason})"


def test_a_reason_that_says_nothing_and_one_that_nobody_knows() -> None:
    assert why_it_waits("None") is None
    assert why_it_waits("") is None
    assert why_it_waits("SomethingNew") == "SomethingNew"


def test_why_it_ended_says_only_what_is_new() -> None:
    assert why_it_ended("BadConstraints") == "no node of the cluster can ever run it (BadConstraints)"
    launch = "it could not be started on its node"
    assert why_it_ended("JobLaunchFailure") == f"{launch} (JobLaunchFailure)"
    assert why_it_ended("RaisedSignal:53(Real-time signal 19)") == f"{launch} (RaisedSignal:53)"
    assert why_it_ended("RaisedSignal:9(Killed)") is None
    for said_already in ("NonZeroExitCode", "TimeLimit", "OutOfMemory", "NodeDown", "BeginTime", "None", ""):
        assert why_it_ended(said_already) is None


def test_who_waits_for_ever_and_who_for_somebody() -> None:
    assert is_held("JobHeldUser")
    assert is_held("JobHeldAdmin")
    assert is_held("launch failed requeued held")
    assert not is_held("Resources")
    assert never_runs("DependencyNeverSatisfied")
    assert never_runs("BadConstraints")
    assert not never_runs("Dependency")
    assert not never_runs("JobHeldAdmin")


REFUSALS: dict[str, tuple[type, str]] = {
    "sbatch-invalid-partition": (Rejected, "Invalid partition name specified"),
    "sbatch-invalid-account": (Rejected, "Invalid account or account/partition combination specified"),
    "sbatch-unknown-qos": (Rejected, "Invalid qos specification"),
    "sbatch-too-much-memory": (Rejected, "Requested node configuration is not available"),
    "sbatch-too-many-cpus": (Rejected, "More processors requested than permitted"),
    "sbatch-too-much-time": (Rejected, "Requested time limit is invalid (missing or exceeds some limit)"),
    "sbatch-bad-gres": (Rejected, "Invalid generic resource (gres) specification"),
    "sbatch-unknown-node-excluded": (Rejected, "Invalid node name specified"),
    "sbatch-bad-memory": (Rejected, "Invalid --mem specification"),
    "sbatch-bad-time": (Rejected, "Invalid --time specification"),
    "sbatch-unknown-option": (Rejected, "unrecognized option '--quickly'"),
    "sbatch-script-empty": (Rejected, "Batch script is empty!"),
    "sbatch-script-no-interpreter": (Rejected, "This does not look like a batch script."),
    "sbatch-too-many-submitted": (Deferred, "QOSMaxSubmitJobPerUserLimit; Job violates accounting/QOS policy"),
    "sbatch-queue-full": (Deferred, "Resource temporarily unavailable"),
    "sbatch-controller-down": (Deferred, "Unable to contact slurm controller (connect failure)"),
    "sbatch-script-missing": (Deferred, "Unable to open file nowhere.sh"),
    # It may have been that of the answer which failed.
    "sbatch-munge-down": (InDoubt, "Protocol authentication error"),
}


OTHER_WORDS = {("26.05.5", "sbatch-queue-full"): "MaxJobCount limit reached"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_recorded_refusal_means(name: str, version: str) -> None:
    exit_code, _, stderr = recorded(name, version)
    assert exit_code != 0
    kind, words = REFUSALS[name]
    words = OTHER_WORDS.get((version, name), words)
    answer = refusal_of(stderr)
    assert isinstance(answer, kind)
    assert words in answer.reason
    assert "sbatch:" not in answer.reason


@pytest.mark.parametrize(
    "stderr",
    [
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (receive failure)",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (send failure)",
        "sbatch: error: sleeping and retrying\nsbatch: error: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Something that a later version says",
        "Terminated",
        "",
    ],
)
def test_whatever_does_not_say_that_the_controller_has_it_not_is_in_doubt(stderr: str) -> None:
    answer = refusal_of(stderr)
    assert isinstance(answer, InDoubt)
    assert answer.reason
    assert "\n" not in answer.reason


def test_a_limit_of_a_single_job_is_for_good_and_one_of_all_passes() -> None:
    policy = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, …)"
    assert isinstance(refusal_of(f"sbatch: error: QOSMaxCpuPerJobLimit\n{policy}"), Rejected)
    assert isinstance(refusal_of(f"sbatch: error: AssocMaxSubmitJobLimit\n{policy}"), Deferred)
    assert isinstance(refusal_of(policy), Deferred)
