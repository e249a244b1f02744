"""The token decoder. That it is SLATE's and STEVE's: `tests/methods/test_transfer_slate.py`."""

import math

import pytest
import torch

from slotworks.decoders import TokenDecoder
from slotworks.decoders.tokens import pick

VOCAB, TOKENS = 20, 12


def build(**changed):
    torch.manual_seed(0)
    sizes = {"slot_dim": 6, "vocab_size": VOCAB, "num_tokens": TOKENS, "dim": 16, "num_blocks": 2, "num_heads": 2}
    decoder = TokenDecoder(**(sizes | changed)).eval()
    torch.nn.init.normal_(decoder.head.weight)  # so that words are not all alike
    return decoder


def inputs(batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, 4, 6), torch.randint(VOCAB, (batch, TOKENS))


def uniforms(count):
    return (torch.arange(count) + 0.5) / count


@pytest.mark.parametrize(("blocks", "count"), [(4, 2_368_128), (8, 4_735_872)])
def test_parameters_of_the_originals(blocks, count):
    """The stacks of SLATE (4) and STEVE (8) with their last norm; tables and projections stand apart."""
    with torch.device("meta"):
        decoder = TokenDecoder(192, 1024, 256, num_blocks=blocks)
    parts = {name: p.numel() for name, p in decoder.named_parameters() if not name.startswith("transformer.")}
    assert sum(p.numel() for p in decoder.parameters()) - sum(parts.values()) == count
    assert parts == {
        "words.weight": 1024 * 192,
        "begin": 192,
        "positions": 257 * 192,
        "project_slots.weight": 192 * 192,
        "head.weight": 1024 * 192,
    }


@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_token_changes_only_the_predictions_after_it(place):
    decoder, (slots, tokens) = build().double(), inputs()
    changed = tokens.clone()
    changed[:, place] = (changed[:, place] + 1) % VOCAB
    before, after = (decoder(slots.double(), decoder.embed(t)) for t in (tokens, changed))
    moved = (before - after).abs().amax(dim=(0, 2)) > 1e-12
    assert moved.tolist() == [i > place for i in range(TOKENS)]


def test_the_order_of_slots_means_nothing():
    decoder, (slots, tokens) = build().double(), inputs()
    embedded = decoder.embed(tokens)
    one, other = (decoder(s.double(), embedded) for s in (slots, slots[:, [2, 0, 3, 1]]))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_loss_is_the_sum_over_tokens_and_the_mean_over_images():
    decoder, (slots, tokens) = build(), inputs(3)
    embedded = decoder.embed(tokens)
    log_probs = decoder(slots, embedded).log_softmax(dim=-1)
    expected = -sum(log_probs[b, i, tokens[b, i]] for b in range(3) for i in range(TOKENS)) / 3
    torch.testing.assert_close(decoder.loss(slots, embedded, tokens), expected)
    torch.nn.init.zeros_(decoder.head.weight)
    assert decoder.loss(slots, embedded, tokens).item() == pytest.approx(TOKENS * math.log(VOCAB))


SAMPLING = [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 5}, {"temperature": 1.3, "top_p": 0.8}]


@pytest.mark.parametrize("options", SAMPLING)
@pytest.mark.parametrize("batch", [1, 3])
def test_kept_keys_and_values_give_the_same_tokens(options, batch):
    decoder, (slots, _) = build(), inputs(batch)
    made = [
        decoder.generate(slots, **options, generator=torch.Generator().manual_seed(3), cache=cache)
        for cache in (True, False)
    ]
    assert made[0].shape == (batch, TOKENS)
    assert torch.equal(*made)
    assert len(made[0].unique()) > 2


def test_kept_keys_and_values_give_the_same_logits():
    """In float32 to 1e-5, for a sequence of 256 tokens."""
    decoder, (slots, _) = build(num_tokens=256, dim=64, num_heads=4), inputs()
    tokens = torch.randint(VOCAB, (2, 256))
    with torch.no_grad():
        embedded = decoder.embed(tokens)
        expected = decoder(slots, embedded)
        memory = decoder.project_slots(slots)
        cache = decoder.transformer.start(memory, 256)
        steps = [decoder.transformer.step(embedded[:, i : i + 1], cache) for i in range(256)]
    scale = expected.abs().max()
    torch.testing.assert_close(decoder.head(torch.cat(steps, dim=1)) / scale, expected / scale, rtol=0, atol=1e-5)


