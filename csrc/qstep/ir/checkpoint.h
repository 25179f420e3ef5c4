#pragma once
// The integer checkpoint: a graph as a safetensors file. docs/format.md describes every byte.
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "qstep/ir/graph.h"

namespace qstep::ir {

/// The format that is written, and the newest that is read. All older ones are read too.
inline constexpr int32_t format_version = 2;

/// Throws Error, as validate does, for a graph that is not valid.
std::vector<uint8_t> to_bytes(const Graph& graph);

/// The validated graph. Throws Error naming the field for anything that to_bytes would not have written.
Graph from_bytes(std::span<const uint8_t> bytes);

/// Writes the file atomically: it is either complete or as it was before. Throws Error naming the path and the reason.
void save(const Graph& graph, const std::filesystem::path& path);

/// Throws Error naming the path and the field or the system's reason.
Graph load(const std::filesystem::path& path);

}  // namespace qstep::ir
