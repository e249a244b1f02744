"""OVDiff: prototypes by a loop, the nearest one wins, the filter by CLIP, features of a U-Net, what a run keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import save_clip, save_diffusion

from slotworks.cli import main
from slotworks.configs import recipes
from slotworks.data.scenes import ShapeScenes
from slotworks.data.stores.generated import Generated
from slotworks.encoders.clip import CLIP_MEAN, CLIP_STD, CLIPEncoder
from slotworks.encoders.diffusion import DiffusionEncoder, DiffusionFeaturesConfig, self_attentions
from slotworks.evaluation.semantic import evaluate_semantic
from slotworks.hub import save_pretrained
from slotworks.methods import OVDiffConfig
from slotworks.synthesis.shards import png, write_shard
from slotworks.training import Run
from slotworks.training import reopen as module
from slotworks.training.reopen import load, untrained
from slotworks.types import UserError

COLORS = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])


class Colors:
    """A network whose features are the mean colours of squares of four pixels."""

    config = type("Config", (), {"feature_dim": 3})

    def features_of(self, batch):
        return F.avg_pool2d(batch["image"], 4).flatten(2).mT


def method(**options):
    how = {"class_names": ("red", "", "blue"), "clip_filter": "", "num_support": 3, "num_parts": 2, "map_size": 4}
    made = OVDiffConfig(diffusion=DiffusionFeaturesConfig(feature_dim=3), vits=(), **{**how, **options}).build()
    made.encoders = [Colors()]
    return made


def squares(count, *, seed=0):
    """Images of 16 pixels: class 1 is red, 3 blue, in one or two of sixteen squares; a column is void."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, 4, 4, dtype=torch.int64)
    for b, one in enumerate(mask):
        one[0, : 1 + b % 2] = (1, 3)[b % 2]
        one[2, 1] = (3, 1)[b % 2] if b % 3 == 0 else 0
    noise = 0.05 * torch.rand(count, 3, 4, 4, generator=draw)
    image = COLORS[torch.tensor([0, 1, 0, 2])[mask]].movedim(3, 1) + noise
    large = [F.interpolate(x.double(), scale_factor=4.0, mode="nearest") for x in (image, mask[:, None])]
    void = torch.zeros(count, 16, 16, dtype=torch.bool)
    void[:, :, 12:] = True
    return {"image": large[0].float(), "class_mask": large[1][:, 0].long(), "void": void}


def test_prototypes_by_a_loop():
    batch, ours = squares(6), method()
    ours.fit([{name: value[:4] for name, value in batch.items()}, {name: value[4:] for name, value in batch.items()}])
    (found,) = ours.prototypes
    points = Colors().features_of(batch).double()
    small = batch["class_mask"][:, ::4, ::4].flatten(1)
    open_ = ~batch["void"][:, ::4, ::4].flatten(1)
    for c, id_ in enumerate((1, 3)):
        images = [b for b in range(6) if (small[b] == id_).any()][:3]  # three of each class at most
        for side, wanted in enumerate((id_, 0)):
            chosen = [points[b][(small[b] == wanted) & open_[b]] for b in images]
            expected = [torch.cat(chosen).mean(0), *(x.mean(0) for x in chosen)]
            expected = F.normalize(torch.stack(expected), dim=1).float()
            torch.testing.assert_close(found[c, side, :4], expected, rtol=0, atol=1e-6)
            assert found[c, side, 4:].norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-6)  # two parts


def test_parts_are_clusters_of_the_places():
    """Two shades in each object, so two parts, which are those; the void column, white, is in none."""
    batch = squares(2)
    batch["class_mask"] = torch.zeros_like(batch["class_mask"])
    batch["class_mask"][:, :8, :8] = torch.tensor([1, 3])[:, None, None]
    batch["image"] = torch.full_like(batch["image"], 0.1)
    shades = torch.tensor([[1.0, 0, 0], [1.0, 0.5, 0]])
    batch["image"][:, :, :8, :4] = shades[0][:, None, None]
    batch["image"][:, :, :8, 4:8] = shades[1][:, None, None]
    batch["image"][:, :, :, 12:] = 1
    ours = method()
    ours.fit([batch])
    parts = ours.prototypes[0][0, 0, 2:4]  # behind the mean of all and that of the one image
    order = parts[:, 1].argsort()
    torch.testing.assert_close(parts[order], F.normalize(shades, dim=1), rtol=0, atol=1e-3)  # places are kept in half
    torch.testing.assert_close(ours.prototypes[0][:, 1, 0], torch.full((2, 3), 3**-0.5), rtol=0, atol=1e-5)


