"""COMUS: saliency, boxes, spectral clusters against scikit-learn, what is left open, and the published network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import drawn_by_name, names_and_outputs, noise_of
from tiny_models import save_vit

from slotworks import api
from slotworks.convert import Options, convert
from slotworks.convert.comus import names_of
from slotworks.data.stores.generated import UNCERTAIN, find_shards, read_facts, read_rows
from slotworks.encoders import ViTConfig
from slotworks.encoders.basnet import BASNet
from slotworks.evaluation.semantic import Clusters, evaluate_semantic
from slotworks.images import open_picture
from slotworks.label import label
from slotworks.methods import ComusConfig
from slotworks.methods.comus import core_of
from slotworks.nn.clustering import kmeans, spectral_embedding
from slotworks.types import SlotOutput, UserError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    encoder = ViTConfig(str(save_vit(tmp_path_factory.mktemp("vit"))), 64, 16, 32, features="keys")
    return ComusConfig(encoder=encoder, image_size=64, saliency="spectral", min_area=20, box_size=32, num_neighbors=4)


def original():
    """A state dict of the original at width 2, and what it gave for `noise_of("input", ...)`."""
    shapes, outputs = names_and_outputs("basnet", "net")
    state = {name: drawn_by_name(name, shape).float() for name, shape in shapes.items() if "num_batches" not in name}
    state = {name: v.abs() + 0.5 if name.endswith("running_var") else v for name, v in state.items()}
    return state | {name: torch.tensor(7) for name in shapes if "num_batches" in name}, outputs["output"]


def test_the_embedding_is_scikit_learns():
    """Up to the sign and the scale of each vector; two blobs and a bridge between them."""
    from sklearn.manifold import spectral_embedding as theirs
    from sklearn.neighbors import kneighbors_graph

    draw = torch.Generator().manual_seed(0)
    points = torch.cat([torch.randn(20, 3, generator=draw), torch.randn(20, 3, generator=draw) + 3])
    graph = kneighbors_graph(points.numpy(), n_neighbors=8, include_self=True)
    for chosen in (points, points[12:28]):
        graph = kneighbors_graph(chosen.numpy(), n_neighbors=8, include_self=True)
        count = 4 if len(chosen) > 20 else 15  # the second is solved as a dense matrix
        expected = theirs(0.5 * (graph + graph.T), n_components=count, drop_first=False, random_state=0)
        found = spectral_embedding(chosen, 8, count)
        for k in range(min(count, 4)):
            cosine = F.cosine_similarity(found[:, k], torch.from_numpy(expected[:, k].copy()), dim=0)
            assert abs(float(cosine)) == pytest.approx(1, abs=1e-6)
        ratio = found.norm(dim=0)[:4] / torch.from_numpy(expected).norm(dim=0)[:4]
        assert ratio.max() / ratio.min() == pytest.approx(1, abs=1e-5)
    assert torch.equal(spectral_embedding(points, 8, 4), spectral_embedding(points, 8, 4))


def test_the_core_is_a_share_of_each_cluster():
    """By NumPy's percentile, as in the released code; everything is the core at a share of one."""
    draw = torch.Generator().manual_seed(1)
    points = torch.randn(30, 4, generator=draw) + torch.tensor([3.0, 0, 0, 0])
    labels = torch.arange(30) % 2
    kept = core_of(points, labels, 0.8)
    for number in (0, 1):
        own = points[labels == number]
        distance = (1 - F.cosine_similarity(own, own.mean(0, keepdim=True))).numpy()
        assert kept[labels == number].tolist() == (distance < np.percentile(distance, 80)).tolist()
    assert kept.sum() == 24
    assert core_of(points, labels, 1.0).all()
    assert core_of(torch.ones(5, 2), torch.zeros(5, dtype=torch.int64), 0.8).all()  # equal points are equally near


