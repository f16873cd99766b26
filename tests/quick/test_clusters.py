"""What a failed test tells of its cluster."""

from types import SimpleNamespace

import pytest

from tests.clusters import clusters_of


class Cluster:
    kind = "Slurm"

    def diagnostics(self) -> str:
        return "all nodes are down"


@pytest.mark.parametrize("part", ["cluster", "cell"])
def test_a_cluster_is_told_of_once_whether_a_test_has_it_or_a_portal_on_it(part: str) -> None:
    cluster = Cluster()
    site = SimpleNamespace(kind="slurm", **{part: cluster})
    item = SimpleNamespace(funcargs={"site": site, "other": cluster, "tmp_path": "x"})
    assert clusters_of(item) == [cluster]
