"""SAVi: the original's outputs with its weights, conditions, targets, pieces, recipes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slotworks import api
from slotworks.configs import recipes as every_recipe
from slotworks.configs import savi as recipes
from slotworks.data.scenes import VideoScenes
from slotworks.encoders import ResNetEncoder
from slotworks.methods import SAViConfig
from slotworks.nn.flow import flow_to_rgb
from slotworks.nn.init import lecun_
from slotworks.reports import write_report
from slotworks.training import Run
from slotworks.types import UserError, VideoMethod, cut_clips, frames_of, to_batch

REFERENCES = Path(__file__).parents[1] / "references"

TINY = SAViConfig(
    image_size=(16, 16),
    num_slots=3,
    slot_dim=8,
    qkv_dim=12,
    predictor_qkv_dim=12,
    predictor_mlp_dim=14,
    encoder_channels=5,
    encoder_strides=(2, 1),
    encoder_hidden_dim=10,
    decoder_channels=6,
    decoder_strides=(2, 2, 1),
)
UNCONDITIONAL = replace(TINY, initializer="learned", targets=("rgb",))


def stored(name):
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]).double() for key in file.files}


def video(t=4, b=2, seed=0):
    return torch.rand(b, t, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


# ---- the original ----------------------------------------------------------------------------------------------------


def from_flax(ref):
    """Our state from the original's weights."""
    state = {}

    def take(ours, theirs, *, bias=True, kernel=lambda w: w.T):
        state[f"{ours}.weight"] = kernel(ref[f"weight/{theirs}/kernel"])
        if bias:
            state[f"{ours}.bias"] = ref[f"weight/{theirs}/bias"].flatten()

    def norm(ours, theirs):
        state[f"{ours}.weight"], state[f"{ours}.bias"] = ref[f"weight/{theirs}/scale"], ref[f"weight/{theirs}/bias"]

    def conv(w):
        return w.permute(3, 2, 0, 1)

    def transposed(w):  # flax slides the kernel as it is over the spread-out input, torch turns it round
        return w.permute(2, 3, 0, 1).flip(2, 3)

    encoder = "FrameEncoder_0"
    for i in range(2):
        take(f"encoder.backbone.convs.{i}", f"{encoder}/CNN_0/conv_{i}", kernel=conv)
    take("encoder.position.project", f"{encoder}/PositionEmbedding_0/dense_pe_0")
    norm("encoder.norm", f"{encoder}/PositionEmbedding_0/MLP_0/LayerNorm_0")
    take("encoder.mlp.0", f"{encoder}/PositionEmbedding_0/MLP_0/dense_mlp_0")
    take("encoder.mlp.2", f"{encoder}/PositionEmbedding_0/MLP_0/dense_mlp_1")
    y0_first = [1, 0, 3, 2]  # their boxes are y x y x
    take("initializer.mlp.0", "CoordinateEncoderStateInit_0/MLP_0/dense_mlp_0", kernel=lambda w: w.T[:, y0_first])
    take("initializer.mlp.2", "CoordinateEncoderStateInit_0/MLP_0/dense_mlp_1")

    slots = "video_slots.corrector"
    norm(f"{slots}.norm_features", "SlotAttention_0/LayerNorm_1")
    norm(f"{slots}.norm_slots", "SlotAttention_0/LayerNorm_0")
    for own in "qkv":
        flat = {"bias": False, "kernel": lambda w: w.flatten(1).T}
        take(f"{slots}.to_{own}", f"SlotAttention_0/general_dense_{own}_0", **flat)
    gru = "weight/SlotAttention_0/GRU_0/GRUCell_0"
    state[f"{slots}.gru.weight_ih"] = torch.cat([ref[f"{gru}/i{gate}/kernel"].T for gate in "rzn"])
    state[f"{slots}.gru.weight_hh"] = torch.cat([ref[f"{gru}/h{gate}/kernel"].T for gate in "rzn"])
    state[f"{slots}.gru.bias_ih"] = torch.cat([ref[f"{gru}/i{gate}/bias"] for gate in "rzn"])
    none = torch.zeros(16).double()
    state[f"{slots}.gru.bias_hh"] = torch.cat([none, ref[f"{gru}/hn/bias"]])

    block = "video_slots.predictor.blocks.0"
    for ours, theirs in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
        name = f"TransformerBlock_0/MultiHeadDotProductAttention_0/{theirs}"
        take(f"{block}.attention.{ours}", name, kernel=lambda w: w.flatten(1).T)
    name = "TransformerBlock_0/MultiHeadDotProductAttention_0/out"
    take(f"{block}.attention.to_out", name, kernel=lambda w: w.flatten(0, 1).T)
    norm(f"{block}.norm_attention", "TransformerBlock_0/LayerNorm_0")
    norm(f"{block}.norm_mlp", "TransformerBlock_0/LayerNorm_1")
    take(f"{block}.mlp.0", "TransformerBlock_0/MLP_0/dense_mlp_0")
    take(f"{block}.mlp.2", "TransformerBlock_0/MLP_0/dense_mlp_1")

    decoder = "SpatialBroadcastDecoder_0"
    take("decoder.position.project", f"{decoder}/PositionEmbedding_0/dense_pe_0")
    for i in range(3):
        take(f"decoder.layers.{i}", f"{decoder}/CNN_0/conv_{i}", kernel=conv if i == 2 else transposed)
    target, alpha = f"weight/{decoder}/Readout_0/Dense_0/Dense_0", f"weight/{decoder}/alpha_logits"
    state["decoder.last.weight"] = torch.cat([ref[f"{target}/kernel"], ref[f"{alpha}/kernel"]], 1).T[:, :, None, None]
    state["decoder.last.bias"] = torch.cat([ref[f"{target}/bias"], ref[f"{alpha}/bias"]])
    return state


