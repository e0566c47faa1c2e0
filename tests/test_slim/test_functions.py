"""Normalisation of the groups of a batch."""

import pytest
import torch

from mmpse.slim.functions import ChunkedBatchNorm

pytestmark = pytest.mark.usefixtures('device')


@pytest.mark.parametrize(
    ('dtype', 'tolerance'),
    [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 1e-2)],
)
@pytest.mark.parametrize('size', [1, 7])
def test_chunks_are_normalised_as_batches_of_their_own(dtype, tolerance, size):
    """Against autograd through PyTorch's own normalisation, the activations far from zero."""
    x, grad = (torch.randn(8, 6, size, size) for _ in range(2))
    x = (x + 10).to(dtype, memory_format=torch.channels_last).requires_grad_()
    grad = grad.to(dtype, memory_format=torch.channels_last)
    weight, bias = (torch.rand(2, 6).to(torch.promote_types(dtype, torch.float32)) for _ in '12')
    weight[1, 3:] = bias[1, 3:] = 0  # dropped channels
    affine = weight.requires_grad_(), bias.requires_grad_()
    alone = [
        torch.nn.functional.batch_norm(part, None, None, w, b, training=True)
        for part, w, b in zip(x.chunk(2), *affine)
    ]
    expected = torch.autograd.grad(torch.cat(alone), (x, *affine), grad)
    output = ChunkedBatchNorm.apply(x, *affine, 1e-5)
    torch.testing.assert_close(output, torch.cat(alone))
    for value, target in zip(torch.autograd.grad(output, (x, *affine), grad), expected):
        error = (value - target).double().norm() / target.double().norm().clamp_min(1e-3)
        assert error < tolerance
    assert not output[4:, 3:].any()
