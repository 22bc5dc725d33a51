"""Rows from GPU to GPU by NCCL, one communicator of two for every (gateway, shard) link."""
