#pragma once
// Whole files, read with care and written atomically.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace qstep::ir {

struct FileContent {
  std::unique_ptr<uint8_t[]> data;
  size_t size = 0;
  std::span<const uint8_t> bytes() const { return {data.get(), size}; }
};

/// The bytes of a regular file. Throws Error naming the path and the reason; larger files than `largest` are refused
/// unread.
FileContent read_file(const std::filesystem::path& path, uint64_t largest);

/// Replaces `path` by `bytes`, or leaves it as it was: a temporary file beside it is written, synced and renamed.
/// Throws Error naming the path, the step and the system's reason; no temporary file stays behind.
void write_file_atomically(const std::filesystem::path& path, std::span<const uint8_t> bytes);

}  // namespace qstep::ir
