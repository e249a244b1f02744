"""Places of an S3 that runs on this machine: moto's server. Skipped where moto or s3fs is missing."""

import numpy as np
import pytest

pytest.importorskip("s3fs", reason="s3fs is missing; install it with `pip install s3fs`")
pytest.importorskip("moto.server", reason="moto is missing; install it with `pip install 'moto[server]'`")

from slotworks.data.stores.store import Store, send_store, write_store
from slotworks.errors import UserError
from slotworks.files import check_writable, replacing
from slotworks.remote import as_place


@pytest.fixture
def server(tmp_path, monkeypatch):
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    s3fs.S3FileSystem.clear_instance_cache()  # a test before knew another address
    host, port = made.get_host_and_port()
    known = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**known, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    boto3.client("s3").create_bucket(Bucket="mine")
    yield made
    made.stop()


def test_files_and_stores_of_a_bucket(server, tmp_path):
    folder = as_place("s3://mine/folder")
    check_writable(folder)
    for text in ("old", "new"):
        with replacing(folder / "a.txt") as beside:
            beside.write_text(text)
        assert (folder / "a.txt").local().read_text() == text
    assert [path.name for path in folder.glob("*")] == ["a.txt"]
    rows = [{"x": np.full((3,), k, np.uint8)} for k in range(5)]
    write_store(tmp_path / "store", lambda start: iter(rows[start:]), source={"name": "x"})
    send_store(tmp_path / "store", folder / "store")
    assert Store(folder / "store").__getitems__([4, 0])["x"].tolist() == [[4] * 3, [0] * 3]


def test_a_bucket_that_is_not_there_is_a_sentence(server):
    with pytest.raises(UserError, match=r"s3://absent/folder/\.partial\..* could not be written .*does not exist"):
        check_writable(as_place("s3://absent/folder"))