def test_the_nearest_prototype_wins_and_its_surroundings_are_background():
    ours, batch = method(), squares(6)
    ours.fit([batch])
    image = squares(5, seed=1)
    out = ours.encode(image["image"])
    assert out.attn.shape == (5, 4, 16)
    torch.testing.assert_close(out.attn.sum(1), torch.ones(5, 16))
    assert torch.equal(out.attn.argmax(1), image["class_mask"][:, ::4, ::4].flatten(1))
    assert out.attn[:, 2].eq(0).all()  # an id without a name
    (rows,) = ours.prototypes
    point = F.normalize(Colors().features_of(image)[0, 5], dim=0)
    best = [[max(float(row @ point) for row in rows[c, side] if row.any()) for side in (0, 1)] for c in (0, 1)]
    both = torch.tensor([max(best[0][1], best[1][1]), best[0][0], best[1][0]])
    torch.testing.assert_close(out.attn[0, [0, 1, 3], 5], (100 * both).softmax(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.slots[0, [1, 3]], rows[:, 0, 0])
    assert out.slots[0, 2].eq(0).all()
    refined = method(refinement=2, map_size=16)
    refined.fit([batch])
    soft = refined.encode(image["image"]).attn
    torch.testing.assert_close(soft.sum(1), torch.ones(5, 256), rtol=0, atol=1e-5)


def test_clip_chooses_the_classes(tmp_path):
    """Those nearest to the whole image; what is not chosen is found nowhere, nor are its surroundings looked at."""
    folder = str(save_clip(tmp_path))
    names = ("cat", "dog", "bus", "sky")
    ours = OVDiffConfig(
        class_names=names, vits=(), diffusion=DiffusionFeaturesConfig(), clip_filter=folder, max_classes=2
    ).build()
    image = torch.rand(3, 3, 80, 80)
    clip = CLIPEncoder(folder)
    text = clip.text([f"A good picture of a {name}" for name in names], image)
    whole = clip._ready(image)[0].get_image_features(
        (F.interpolate(image, (64, 64), mode="bilinear", antialias=True) - torch.tensor(CLIP_MEAN)[:, None, None])
        / torch.tensor(CLIP_STD)[:, None, None]
    )
    whole = F.normalize(getattr(whole, "pooler_output", whole), dim=1)
    kept = ours.likely(image)
    for b in range(3):
        order = (text @ whole[b]).argsort(descending=True)
        assert set(kept[b].nonzero().flatten().tolist()) == set(order[:2].tolist())
    fitted = method()
    fitted.fit([squares(6)])
    fitted.likely = lambda image: torch.tensor([[False, True]]).expand(len(image), -1)
    out = fitted.encode(squares(4)["image"])
    assert out.attn[:, 1].eq(0).all()
    assert (out.attn.argmax(1) == 3).any()


def test_features_are_keys_of_the_self_attentions_in_order(tmp_path):
    folder = str(save_diffusion(tmp_path))
    config = DiffusionFeaturesConfig(folder, 64, attentions=(0, 2), timestep=3, feature_side=8, feature_dim=96)
    encoder = DiffusionEncoder(config)
    image = torch.rand(2, 3, 80, 80)
    unet = encoder.parts(image).unet
    ran, handles = [], []
    for name, layer in unet.named_modules():
        if name.endswith(".attn1"):
            handles.append(layer.to_k.register_forward_hook(lambda m, args, out: ran.append((m, out))))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(43)).expand(2, -1, -1, -1)
    latents = encoder.encode(F.interpolate(image, (64, 64), mode="bilinear", antialias=True))
    encoder.predict_noise(encoder.add_noise(latents, noise, 3), 3)
    for handle in handles:
        handle.remove()
    assert [m for m, _ in ran] == [layer.to_k for layer in self_attentions(unet)]
    wanted = []
    for k in (0, 2):
        side = round(ran[k][1].shape[1] ** 0.5)
        maps = F.normalize(ran[k][1], dim=2).mT.unflatten(2, (side, side))
        wanted.append(F.interpolate(maps, (8, 8), mode="bilinear", antialias=True).flatten(2).mT)
    torch.testing.assert_close(encoder.features_of({"image": image}), torch.cat(wanted, 2), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"attentions names 20, but the U-Net of .* has \d+ self-attentions"):
        DiffusionEncoder(replace(config, attentions=(20,))).features_of({"image": image})
    with pytest.raises(UserError, match=r"feature_dim is 3, but the attentions \(0, 2\) of .* are 96 wide together"):
        DiffusionEncoder(replace(config, feature_dim=3)).features_of({"image": image})


