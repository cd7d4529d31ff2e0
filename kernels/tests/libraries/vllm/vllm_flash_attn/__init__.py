def flash_attn_varlen_func(q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, seqused_k, block_table, causal):
    sequences, pages = block_table.shape
    assert q.shape[0] == sequences and k.shape[:2] == (sequences * pages, 16) and cu_seqlens_q.shape == (sequences + 1,)
    return q
