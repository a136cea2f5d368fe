"""Rotary parameters of each kind of scaling, for heads of 16 dimensions."""

from __future__ import annotations

Parameters = dict[str, object]

LINEAR: Parameters = {"rope_type": "linear", "factor": 4.0}
DYNAMIC: Parameters = {"rope_type": "dynamic", "factor": 3.0}
YARN: Parameters = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3: Parameters = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE: Parameters = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 20 for i in range(8)],
    "long_factor": [1.0 + i for i in range(8)],
    "original_max_position_embeddings": 64,
}