@pytest.fixture
def run(tmp_path, tiny_vit):
    """A run over shards of twelve drawn scenes; classes that none of them shows have no name."""
    scenes = ShapeScenes(image_size=32, sizes=(0.5,), max_objects=1, num_train=12, num_val=2, num_test=4)
    raw = scenes.open("train").__getitems__(range(12))
    there = set(np.unique(raw["class_mask"]).tolist())
    names = tuple(name if k in there else "" for k, name in enumerate(scenes.class_names, 1))
    rows = [
        {"image": png(image), "mask": png(mask.astype(np.uint8)), "caption": "", "prompt": "", "classes": []}
        | {"class_ids": [], "index": k, "seed": 0, "settings": ""}
        for k, (image, mask) in enumerate(zip(raw["image"], raw["class_mask"], strict=True))
    ]
    facts = {"start": 0, "stop": 12, "masks": "classes", "class_names": list(names), "settings": "", "left_out": []}
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards" / "shard-00000.parquet", rows, facts)
    how = {"class_names": names, "image_size": 32, "vits": (tiny_vit,), "diffusion": None, "clip_filter": ""}
    data = Generated(root=str(tmp_path / "shards"), image_size=32, mask_size=32, real=scenes)
    return Run(method=OVDiffConfig(num_support=4, num_parts=2, **how), data=data, steps=0, batch_size=5)


def test_prototypes_are_taken_once_and_kept_in_the_run_folder(run, tmp_path, monkeypatch):
    folder = untrained(run, tmp_path / "run", device="cpu")
    again, ours = load(folder, device="cpu")
    assert again.steps == 0
    assert all(rows.any() for rows in ours.prototypes)
    monkeypatch.setattr(module, "gather", None)
    assert untrained(run, folder) == folder
    result = evaluate_semantic(ours, run.data.open("test"), class_names=run.method.class_names, num_images=4)
    assert result.protocol == "semantic-labels"
    assert (save_pretrained(folder, tmp_path / "out", license="mit") / "model.safetensors").is_file()


def test_what_cannot_be_done_is_said(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="masks of classes"):
        method().fit([{"image": torch.zeros(1, 3, 16, 16)}])
    batch = squares(2)
    batch["class_mask"][batch["class_mask"] == 3] = 0
    with pytest.raises(UserError, match="No support image shows 'blue'; generate some with `slotworks synthesize`"):
        method().fit([batch])
    with pytest.raises(ValueError, match="no prototypes yet"):
        method().encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="names no class"):
        OVDiffConfig(class_names=("",))
    with pytest.raises(ValueError, match="name a network"):
        OVDiffConfig(vits=(), diffusion=None)
    with pytest.raises(ValueError, match=r"write \{\} where"):
        OVDiffConfig(filter_template="a cat")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "ov_diff.scenes_mini", "--task", "semantic"]) == 2
    assert "data/generated/ov_diff.painted holds no shard" in capsys.readouterr().err


def test_recipes_are_the_readmes():
    """`dino_vitb8`, `clip_ViT-B/16 --layer -2`, `k32_n32_s43`, `0,6:13,15+_t200` of its commands."""
    run = recipes()["ov_diff.voc"]()
    dino, clip = run.method.vits
    assert (dino.model, dino.patch_size) == ("facebook/dino-vitb8", 8)
    assert (clip.model, clip.patch_size, clip.layer) == ("openai/clip-vit-base-patch16", 16, -2)
    assert (run.method.num_support, run.method.num_parts) == (32, 32)
    features = run.method.diffusion
    assert (features.attentions, features.timestep) == ((0, *range(6, 13), 15), 200)
    widths = [*[320] * 2, *[640] * 2, *[1280] * 2, 1280, *[1280] * 3, *[640] * 3, *[320] * 3]
    assert features.feature_dim == sum(widths[k] for k in features.attentions)
    assert recipes()["ov_diff.coco"]().data.root == "data/generated/ov_diff.coco"
