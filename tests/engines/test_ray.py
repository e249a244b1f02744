"""Parts on Ray: a cluster of this machine, and one of three nodes of which one is lost in the middle."""

import os
import socket
import sys
from pathlib import Path

import pytest
import simple_parts

from slotworks.engines import Part, find_engine
from slotworks.errors import UserError

ray = pytest.importorskip("ray", reason="Ray is missing; install it with `pip install 'slotworks[ray]'`")
from slotworks.engines.ray_cluster import Ray, _shipped  # noqa: E402


def test_nobody_answers_at_the_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"No Ray cluster answers at {address} .Connection refused"):
        list(find_engine("ray", address=address).run([Part("a", simple_parts.square, (1,))]))
    for wrong in ("head", "head:", "head:port", "head:99999"):
        with pytest.raises(UserError, match=f"--address is {wrong}; expected HOST:PORT"):
            Ray(wrong).slots()


def test_machines_that_cannot_run_parts_say_why(tmp_path, monkeypatch):
    run = _shipped()
    assert run("0.0.1", str(tmp_path), b"")[0] == "refused"
    assert "0.0.1; install the same on both." in run("0.0.1", str(tmp_path), b"")[1]
    from slotworks.version import __version__

    assert "does not see /nowhere" in run(__version__, "/nowhere", b"")[1]
    monkeypatch.setitem(sys.modules, "slotworks.version", None)
    assert f"has no slotworks; install version {__version__} there" in run(__version__, str(tmp_path), b"")[1]


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of one core each."""
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        patched.setenv("PYTHONPATH", os.pathsep.join([str(Path(simple_parts.__file__).parent), *sys.path]))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=80 << 20)
        made.wait_for_nodes(timeout=600)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
def test_a_node_killed_in_the_middle_costs_nothing_but_time(cluster, tmp_path):
    """Minutes: every worker of Ray is a new interpreter."""
    engine = find_engine("ray", address=cluster.address)
    assert engine.slots() == 3
    parts = [Part(f"part {k}", simple_parts.write_when_told, (str(tmp_path), k, (1,))) for k in range(8)]
    parts.append(Part("a mistake", simple_parts.fail, ("user",)))
    found, killed = {}, False
    for number, answer in engine.run(parts):
        found[number] = answer
        while not killed and (tmp_path / "waited1").exists():
            pid = int((tmp_path / "waited1").read_text() or 0)
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            node = next(n for n in cluster.list_all_nodes() if _raylet(n) == parent)
            cluster.remove_node(node, allow_graceful=False)
            killed = True
    assert killed, found
    assert {k: found[k] for k in range(8)} == {k: k for k in range(8)}
    assert str(found[8]) == "Give less."
    assert all((tmp_path / f"part{k}").read_bytes() == bytes([k] * 1000) for k in range(8))


def _raylet(node):
    return node.all_processes["raylet"][0].process.pid