def test_matches_the_original():
    """Encoder, initialiser, corrector, predictor and decoder over three frames, all at once."""
    ref = stored("savi_model")
    method = TINY.build().double()
    method.load_state_dict(from_flax(ref))
    boxes = ref["boxes"][:, 0][..., [1, 0, 3, 2]]
    boxes[1, 1] = -1  # theirs: zeros
    out = method.encode(ref["video"].movedim(-1, 2), boxes=boxes)
    close = {"rtol": 1e-5, "atol": 1e-5}  # theirs ran in float32
    torch.testing.assert_close(out.slots, ref["out_states"], **close)
    torch.testing.assert_close(out.state, ref["out_predicted"][:, -1], **close)
    torch.testing.assert_close(out.attn, ref["out_attn"][:, :, 0], **close)
    decoded = method.decode(out.slots)
    torch.testing.assert_close(decoded.recon, ref["out_flow"].movedim(-1, 2), **close)
    torch.testing.assert_close(decoded.masks, ref["out_alphas"][..., 0], **close)


def test_resnet_matches_the_original():
    """Two stages of SAVi-L's ResNet; the weights are waves, so only input and output are stored."""
    ref = stored("savi_resnet")
    net = ResNetEncoder(18, strides=(1, 2), stem_relu=False, zero_init=True, padding="same", norm_eps=1e-6).double()
    names = {"init_conv/kernel": "stem.weight", "init_bn/scale": "stem_norm.weight", "init_bn/bias": "stem_norm.bias"}
    for stage in range(2):
        for block in range(2):
            theirs, ours = f"stage{stage + 1}/block{block + 1}", f"blocks.{2 * stage + block}"
            for k in (1, 2):
                names[f"{theirs}/conv{k}/kernel"] = f"{ours}.conv{k}.weight"
                names |= {
                    f"{theirs}/bn{k}/{a}": f"{ours}.norm{k}.{b}" for a, b in (("scale", "weight"), ("bias", "bias"))
                }
    names["stage2/block1/proj_conv/kernel"] = "blocks.2.shortcut.0.weight"
    names |= {
        f"stage2/block1/proj_bn/{a}": f"blocks.2.shortcut.1.{b}" for a, b in (("scale", "weight"), ("bias", "bias"))
    }
    state, shapes = {}, net.state_dict()
    assert sorted(names.values()) == sorted(shapes)
    for i, key in enumerate(sorted(names)):
        shape = tuple(shapes[names[key]].shape)
        theirs = (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape
        wave = torch.from_numpy(np.sin(np.arange(math.prod(shape)) * 0.7 + i).reshape(theirs))
        if len(shape) == 4:
            state[names[key]] = (wave / math.prod(theirs[:-1]) ** 0.5).permute(3, 2, 0, 1)
        else:
            state[names[key]] = 1 + 0.3 * wave if key.endswith("scale") else 0.3 * wave
    net.load_state_dict(state)
    out = net(ref["frame"].movedim(-1, 1))
    torch.testing.assert_close(out, ref["out"].flatten(1, 2), rtol=1e-5, atol=1e-5)


def test_flow_as_colours():
    """Rest is white; directions by hue: the first component alone is cyan or red at full strength."""
    flow = torch.zeros(1, 2, 30, 40)
    torch.testing.assert_close(flow_to_rgb(flow), torch.ones(1, 3, 30, 40))
    for first, second, colour in ((1, 0, (0, 1, 1)), (-1, 0, (1, 0, 0)), (0.5, 0, (0.5, 1, 1)), (9, 0, (0, 1, 1))):
        flow[:, 0], flow[:, 1] = first, second  # the diagonal is 50 pixels: one pixel is full saturation
        expected = torch.tensor(colour).float()[None, :, None, None].expand(1, 3, 30, 40)
        torch.testing.assert_close(flow_to_rgb(flow), expected, rtol=0, atol=1 / 255)
    flow[:, 0], flow[:, 1] = 0, 1  # a quarter turn on: hue 3/4, violet
    torch.testing.assert_close(flow_to_rgb(flow)[0, :, 0, 0], torch.tensor([0.5, 0, 1]), rtol=0, atol=1 / 255)


def test_initial_weights_are_flax_defaults():
    """LeCun's normal: variance 1 / fan-in, cut off at two deviations; biases zero."""
    torch.manual_seed(0)
    layer = lecun_(torch.nn.ConvTranspose2d(64, 32, 5))
    weight = layer.weight.detach()
    std = (64 * 25) ** -0.5
    assert abs(weight.std() / std - 1) < 0.02
    assert weight.abs().max() <= 2 * std / 0.87962566 + 1e-7
    assert not layer.bias.detach().any()


# ---- conditions ------------------------------------------------------------------------------------------------------


def boxes_of(rows):
    return torch.tensor([[list(row) for row in rows]]).float().expand(2, -1, -1)


FULL = [(0.1, 0.2, 0.5, 0.6), (0.4, 0.1, 0.9, 0.3)]


def test_permuting_boxes_permutes_tracks():
    method, frames = TINY.build(), video()
    out, swapped = (method.encode(frames, boxes=boxes_of(rows)) for rows in (FULL, FULL[::-1]))
    order = torch.tensor([0, 2, 1])  # the background's slot is the first
    torch.testing.assert_close(swapped.slots, out.slots[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(swapped.attn, out.attn[:, :, order], rtol=1e-4, atol=1e-5)
    a, b = method.decode(out.slots), method.decode(swapped.slots)
    torch.testing.assert_close(b.masks, a.masks[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b.recon, a.recon, rtol=1e-4, atol=1e-5)


def test_rows_of_nothing_do_not_count():
    """Padding is filled up or left out, wherever it stands; in SAVi's code it is a box of zeros."""
    method, frames, none = TINY.build(), video(), (-1, -1, -1, -1)
    expected = method.encode(frames, boxes=boxes_of([FULL[0], none])).slots
    for rows in ([FULL[0]], [FULL[0], none, none, none], [none, none, FULL[0]]):
        torch.testing.assert_close(method.encode(frames, boxes=boxes_of(rows)).slots, expected)
    zeros = method.encode(frames, boxes=boxes_of([FULL[0], (0, 0, 0, 0)])).slots
    torch.testing.assert_close(zeros, expected)
    apart = replace(TINY, absent_box=-1.0).build()
    apart.load_state_dict(method.state_dict())
    assert not torch.allclose(apart.encode(frames, boxes=boxes_of([FULL[0], none])).slots, expected)


def test_centres_are_what_counts_of_a_box():
    method, frames = replace(TINY, initializer="centers").build(), video()
    small = [(0.2, 0.3, 0.4, 0.5), (0.6, 0.15, 0.7, 0.25)]  # the same centres
    a, b = (method.encode(frames, boxes=boxes_of(rows)).slots for rows in (FULL, small))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_conditions_that_do_not_fit():
    method, frames = TINY.build(), video()
    with pytest.raises(UserError, match=r"starts its slots from the boxes .* none were given; give boxes"):
        method.encode(frames)
    with pytest.raises(UserError, match=r"3 boxes were given, but of 3 slots only 2 can follow one.*num_slots 4"):
        method.encode(frames, boxes=boxes_of([*FULL, (0.1, 0.1, 0.2, 0.2)]))
    with pytest.raises(UserError, match=r"The box \[0.1, 0.2, 1.4, 0.6\] leaves the image"):
        method.encode(frames, boxes=boxes_of([(0.1, 0.2, 1.4, 0.6)]))


def test_boxes_that_nobody_asked_for():
    with pytest.raises(UserError, match=r"method.initializer 'learned'\) and takes no boxes; leave them out"):
        UNCONDITIONAL.build().encode(video(), boxes=boxes_of(FULL))


def test_batches_carry_the_boxes_of_the_first_frame():
    method = TINY.build()
    boxes = torch.stack([boxes_of(FULL)] * 4, dim=1)
    boxes[:, 1:] = 0.5  # later boxes are not looked at
    batch = {"video": video(), "boxes": boxes}
    out = method.encode_batch(batch)
    torch.testing.assert_close(out.slots, method.encode(video(), boxes=boxes_of(FULL)).slots)
    later = method.encode_batch(batch, state=out.state)
    torch.testing.assert_close(later.slots, method.encode(video(), state=out.state).slots)


# ---- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"carry": False}, {"predictor": "mlp"}, {"predictor": "steve"}])
def test_pieces_equal_the_whole(changes):
    method, frames = replace(UNCONDITIONAL, **changes).build().double(), video(t=6).double()
    assert isinstance(method, VideoMethod)
    whole = method.encode(frames)
    first = method.encode(frames[:, :4])
    second = method.encode(frames[:, 4:], state=first.state)
    torch.testing.assert_close(torch.cat([first.slots, second.slots], dim=1), whole.slots)
    torch.testing.assert_close(method.decode(first.slots).masks, method.decode(whole.slots).masks[:, :4])


def test_a_still_video_gives_the_image_models_slots():
    """Without predictor and MLP, t frames of one picture are t iterations; without carrying, each is the first one."""
    frames = video(t=1).double().expand(-1, 4, -1, -1, -1)
    carried = replace(UNCONDITIONAL, predictor="identity").build().double()
    again = carried.encode(frames[:, :1], num_iterations=4)
    torch.testing.assert_close(carried.encode(frames).slots[:, 3], again.slots[:, 0])
    apart = replace(UNCONDITIONAL, carry=False).build().double()
    out = apart.encode(frames)
    torch.testing.assert_close(out.slots, out.slots[:, :1].expand(-1, 4, -1, -1))


def test_another_number_of_slots():
    frames = video()
    shared = replace(UNCONDITIONAL, initializer="gaussian").build()
    assert shared.encode(frames, num_slots=5).slots.shape == (2, 4, 5, 8)
    with pytest.raises(ValueError, match="LearnedInit holds parameters for 3 slots and cannot make 5"):
        UNCONDITIONAL.build().encode(frames, num_slots=5)


# ---- loss and recipes ------------------------------------------------------------------------------------------------


def test_loss_is_a_sum():
    """Of squared errors over frames, pixels and channels, mean over videos, for each target apart."""
    method = replace(TINY, targets=("rgb", "flow", "depth"), initializer="learned").build()
    torch.nn.init.zeros_(method.decoder.last.weight)
    torch.nn.init.zeros_(method.decoder.last.bias)
    flow = torch.zeros(2, 4, 2, 16, 16)
    batch = {"video": video(), "forward_flow": flow, "depth": torch.full((2, 4, 16, 16), math.e - 1)}
    terms = method.loss(batch, 0)
    assert terms["rgb"].item() == pytest.approx(video().square().sum().item() / 2, rel=1e-5)
    assert terms["flow"].item() == pytest.approx(4 * 3 * 256, rel=1e-5)  # white everywhere
    assert terms["depth"].item() == pytest.approx(4 * 256, rel=1e-5)


def test_backward_flow_comes_first():
    method = replace(TINY, initializer="learned").build()
    forward, backward = torch.zeros(2, 4, 2, 16, 16), torch.ones(2, 4, 2, 16, 16)
    batch = {"video": video(), "forward_flow": forward, "backward_flow": backward}
    torch.testing.assert_close(method.target(batch), flow_to_rgb(backward))
    with pytest.raises(UserError, match=r"The target 'flow' needs data with backward_flow or forward_flow"):
        method.loss({"video": video()}, 0)
    config = replace(TINY)
    object.__setattr__(config, "targets", ("sound",))  # past the annotation that the tests check
    with pytest.raises(ValueError, match=r"targets is \('sound',\); give one or more of rgb, flow, depth"):
        config.build()


@pytest.mark.parametrize("name", [name for name in every_recipe() if name.startswith("savi.")])
def test_recipes_build(name):
    run = every_recipe()[name]()
    with torch.device("meta"):
        method = run.method.build()
    assert run.method.image_size == run.data.size
    assert "flow" not in run.method.targets or run.data.extras
    if "unconditional" in name:
        assert (run.method.num_slots, run.data.clip_length, run.data.clip_stride) == (15, 3, 1)
    elif "movi" in name:
        assert (run.method.num_slots, run.data.clip_length) == (24, 6)
        grid = method.encoder.grid(*run.data.size)
        grids = {"small": (64, 64), "medium": (64, 64), "large": (16, 16), "depth": (16, 16)}
        assert grid == grids[name.split("_")[-1]]
        assert method.decoder.broadcast_size == (8, 8)


def test_plus_looks_through_a_transformer():
    """SAVi++: a Transformer of 64 over the features, wider corrector and predictor, flow and depth."""
    config = replace(TINY, encoder_blocks=2, targets=("flow", "depth"), initializer="learned")
    method = config.build()
    assert method.video_slots.corrector.to_k.in_features == 64
    assert method.decode(method.encode(video()).slots).recon.shape == (2, 4, 4, 16, 16)


def test_depth_is_a_second_target():
    """SAVi++: log(1 + depth) behind the colours of flow, each with its own squared error."""
    method = replace(TINY, encoder_blocks=1, targets=("flow", "depth"), initializer="learned").build()
    depth = torch.full((2, 4, 16, 16), math.e - 1)
    depth[:, 1] = 0
    batch = {"video": video(), "backward_flow": torch.zeros(2, 4, 2, 16, 16), "depth": depth}
    target = method.target(batch)
    assert target.shape == (2, 4, 4, 16, 16)
    torch.testing.assert_close(target[:, :, :3], torch.ones(2, 4, 3, 16, 16))  # nothing moves: white
    torch.testing.assert_close(target[:, 0, 3], torch.ones(2, 16, 16))
    assert (target[:, 1, 3] == 0).all()
    recon = method.decode(method.encode(batch["video"]).slots).recon
    terms = method.loss(batch, 0)
    assert list(terms) == ["flow", "depth"]
    torch.testing.assert_close(terms["depth"], (recon - target)[:, :, 3].square().sum() / 2)


def test_plus_recipes_are_the_released_configuration():
    """savi/configs/movi/savi++_conditional.py, and the README's row."""
    for variant, published in {"a": "85.3", "b": "72.5", "c": "79.1", "d": "84.8", "e": "85.1"}.items():
        run = getattr(recipes, f"movi_{variant}_depth")()
        method = run.method
        assert (method.encoder, method.encoder_blocks, method.targets) == ("resnet34", 4, ("flow", "depth"))
        assert (method.qkv_dim, method.predictor_qkv_dim, method.predictor_mlp_dim) == (256, 256, 1024)
        assert (run.steps, run.batch_size, run.optimizer.lr, run.data.clip_length) == (500_000, 64, 2e-4, 6)
        assert run.data.extras == ("backward_flow", "depth")
        assert run.data.variant == variant
        assert published in run.expected


def test_two_steps_of_training():
    run = recipes.scenes_mini()
    small = {"slot_dim": 16, "qkv_dim": 16, "encoder_channels": 8, "decoder_channels": 8}
    method = replace(run.method, short_clips=(), **small).build()
    data = replace(run.data, num_train=4).open("train")
    batch = to_batch(data.__getitems__([0, 5]))
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    losses = []
    for step in range(8):
        loss = method.loss(batch, step)["rgb"]
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_on_videos(tmp_path):
    """Train, stop, go on, score by length, look at the page: all of it with videos."""
    scenes = {"image_size": 16, "sizes": (0.4,), "max_objects": 2, "clip_length": 3, "num_frames": 8}
    data = VideoScenes(**scenes, num_train=4, num_val=2, num_test=2)
    run = Run(UNCONDITIONAL, data, steps=2, batch_size=2, eval_every=2, eval_images=2, protocol="savi")
    api.train(run, tmp_path / "whole")
    api.train(run, tmp_path / "halves", stop_after=1)
    answer = api.train(run, tmp_path / "halves")
    assert answer["step"] == 2
    whole, halves = (api.load(tmp_path / name)[1].state_dict() for name in ("whole", "halves"))
    assert all((whole[key] == halves[key]).all() for key in whole)
    records = api.evaluate(tmp_path / "whole", protocols=["savi", "savi-frames"], lengths=[1, 8])
    assert [record["protocol"] for record in records] == ["savi@1", "savi@8", "savi-frames@1", "savi-frames@8"]
    assert [len(record["per_image"]["fg_ari"]) for record in records] == [2, 2, 2, 16]
    assert (tmp_path / "whole" / "eval" / "video_scenes_plain-test-savi@8.json").is_file()
    assert "Video 0" in (tmp_path / "whole" / "report.html").read_text()
    with pytest.raises(UserError, match="SAVi takes videos, the task properties is one for images"):
        api.evaluate(tmp_path / "whole", task="properties")
    drawn = Image.open(tmp_path / "whole" / "eval" / "lengths-video_scenes_plain-test.png")
    assert drawn.size == (2 * 4 * 356, 2 * (200 + 40 + 36))  # four metrics, lines of two protocols
    page = write_report(tmp_path / "whole").read_text()
    assert "Scores against the length of videos" in page
    assert "FG-ARI by frames. savi-frames ends at" in page


def test_training_on_boxes_and_flow():
    data = VideoScenes(image_size=16, sizes=(0.4,), max_objects=2, clip_length=3, extras=("backward_flow",)).open()
    method = TINY.build()
    terms = method.loss(to_batch(data.__getitems__([0, 1])), 0)
    terms["flow"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_at_first_every_frame_is_a_video_of_its_own():
    """Frames of one batch, each with its own boxes: until `short_clips` ends nothing is carried, then all is."""
    data = VideoScenes(image_size=16, sizes=(0.4,), max_objects=2, clip_length=3, appearing=0.0).open()
    batch = to_batch(data.__getitems__([0, 1]))
    torch.manual_seed(0)
    method = replace(TINY, targets=("rgb",), short_clips=((5, 1),)).build()
    terms = [method.loss(batch, step)["rgb"] for step in (4, 5)]
    alone = []
    for video in range(2):
        for t in range(3):
            frame = {name: batch[name][video : video + 1, t : t + 1] for name in ("video", "boxes")}
            alone.append(method.loss(frame, 5)["rgb"])
    torch.testing.assert_close(terms[0], torch.stack(alone).mean())
    carried = replace(method.config, short_clips=()).build()
    carried.load_state_dict(method.state_dict())
    torch.testing.assert_close(terms[1], carried.loss(batch, 0)["rgb"])
    assert not torch.isclose(terms[1], 3 * terms[0], rtol=1e-3)
    terms[0].backward()
    assert all(p.grad is None for p in method.video_slots.predictor.parameters())
    assert method.config.skips_weights
    assert replace(TINY, carry=False).skips_weights
    assert not TINY.skips_weights


def test_clips_grow_in_training():
    """Clips of four: single frames until step 2, pairs until step 5, then whole, as if cut by hand."""
    data = VideoScenes(image_size=16, sizes=(0.4,), max_objects=2, clip_length=4, appearing=0.0).open()
    batch = to_batch(data.__getitems__([0, 1]))
    torch.manual_seed(0)
    grown = replace(TINY, targets=("rgb",), short_clips=((2, 1), (5, 2))).build()
    whole = replace(grown.config, short_clips=()).build()
    whole.load_state_dict(grown.state_dict())
    for step, frames in ((0, 1), (1, 1), (2, 2), (4, 2), (5, 4)):
        pieces = [frames_of(batch, start, start + frames) for start in range(0, 4, frames)]
        by_hand = torch.stack([whole.loss(piece, step)["rgb"] for piece in pieces]).mean()
        torch.testing.assert_close(grown.loss(batch, step)["rgb"], by_hand)


def test_pieces_that_do_not_share_a_clip_out_evenly():
    batch = {"video": video(t=4), "scene_objects": torch.tensor([1, 2])}
    assert cut_clips(batch, ((5, 2),), 0)["scene_objects"].tolist() == [1, 1, 2, 2]
    for frames in (3, 8, 0):
        with pytest.raises(UserError, match=f"pieces of {frames} frames, but clips have 4"):
            cut_clips(batch, ((5, frames),), 4)
        assert cut_clips(batch, ((5, frames),), 5)["video"].shape[:2] == (2, 4)


def test_weights_of_an_earlier_run():
    """Slot Attention on single frames, then SAVi: the same weights, and what does not fit is told in a sentence."""
    frames = replace(TINY, carry=False).build()
    config = replace(TINY, start_from="runs/frames")
    method = config.build()
    assert not torch.equal(method.encoder.backbone.convs[0].weight, frames.encoder.backbone.convs[0].weight)
    method.prepare({"runs/frames": frames}.__getitem__)
    for name, value in frames.state_dict().items():
        assert torch.equal(method.state_dict()[name], value)
    TINY.build().prepare({}.__getitem__)  # asks for nothing
    with pytest.raises(UserError, match="runs/frames and this one differ in"):
        config.build().prepare(lambda folder: replace(TINY, slot_dim=16).build())
    with pytest.raises(UserError, match="a run of Linear; give a run of SAVi"):
        config.build().prepare(lambda folder: torch.nn.Linear(1, 1))


def test_a_predictor_may_normalise_inside_its_branches():
    """Pre-norm: with both output layers zero the slots pass unchanged; post-norm gives them mean 0."""
    for norm in ("pre", "post"):
        predictor = replace(TINY, predictor_norm=norm).build().video_slots.predictor
        with torch.no_grad():
            for layer in (predictor.blocks[0].attention.to_out, predictor.blocks[0].mlp[-1]):
                layer.weight.zero_()
                layer.bias.zero_()
        slots = torch.randn(2, 3, 8) + 4
        out = predictor(slots)
        if norm == "pre":
            torch.testing.assert_close(out, slots)
        else:
            torch.testing.assert_close(out.mean(-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
