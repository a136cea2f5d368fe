// Paged attention on the CPU: checks, tiles, threads.
#pragma once

#include "attention.h"

namespace pdrt {

// Writes a.out. A query's bits depend on itself and on the KV that it sees alone. KV slots beyond a
// row's seq_len are never read. Throws std::invalid_argument when lengths or page ids do not fit
// together, before anything is written.
void cpu_paged_attention(const Attention& a);

}  // namespace pdrt
