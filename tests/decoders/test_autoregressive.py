"""The autoregressive decoder. That it is DINOSAUR's and SPOT's: `test_transfer_dinosaur.py`."""

import pytest
import torch

from slotworks.decoders import AutoregressiveDecoder
from slotworks.nn.orders import patch_orders

GRID = (3, 4)


def build(**changed):
    torch.manual_seed(0)
    sizes = {"slot_dim": 6, "feature_dim": 12, "grid": GRID, "num_blocks": 2, "num_heads": 3}
    return AutoregressiveDecoder(**(sizes | changed)).double()


def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 5, 6).double(), torch.randn(2, 12, 12).double()


@pytest.mark.parametrize(("num_orders", "expected"), [(9, 9), (1, 1)])
def test_parameters_of_spot_on_coco(num_orders, expected):
    """By hand: begin tokens, two projections with LayerNorm, four blocks of width 768 without biases in attention."""
    decoder = AutoregressiveDecoder(256, 768, (14, 14), num_orders=num_orders)
    block = 8 * 768**2 + 3 * 2 * 768 + 2 * 4 * 768**2 + 5 * 768
    around = 768 * 768 + 2 * 768 + 256 * 768 + 2 * 768 + 2 * 768
    assert sum(p.numel() for p in decoder.parameters()) == expected * 768 + around + 4 * block


@pytest.mark.parametrize("order", [0, 2, 5, 8])
def test_a_patch_is_predicted_from_those_read_before_it(order):
    """Changing patch j changes the prediction of the patches read after j, and of no other, not even of j."""
    decoder, (slots, features) = build(), inputs()
    read = patch_orders(*GRID)[order].tolist()
    before = decoder(slots, features, order=order)
    for place in (0, 5, 11):
        changed = features.clone()
        changed[:, read[place]] += 1
        after = decoder(slots, changed, order=order)
        for was, now in ((before.recon, after.recon), (before.masks, after.masks)):
            moved = (was - now).abs().amax(dim=(0, 1)).flatten() > 1e-9
            assert moved.nonzero()[:, 0].tolist() == sorted(read[place + 1 :])


def test_what_is_read_in_one_order_comes_back_in_row_major_order():
    """Turning the features by 180 degrees and reading them from the other end turns the prediction."""
    decoder, (slots, features) = build(), inputs()
    decoder.begin.data[5] = decoder.begin.data[0]
    forwards, backwards = decoder(slots, features, order=0).recon, decoder(slots, features.flip(1), order=5).recon
    torch.testing.assert_close(forwards, backwards.flip(2, 3), rtol=1e-12, atol=1e-12)


def test_each_order_has_its_own_begin_token():
    decoder, (slots, features) = build(), inputs()
    first = [int(order[0]) for order in patch_orders(*GRID)]
    before = [decoder(slots, features, order=i).recon.flatten(2)[..., first[i]] for i in range(9)]
    with torch.no_grad():
        decoder.begin[6] += torch.randn(12).double()
    after = [decoder(slots, features, order=i).recon.flatten(2)[..., first[i]] for i in range(9)]
    assert [bool((a - b).abs().max() > 1e-9) for a, b in zip(before, after, strict=True)] == [i == 6 for i in range(9)]


def test_permuted_slots_permute_the_masks():
    decoder, (slots, features) = build(), inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    out, permuted = decoder(slots, features), decoder(slots[:, order], features)
    torch.testing.assert_close(permuted.masks, out.masks[:, order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(permuted.recon, out.recon, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, *GRID).double())


def test_ensemble_is_the_mean_of_nine_passes():
    decoder, (slots, features) = build(), inputs()
    passes = [decoder(slots, features, order=i) for i in range(9)]
    out = decoder.ensemble(slots, features)
    torch.testing.assert_close(out.recon, sum(p.recon for p in passes) / 9)
    torch.testing.assert_close(out.masks, sum(p.masks for p in passes) / 9)
    single = build(num_orders=1)
    torch.testing.assert_close(single.ensemble(slots, features).masks, single(slots, features).masks)


def test_no_gradient_reaches_the_target():
    decoder, (slots, features) = build(), inputs()
    features.requires_grad_()
    slots.requires_grad_()
    decoder(slots, features).recon.sum().backward()
    assert features.grad is None
    assert (slots.grad.abs().amax(dim=2) > 0).all()


def test_masks_stay_float32_in_mixed_precision():
    slots, features = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        out = build().float()(slots.float(), features.float())
    assert out.masks.dtype == out.recon.dtype == torch.float32
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, *GRID))


def test_the_orders_are_not_weights():
    assert "orders" not in build().state_dict()


def test_refuses():
    slots, features = inputs()
    with pytest.raises(ValueError, match=r"features has 11 patches; a grid of \(3, 4\) has 12"):
        build()(slots, features[:, :11])
    with pytest.raises(ValueError, match="num_orders is 3; give 1 for row by row only, or 9"):
        build(num_orders=3)
