class BatchMLAPagedAttentionWrapper:
    def __init__(self, workspace, backend):
        pass

    def plan(self, q_starts, starts, pages, lengths, heads, latent, turned, page, causal, scale, q_type, kv_type):
        assert q_starts.shape == starts.shape == (lengths.shape[0] + 1,)
        self.pages, self.page = pages.shape[0], page

    def run(self, q, turned, cache, keys):
        assert q.shape[2] == cache.shape[2] == 512 and turned.shape[2] == keys.shape[2] == 64
        assert cache.shape[:2] == keys.shape[:2] == (self.pages, self.page)
        return q
