"""What a model is told of a prompt, and that it hears it."""

import dataclasses

import pytest
import torch
from torch import nn

from canon.errors import InputError
from weightflow.models import ModelConfig
from weightflow.models.conditioning import CONDITIONINGS, prior_attention
from weightflow.models.per_token_linear import OwnLinear
from weightflow.models.text_standardization import centre_words
from weightflow.models.transformer import WeightTransformer
from weightflow.networks.architectures import Architecture
from weightflow.representation.layout import make_layout
from weightflow.text import PromptBatch

HEAD = Architecture("linear_head", {"inputs": 6}, (6,), 4)
PRESENT = torch.tensor([[True, True, True, False], [True] * 4])
CONFIG = ModelConfig(width=16, depth=2, heads=4)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def model_of(config, generator):
    model = WeightTransformer(make_layout(HEAD, "rows"), 5, HEAD.classes, config)
    for parameter in model.parameters():  # at the start the output layers are zero
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def inputs(generator):
    layout = make_layout(HEAD, "rows")
    x_t = torch.randn(2, layout.tokens, layout.width, generator=generator)
    return x_t, torch.tensor([0.2, 0.7]), torch.randn(2, 4, 5, generator=generator)


def test_prior_attention_weighs_each_class_by_its_cosine_to_the_mean():
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [9.0, 9.0]]])
    told, given = prior_attention(vectors, PRESENT[:1])
    # the mean is (2, 1) / 3
    weights = torch.tensor([2 / 5**0.5, 1 / 5**0.5, 2 / 5**0.5]).softmax(0)
    torch.testing.assert_close(told[0, 0], torch.stack([weights[0] + weights[2], weights[1]]))
    assert given.tolist() == [[True]]


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_an_empty_prompt_is_told_and_has_finite_gradients(name, generator):
    vectors = torch.randn(2, 4, 5, generator=generator, requires_grad=True)
    told, given = CONDITIONINGS[name].tell(vectors, torch.zeros_like(PRESENT))
    assert told.shape[1] == given.shape[1] == CONDITIONINGS[name].tokens(4)
    assert told.isfinite().all()
    assert not given.any()
    told.sum().backward()
    assert vectors.grad is None or vectors.grad.isfinite().all()


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("name", CONDITIONINGS)
def test_a_model_hears_words_and_their_order_as_its_conditioning_says(name, modulated, generator):
    config = dataclasses.replace(CONFIG, conditioning=name, modulated=modulated)
    model, (x_t, t, text) = model_of(config, generator), inputs(generator)
    before = model(x_t, t, text, PRESENT)
    other = text.clone()
    other[:, 0] = 0.5
    assert torch.allclose(model(x_t, t, other, PRESENT), before) == (name == "none")
    swapped = text[:, [1, 0, 2, 3]]
    unordered = torch.allclose(model(x_t, t, swapped, PRESENT), before, atol=1e-5)
    assert unordered == (name != "classes")
    padded = text.clone()
    padded[0, 3] = 7.0  # a class that is not there says nothing
    torch.testing.assert_close(model(x_t, t, padded, PRESENT), before)
    assert not torch.allclose(model(x_t, t + 0.1, text, PRESENT), before)


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_a_centred_model_does_not_hear_what_all_prompts_have_in_common(name, generator):
    config = dataclasses.replace(CONFIG, conditioning=name, centred=True)
    model, (x_t, t, text) = model_of(config, generator), inputs(generator)
    centre_words(model, CONDITIONINGS[name], PromptBatch(text, PRESENT))
    before = model(x_t, t, text, PRESENT)
    # one part that all words share, and one size: prior attention alone hears the former, through its weights
    other = 3.0 * text + (0.0 if name == "prior_attention" else torch.arange(5.0))
    far = model(x_t, t, other, PRESENT)
    assert torch.allclose(far, before) == (name == "none")
    centre_words(model, CONDITIONINGS[name], PromptBatch(other, PRESENT))
    torch.testing.assert_close(model(x_t, t, other, PRESENT), before, rtol=1e-4, atol=1e-4)


def test_text2weight_has_34_tokens():
    adapter = Architecture("adapter", {"inputs": 512, "hidden": 16}, (512,), 31)
    layout = make_layout(adapter, "blocks", 576)
    config = dataclasses.replace(CONFIG, conditioning="prior_attention", modulated=False)
    model, lengths = WeightTransformer(layout, 5, 31, config), []
    model.layers[0].register_forward_pre_hook(lambda layer, given: lengths.append(given[0].shape[1]))
    present = torch.ones(1, 31, dtype=torch.bool)
    model(torch.zeros(1, layout.tokens, layout.width), torch.zeros(1), torch.ones(1, 31, 5), present)
    assert lengths == [34]
    assert sum(block.tokens * block.width for block in layout.blocks) >= adapter.parameters == 16912


def test_tokens_with_maps_of_their_own_do_not_share_them(generator):
    """Two tokens of one block with the same entries: shared maps see no difference before positions do."""
    x = torch.randn(3, 1, 7, generator=generator).expand(-1, 4, -1)
    own = OwnLinear(4, 7, 5)
    each = [nn.functional.linear(x[:, i], own.weight[i].T, own.bias[i, 0]) for i in range(4)]
    torch.testing.assert_close(own(x), torch.stack(each, dim=1))
    assert not torch.allclose(own(x)[:, 0], own(x)[:, 1])
    model = model_of(dataclasses.replace(CONFIG, own_maps=True), generator)
    x_t, t, text = inputs(generator)
    assert model(x_t, t, text, PRESENT).shape == x_t.shape


def test_a_width_that_heads_cannot_share_is_explained():
    with pytest.raises(InputError, match="model.width 10 cannot be shared among model.heads 4"):
        ModelConfig(width=10, heads=4)