def test_the_object_has_less_of_the_border(config):
    """Two features, four patches of the middle of one kind; small objects are none."""
    method = config.build()
    kinds = torch.zeros(4, 4, dtype=torch.int64)
    kinds[1:3, 1:3] = 1

    class Planted(torch.nn.Module):
        def forward(self, image):
            return (torch.eye(2)[kinds.flatten()] + 0.1)[None].expand(len(image), -1, -1)

        def grid(self, height, width):
            return 4, 4

    method.encoder = Planted()
    image = torch.rand(2, 3, 64, 64)
    out = method.encode(image)
    wanted = F.interpolate(kinds[None, None].double(), (64, 64), mode="nearest-exact")[0, 0]
    assert torch.equal(out.attn_maps[:, 1], wanted.float().expand(2, -1, -1))
    inside = image[:, :, 16:48, 16:48].mean((2, 3))
    torch.testing.assert_close(out.slots[:, 1], inside, rtol=0, atol=1e-5)
    method.config = replace(config, min_area=1024)
    assert method.encode(image).attn_maps[:, 1].eq(0).all()


def test_a_box_is_described_by_the_network(config):
    method = config.build()
    image = torch.rand(2, 3, 64, 64)
    attn = torch.zeros(2, 2, 64, 64)
    attn[0, 1, 10:30, 5:45] = 1
    attn[:, 0] = 1 - attn[:, 1]
    found = method.describe(image, SlotOutput(torch.zeros(2, 2, 3), attn.flatten(2), grid=(64, 64)))
    assert found[:, 0].isnan().all()
    assert found[1, 1].isnan().all()
    crop = F.interpolate(image[:1, :, 10:30, 5:45], (32, 32), mode="bilinear")
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.encoder.mean, config.encoder.std))
    tokens = method._network(image)((crop - mean) / std, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(found[0, 1], tokens[0, 0], rtol=0, atol=1e-5)


def blobs(images, *, clusters=2, seed=0):
    """A vector of each object, around as many centres; the background has none."""
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.full((images, 2, 4), torch.nan)
    centres = 10 * torch.eye(4)[:clusters]
    vectors[:, 1] = centres[torch.arange(images) % clusters] + torch.randn(images, 4, generator=draw)
    return vectors


def test_clusters_are_those_of_the_blobs_and_the_rest_is_left_open(config):
    config = replace(config, num_neighbors=12)  # more than a blob has points: the graph is in one piece
    method = config.build()
    assert isinstance(method, Clusters)
    vectors, used = blobs(20), torch.ones(20, 2, dtype=torch.bool)
    vectors[3, 1], used[3, 1] = torch.nan, False  # no object
    found = method.cluster(vectors, used, 2)
    assert found[3].tolist() == [-1, -1]
    core = found[:, 1] > 0
    assert found[~core, 0].eq(-1).all()
    assert found[core, 0].eq(0).all()
    for number in (0, 1):
        own = found[number::2, 1]
        assert len(own[own > 0].unique()) == 1
        share = int((own > 0).sum())
        assert share == (
            7 if number else 8
        )  # nine objects of one, ten of the other: those below the eightieth percentile
    assert found[found > 0].unique().tolist() == [1, 2]
    everything = replace(config, core=1.0).build().cluster(vectors, used, 2)
    assert (everything[:, 1] > 0).sum() == 19


class Squares:
    """A red or blue square on grey, and where `marked` its class."""

    def __init__(self, count, *, seed=0):
        draw = np.random.default_rng(seed)
        self.mask = np.zeros((count, 64, 64), np.uint8)
        for k, one in enumerate(self.mask):
            y, x = draw.integers(8, 24, 2)
            one[y : y + 30, x : x + 30] = 1 + k % 2
        self.image = np.array([[120, 120, 120], [230, 20, 20], [20, 20, 230]], np.uint8)[self.mask]

    def __len__(self):
        return len(self.mask)

    def __getitems__(self, indices):
        chosen = list(indices)
        return {"image": self.image[chosen], "class_mask": self.mask[chosen]}


def test_label_leaves_open_what_is_far_from_its_cluster(config, tmp_path):
    """Masks are the squares in the classes of the known images; of two images, and a known one, nothing is claimed."""
    method = replace(config, core=1.0, num_neighbors=14).build()
    method.salient = lambda image: (image[:, 0] - image[:, 2]).abs() > 0.3
    method.describe = lambda image, output: output.slots.masked_fill(torch.tensor([[[True], [False]]]), torch.nan)
    cluster = method.cluster

    def without_three(vectors, used, num_clusters):
        found = cluster(vectors, used, num_clusters)
        found[[2, 5, -1]] = -1
        return found

    method.cluster = without_three
    images, names = Squares(16, seed=1), ("red", "blue")
    answer = label(method, images, Squares(8), tmp_path / "out", class_names=names, batch_size=5)
    assert (answer["clusters"], answer["named"]) == (3, 3)
    (shard,) = find_shards(tmp_path / "out")
    masks = [np.asarray(open_picture(r["mask"], name="a shard", formats=["PNG"])) for r in read_rows(shard, ("mask",))]
    for k, (mask, truth) in enumerate(zip(masks, images.mask, strict=True)):
        assert (mask == UNCERTAIN).all() if k in (2, 5) else np.array_equal(mask, truth)
    assert read_facts(shard)["class_names"] == list(names)
    known = Squares(24, seed=2)
    result = evaluate_semantic(method, known, class_names=names, rule="clusters")
    pixels = [int((known.mask == k).sum()) for k in range(3)]  # of images 2, 5 and 23 the object counts as background
    lost = [known.mask[[2]].astype(bool).sum(), known.mask[[5, 23]].astype(bool).sum()]
    expected = [pixels[0] / (pixels[0] + sum(lost)), 1 - lost[0] / pixels[1], 1 - lost[1] / pixels[2]]
    assert result.iou.tolist() == pytest.approx(expected)


def test_basnet_is_the_originals():
    """Scores of the original module with the same weights, at width 2; its output on an image of 64 x 32."""
    state, output = original()
    network = BASNet(2).eval()
    network.load_state_dict({ours: state[their] for ours, their in names_of(list(network.state_dict())).items()})
    with torch.no_grad():
        found = network(noise_of("input", (1, 3, 64, 32)).float() * network.std + network.mean)
    torch.testing.assert_close(found, output[:, 0], rtol=0, atol=1e-5)
    assert found.std() > 0.01


def test_the_published_file_becomes_a_run(config, tmp_path):
    """`{"net": ...}` with the side outputs; without counters of BatchNorm as older versions of torch wrote it."""
    state, _ = original()
    torch.save({"net": {n: v for n, v in state.items() if "num_batches" not in n}}, tmp_path / "basnet.pth")
    made = convert(tmp_path / "basnet.pth", Options(tmp_path / "run", changes={"encoder": config.encoder}))
    assert made.family == "comus"
    run, method = api.load(tmp_path / "run", device="cpu")
    assert (run.steps, run.method.basnet_width) == (0, 2)
    image = torch.rand(1, 3, 512, 512)
    values = method.basnet(F.interpolate(image, (256, 256), mode="bilinear", antialias=True))
    low, high = values.aminmax()
    assert torch.equal(method.salient(image), (values - low) / (high - low) > 0.5)
    del state["inconv.bias"]
    torch.save({"net": state}, tmp_path / "damaged.pth")
    with pytest.raises(UserError, match=r"lacks the tensor inconv.bias, so it is no complete checkpoint of BASNet"):
        convert(tmp_path / "damaged.pth", Options(tmp_path / "none"))


def test_what_cannot_be_done_is_said(config):
    with pytest.raises(UserError, match=r"no weights of its saliency network: `slotworks convert basnet_unsup"):
        replace(config, saliency="basnet", basnet_width=2).build().encode(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"method\.core is 0"):
        replace(config, core=0.0)
    with pytest.raises(ValueError, match="multiples of 32"):
        BASNet(2)(torch.rand(1, 3, 40, 64))


def test_no_object_anywhere_is_one_cluster(config):
    method = config.build()
    vectors = torch.full((3, 2, 4), torch.nan)
    assert method.cluster(vectors, torch.tensor([[True, False]] * 3), 2).eq(-1).all()
    assert kmeans(torch.zeros(1, 2, 3), 2).shape == (1, 2)
