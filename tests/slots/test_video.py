"""Slots through time: pieces equal the whole, a still video equals iterations of the image model, permutations."""

import pytest
import torch

from slotworks.slots import (
    IdentityPredictor,
    SlotAttention,
    TransformerPredictor,
    VideoSlotAttention,
    map_over_time,
)
from slotworks.types import DecoderOutput, SlotOutput


def parts(**options):
    torch.manual_seed(0)
    corrector = SlotAttention(6, 8, options.pop("num_iterations", 2), mlp_dim=None)
    predictor = TransformerPredictor(8, mlp_dim=16) if options.pop("predict", True) else IdentityPredictor()
    return VideoSlotAttention(corrector, predictor, **options).double()


def inputs(t=7):
    torch.manual_seed(1)
    return torch.randn(2, t, 10, 6).double(), torch.randn(2, 3, 8).double()


@pytest.mark.parametrize("cuts", [[3, 7], [1, 2, 7], [6, 7]])
def test_pieces_equal_the_whole(cuts):
    features, slots = inputs()
    video = parts(first_iterations=3)
    whole, state, found = video(features, slots), slots, []
    for start, stop in zip([0, *cuts], cuts, strict=False):
        out = video(features[:, start:stop], state, first=start == 0)
        state = out.state
        found.append(out)
    torch.testing.assert_close(torch.cat([out.slots for out in found], dim=1), whole.slots)
    torch.testing.assert_close(torch.cat([out.attn for out in found], dim=1), whole.attn)
    torch.testing.assert_close(state, whole.state)


def test_a_still_video_is_iterations_of_the_image_model():
    """Identity predictor, one iteration a frame, no MLP: frame t has what t + 1 iterations find in the image."""
    features, slots = inputs(t=1)
    video = parts(num_iterations=1, predict=False)
    out = video(features.expand(-1, 5, -1, -1), slots)
    for t in range(5):
        image = video.corrector(features[:, 0], slots, num_iterations=t + 1)
        torch.testing.assert_close(out.slots[:, t], image.slots)
        torch.testing.assert_close(out.attn[:, t], image.attn)


def test_without_carrying_every_frame_is_an_image():
    features, slots = inputs()
    video = parts(carry=False)
    out = video(features, slots)
    for t in range(7):
        torch.testing.assert_close(out.slots[:, t], video.corrector(features[:, t], slots).slots)
    assert out.state is slots


def test_at_the_end_of_a_video_nothing_is_predicted():
    """Six predictions between seven frames, none after the last; slots are the same."""
    features, slots = inputs()
    video = parts()
    whole, calls = video(features, slots), []
    video.predictor.register_forward_hook(lambda *_: calls.append(1))
    out = video(features, slots, ends=True)
    assert len(calls) == 6
    assert out.state is None
    assert torch.equal(out.slots, whole.slots)


def test_the_first_frame_is_the_image_model():
    features, slots = inputs()
    video = parts()
    torch.testing.assert_close(video(features, slots).slots[:, 0], video.corrector(features[:, 0], slots).slots)


def test_permuting_slots_permutes_tracks():
    features, slots = inputs()
    video, order = parts(), torch.tensor([2, 0, 1])
    out, permuted = video(features, slots), video(features, slots[:, order])
    torch.testing.assert_close(permuted.slots, out.slots[:, :, order])
    torch.testing.assert_close(permuted.attn, out.attn[:, :, order])
    torch.testing.assert_close(permuted.state, out.state[:, order])


def test_the_future_changes_nothing():
    features, slots = inputs()
    other = features.clone()
    other[:, 4:] = features[:, 4:].roll(1, dims=-1)
    video = parts()
    torch.testing.assert_close(video(features, slots).slots[:, :4], video(other, slots).slots[:, :4])
    assert not torch.allclose(video(features, slots).slots[:, 4:], video(other, slots).slots[:, 4:])


def test_attention_and_iterations():
    features, slots = inputs()
    out = parts(first_iterations=3)(features, slots)
    torch.testing.assert_close(out.attn.sum(dim=2), torch.ones(2, 7, 10).double())
    assert [step.shape for step in out.attn_steps] == [(2, 7, 3, 10)] * 2  # those that all frames have
    torch.testing.assert_close(out.attn_steps[-1], out.attn)
    more = parts()(features, slots, num_iterations=4)
    assert len(more.attn_steps) == 4


def test_gradients_reach_the_first_frame():
    features, slots = inputs()
    features.requires_grad_()
    parts()(features, slots).slots[:, -1].sum().backward()
    assert (features.grad.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_no_frames():
    features, slots = inputs(t=0)
    with pytest.raises(ValueError, match="This video has no frames"):
        parts()(features, slots)


def test_map_over_time():
    video = torch.randn(2, 5, 3, 4, 4)
    torch.testing.assert_close(map_over_time(lambda x: x.mean(dim=(1, 2, 3)), video), video.mean(dim=(2, 3, 4)))
    out = map_over_time(lambda x, y: (x + y, x - y), video, video)
    torch.testing.assert_close(out[0], 2 * video)
    decoded = map_over_time(lambda x: DecoderOutput(x, x[:, :2]), video)
    assert (decoded.recon.shape, decoded.masks.shape, decoded.parts) == ((2, 5, 3, 4, 4), (2, 5, 2, 4, 4), None)
    slots = map_over_time(lambda x: SlotOutput(x[:, :, 0], x[:, :, 1], (x[:, :, 1],), (2, 2)), video)
    assert slots.grid == (2, 2)
    torch.testing.assert_close(slots.attn_steps[0], video[:, :, :, 1])
