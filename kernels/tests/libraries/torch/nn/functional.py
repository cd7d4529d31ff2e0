from torch import Tensor


def linear(a, weights):
    assert a.shape[-1] == weights.shape[-1], (a.shape, weights.shape)
    return Tensor(a.shape[0], weights.shape[0])


def scaled_dot_product_attention(q, k, v, is_causal=False, enable_gqa=False):
    assert k.shape == v.shape and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    assert enable_gqa == (q.shape[1] != k.shape[1])
    return q
