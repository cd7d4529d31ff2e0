__version__ = "2.stub"


def flash_attn_func(q, k, v, causal):
    assert causal and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3] and k.shape == v.shape
    return q


def flash_attn_with_kvcache(q, k, v, cache_seqlens, block_table, causal):
    sequences, pages = block_table.shape
    assert q.shape[:2] == (sequences, 1) and k.shape[:2] == (sequences * pages, 256) and cache_seqlens.shape == (sequences,)
    return q