def test_greedy_is_teacher_forcing_on_its_own_words():
    decoder, (slots, _) = build(), inputs()
    tokens = decoder.generate(slots)
    assert torch.equal(decoder(slots, decoder.embed(tokens)).argmax(dim=-1), tokens)


def test_images_of_a_batch_do_not_touch_each_other():
    decoder, (slots, _) = build(), inputs(3)
    together = decoder.generate(slots)
    assert torch.equal(together, torch.cat([decoder.generate(one[None]) for one in slots]))


def test_random_numbers_do_not_depend_on_the_slots():
    """A model that ignores slots writes the same from the same seed, however many slots there are."""
    decoder, (slots, _) = build(), inputs()
    torch.nn.init.zeros_(decoder.project_slots.weight)
    made = [
        decoder.generate(s, temperature=1.0, generator=torch.Generator().manual_seed(0)) for s in (slots, slots[:, :1])
    ]
    assert torch.equal(*made)
    assert not torch.equal(made[0][0], made[0][1])  # but images of a batch have numbers of their own


LOGITS = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.39}, [0, 1, 0, 0]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 2, "top_p": 0.5}, [0, 1, 0, 0]),  # 4 / 7 of what the first two have
        ({"temperature": 0.0}, [0, 1, 0, 0]),
    ],
)
def test_pick(options, expected):
    """Words are drawn as often as they should be: `uniform` runs through [0, 1) evenly."""
    count = 12_600
    words = pick(LOGITS.expand(count, 4), uniforms(count), **options)
    found = torch.bincount(words, minlength=4) / count
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), atol=2e-4, rtol=0)


def test_pick_never_takes_a_word_that_was_cut():
    """At the largest number below one, where a product may be rounded up."""
    torch.manual_seed(0)
    logits, almost = torch.randn(500, 50), torch.full((500,), 1 - 2**-24)
    words = pick(logits, almost, top_k=3)
    assert ((logits > logits.gather(1, words[:, None])).sum(dim=1) < 3).all()


def test_hidden_words_keep_their_places():
    """All words hidden but the begin token: predictions depend on slots and places alone; only in training."""
    decoder, (slots, tokens) = build(word_dropout=0.999999, dropout=0.0), inputs()
    other = (tokens + 3) % VOCAB
    decoder.train()
    with torch.no_grad():
        one, two = (decoder(slots, decoder.embed(t)) for t in (tokens, other))
    torch.testing.assert_close(one, two)
    assert not torch.allclose(one[:, 3], one[:, 4])
    decoder.eval()
    assert not torch.allclose(decoder(slots, decoder.embed(tokens)), decoder(slots, decoder.embed(other)))


@pytest.mark.parametrize("begin", ["word", "vector"])
def test_initial_weights(begin):
    torch.manual_seed(0)
    decoder = TokenDecoder(192, 1024, 256, begin=begin)
    assert decoder.words.weight.std().item() == pytest.approx(1, rel=0.02)
    assert decoder.positions.std().item() == pytest.approx(0.88, rel=0.02)  # normal, cut off at two
    assert decoder.positions.abs().max() <= 2
    if begin == "vector":  # STEVE: Glorot of 1 x 1 x 192 as torch reads it
        assert decoder.begin.abs().max().item() == pytest.approx(0.125, rel=0.05)
    else:
        assert decoder.begin.std().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; 0 takes the most probable word"),
        ({"top_k": 0}, "top_k is 0; give a number of words, 1 or more"),
        ({"top_p": 1.5}, r"top_p is 1.5; give a probability above 0 and up to 1"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build().generate(inputs()[0], **options)
    with pytest.raises(ValueError, match=r"word_dropout is 1\.0; give a share"):
        build(word_dropout=1.0)
