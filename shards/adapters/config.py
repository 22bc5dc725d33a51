"""``adapter_config.json`` of a LoRA adapter in the PEFT format.

Source: huggingface/peft, docs/source/developer_guides/checkpoint.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shards.checkpoint.fields import Fields, read_json

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_T = TypeVar("_T")
_MUST_BE_EMPTY = (
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
)
_MAX_PATTERN_CHARS = 200
_PLAIN_PATTERN = re.compile(r"[\w.]+")  # a name's end: no expression that could take for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Rank and weight of every module's change."""

    rank: int
    alpha: float
    is_rank_stabilised: (
        bool  # rsLoRA, arXiv:2312.03732: alpha / sqrt(rank) in place of alpha / rank
    )
    rank_by_module: Mapping[str, int]  # by the end of a module's name
    alpha_by_module: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        """Rank of a module's change; ``module`` is its full name."""
        return _by_end(self.rank_by_module, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What B·A of a module is multiplied by."""
        rank = self.rank_of(module)
        alpha = _by_end(self.alpha_by_module, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def read_lora_config(directory: Path) -> LoraConfig:
    """Read the file and refuse whatever asks for more than plain LoRA.

    Raises:
        CheckpointError: Names the key, what was expected and what was found.
    """
    fields = read_json(directory / CONFIG_NAME)
    fields.require("peft_type", "LORA", may_miss=False)
    fields.require("bias", "none")
    for key in ("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"):
        fields.require(key, only=False)
    for key in _MUST_BE_EMPTY:
        if fields.values.get(key) not in (None, [], {}):
            raise fields.error(key, "as null: only changes of linear modules can be served")
    return LoraConfig(
        rank=fields.count("r", 8),
        alpha=fields.number("lora_alpha", 8.0, can_be_zero=True),
        is_rank_stabilised=fields.flag("use_rslora", default=False),
        rank_by_module={key: part.count(key) for key, part in _patterns(fields, "rank_pattern")},
        alpha_by_module={
            key: part.number(key, can_be_zero=True)
            for key, part in _patterns(fields, "alpha_pattern")
        },
    )


def _patterns(fields: Fields, key: str) -> list[tuple[str, Fields]]:
    if not fields.has(key):
        return []
    section = fields.section(key)
    for pattern in section.values:
        if len(pattern) > _MAX_PATTERN_CHARS or not _PLAIN_PATTERN.fullmatch(pattern):
            raise fields.error(key, "with plain ends of module names as keys")
    return [(pattern, section) for pattern in section.values]


def _by_end(value_by_end: Mapping[str, _T], module: str, default: _T) -> _T:
    for end, value in value_by_end.items():
        if module == end or module.endswith(f".{end}"):
            return value
    return default
