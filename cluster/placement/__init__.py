"""Which shard holds which expert: made from load, judged by balance and by what failures cost."""
